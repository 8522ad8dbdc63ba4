"""The README's first picture, docs/demo.svg: the table of `paredown demo` as a terminal shows it.

    python scripts/demo_picture.py [OUTPUT]

runs what is missing of the demonstration in OUTPUT (default outputs/demo) and writes the table as SVG.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from paredown.sweep.demo import demo, table

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"
WIDTH = 76  # columns


def main() -> None:
    """Write the picture."""
    rows = demo(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo"))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(table(rows))
    console.save_svg(str(PICTURE), title="paredown demo")
    print(PICTURE)


if __name__ == "__main__":
    main()
