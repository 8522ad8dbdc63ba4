"""The command `paredown`: one name for every command of the project."""

from __future__ import annotations

import sys
from collections.abc import Callable

from paredown import __version__
from paredown.cli.names import COMMANDS
from paredown.core.errors import nearest
from paredown.core.requests import MISTAKE, PROGRAM, end

OPTIONS = ("--help", "--version")
HELP = f"""Compress image classifiers: every method under one protocol, one cost count, one front.

  paredown COMMAND [key=value ...]

{chr(10).join(f"  {name:11} {text}" for name, text in COMMANDS.items())}

paredown COMMAND --help shows examples and settings; paredown --version the version.
From Python: import paredown; paredown.compress(net, "zhang", speed_up=2, train=loader).
"""


def main() -> None:
    """Run the command that the first word names, on the words after it."""
    name, *words = [*sys.argv[1:], ""][:1] + sys.argv[2:]
    if name in ("--version", "-V"):
        print(f"paredown {__version__}")
    elif name in ("--help", "-h", "help", ""):
        print(HELP, end="")
        sys.exit(0 if name else MISTAKE)
    elif name == "complete":  # asked by the shells' scripts, on every press of the tabulator
        from paredown.cli.completion import answer

        answer(words)
    elif name not in COMMANDS:
        known = OPTIONS if name.startswith("-") else COMMANDS
        end(f"no command {name!r}: {nearest(name, known)}", MISTAKE)
    else:
        sys.argv = [f"{PROGRAM} {name}", *words]
        _main_of(name)()


def _main_of(name: str) -> Callable[[], None]:
    """Return the function that runs the command `name`; the others are not imported."""
    if name == "run":
        from paredown.cli.run import main
    elif name == "sweep":
        from paredown.cli.sweep import main
    elif name == "report":
        from paredown.cli.report import main
    elif name == "export":
        from paredown.cli.export import main
    elif name == "bench":
        from paredown.cli.bench import main
    elif name == "demo":
        from paredown.cli.demo import main
    elif name == "list":
        from paredown.cli.listing import main
    elif name == "explain":
        from paredown.cli.explain import main
    elif name == "check":
        from paredown.cli.check import main
    else:
        from paredown.cli.completion import main
    return main
