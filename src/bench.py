"""How fast a deployed network really is: python src/bench.py run=ID (see --help)."""

from paredown.core import interrupt

interrupt.install()

from paredown.cli.bench import main  # noqa: E402 (seconds, in which Ctrl-C is one line already)

if __name__ == "__main__":
    main()
