"""Writes the list of every published row into docs/reproduction.md."""

from pathlib import Path

from paredown.published.listing import written_into

PAGE = Path(__file__).parents[1] / "docs" / "reproduction.md"

if __name__ == "__main__":
    PAGE.write_text(written_into(PAGE.read_text()))
