"""From recorded runs to an answer: python src/report.py sweep=NAME (see --help)."""

from paredown.report.cli import main

if __name__ == "__main__":
    main()
