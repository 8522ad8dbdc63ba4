"""From recorded runs to an answer: python src/report.py sweep=NAME (see --help)."""

from paredown.core import interrupt

interrupt.install()

from paredown.cli.report import main  # noqa: E402 (seconds, in which Ctrl-C is one line already)

if __name__ == "__main__":
    main()
