"""Completion of `paredown` in a shell: commands, groups, what may be chosen, and the settings of what was chosen."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from paredown.core.errors import UserError, nearest
from paredown.core.requests import exit_codes
from paredown.core.target_metrics import TARGETS

SCRIPTS = {
    "bash": """_paredown() {
  local words=(${COMP_LINE:0:COMP_POINT}) current=""
  [[ "${COMP_LINE:COMP_POINT-1:1}" == " " ]] || current="${words[-1]}"
  [[ -n "$current" ]] && unset 'words[-1]'
  local IFS=$'\\n'
  COMPREPLY=($(paredown complete "${words[@]:1}" "$current" 2>/dev/null))
  [[ "$current" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")  # bash splits words at =
}
complete -o nospace -F _paredown paredown
""",
    "zsh": """#compdef paredown
_paredown() { compadd -S '' -- ${(f)"$(paredown complete ${words[2,CURRENT]} 2>/dev/null)"} }
compdef _paredown paredown
""",
    "fish": """complete -c paredown -f -a '(paredown complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}
EXPERIMENTS = ("run", "sweep", "bench", "check")  # the commands that take settings of an experiment
KEYS = (*TARGETS, "seed", "seeds", "output", "store", "deploy", "reproduce", "control", "trust")


def main() -> None:
    """Print the script that gives the shell named on the command line completion."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        print('Completion for your shell: add eval "$(paredown completion bash)" to ~/.bashrc; also zsh and fish.')
        return
    with exit_codes():
        if len(words) != 1 or words[0] not in SCRIPTS:
            raise UserError(f"completion for which shell? {nearest(words[0] if words else '', SCRIPTS)}")
        print(SCRIPTS[words[0]], end="")


def answer(words: Sequence[str]) -> None:
    """Print what the last of `words`, those after `paredown`, may become, a line each."""
    try:
        print("\n".join(candidates(words)))
    except UserError:  # an earlier word is wrong: there is nothing to offer, and nobody to tell
        return


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last of `words` may become. Raise UserError where an earlier one is wrong."""
    *before, current = words or [""]
    if not before:
        from paredown.cli.names import COMMANDS

        return [name for name in COMMANDS if name.startswith(current)]
    return sorted({word for word in _offers(before[0], before[1:], current) if word.startswith(current)})


def _offers(command: str, before: Sequence[str], current: str) -> Iterator[str]:
    """Yield words that may stand after `command` and the words `before`, `current` begun."""
    from paredown.cli import choices, listing
    from paredown.core.words import with_config_dirs

    before = with_config_dirs(before)
    if command == "list":
        yield from listing.WHAT
    elif command == "completion":
        yield from SCRIPTS
    elif command in (*EXPERIMENTS, "explain"):
        groups, (key, equals, _) = choices.every(before), current.partition("=")
        if equals and key in groups:
            yield from (f"{key}={name}" for name in groups[key])
        elif equals and (command, key) == ("sweep", "sweep"):
            yield from (f"sweep={name}" for name in listing.names("sweeps", before))
        elif "." in key and command != "explain":
            group = key.partition(".")[0]
            chosen = dict(word.split("=", 1) for word in before if "=" in word).get(group, "")
            if chosen in groups.get(group, ()):
                yield from (f"{row.key}=" for row in choices.settings(group, choices.file_of(group, chosen, before)))
        elif not equals:
            keys = () if command == "explain" else KEYS
            yield from (f"{name}=" for name in (*groups, *keys, *(["sweep"] if command == "sweep" else [])))
