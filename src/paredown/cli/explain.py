"""The command `paredown explain`: what a choice is, and every setting of it."""

from __future__ import annotations

import sys
from pathlib import Path

from paredown.core.errors import UserError
from paredown.core.requests import as_called, run_command

HELP = Path(__file__).parent / "help" / "explain.txt"


def main() -> None:
    """Print what the yaml file and the card of each choice on the command line say."""
    run_command(_explain, HELP)


def _explain(words: list[str]) -> None:
    from paredown.cli import choices
    from paredown.core.words import SEARCH_PATH, with_config_dirs

    words = with_config_dirs(words)
    asked = [word for word in words if not word.startswith(SEARCH_PATH)]
    if not asked:
        raise UserError("explain what? write method=NAME, model=NAME, another group, or a setting")
    sys.stdout.write(as_called("\n".join(text for word in asked for text in choices.explained(word, words))))
