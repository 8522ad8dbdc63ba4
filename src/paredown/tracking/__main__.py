"""Send to MLflow what waits in the journals: python -m paredown.tracking [--output outputs] [--uri URI]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paredown.errors import UserError
from paredown.tracking.tracker import send_waiting


def main() -> int:
    """Exit code 0 when all is sent, 1 when some still waits, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m paredown.tracking", description="Send waiting records to MLflow.")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder with the experiments")
    parser.add_argument("--uri", help="http://HOST:PORT or sqlite:///PATH (default: mlflow.db in the output folder)")
    options = parser.parse_args()
    uri = options.uri or f"sqlite:///{options.output / 'mlflow.db'}"
    try:
        counts = send_waiting(options.output, uri)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{counts['runs']} runs, {counts['records']} records sent, {counts['wait']} runs still wait")
    return 1 if counts["wait"] else 0


if __name__ == "__main__":
    sys.exit(main())
