"""One experiment: python src/run.py method=ssc model=resnet32 sparsity=0.95 (see --help)."""

from paredown.core import interrupt

interrupt.install()

from paredown.cli.run import main  # noqa: E402 (seconds, in which Ctrl-C is one line already)

if __name__ == "__main__":
    main()
