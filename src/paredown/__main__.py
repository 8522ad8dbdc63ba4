"""The command `paredown`, also `python -m paredown`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from paredown.core import interrupt

    interrupt.install()
    from paredown.cli import command  # seconds at times, in which Ctrl-C is one line already

    command.main()


if __name__ == "__main__":
    main()
