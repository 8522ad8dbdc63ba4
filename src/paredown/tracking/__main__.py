"""The command that sends pending records to MLflow: python -m paredown.tracking [--output outputs] [--uri URI]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paredown.core.errors import UserError
from paredown.core.formatting import counted
from paredown.tracking.tracker import send_pending


def main() -> int:
    """Return the exit code: 0 if everything was sent, 1 if some runs are pending, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m paredown.tracking", description="Send pending records to MLflow.")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder with the experiments")
    parser.add_argument("--uri", help="http://HOST:PORT or sqlite:///PATH (default: mlflow.db in the output folder)")
    options = parser.parse_args()
    uri = options.uri or f"sqlite:///{options.output / 'mlflow.db'}"
    try:
        counts = send_pending(options.output, uri)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    runs, records = counted(counts["runs"], "run"), counted(counts["records"], "record")
    print(f"{runs}, {records} sent, {counted(counts['pending'], 'run')} pending")
    return 1 if counts["pending"] else 0


if __name__ == "__main__":
    sys.exit(main())
