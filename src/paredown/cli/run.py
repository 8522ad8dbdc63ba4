"""The command `python src/run.py`: Hydra's command line around `walk.run`."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from paredown.cli import choices
from paredown.core.config import compose
from paredown.core.errors import UserError, nearest
from paredown.core.interrupt import working
from paredown.core.lean import import_leanly
from paredown.core.mistakes import COMPOSING, explain
from paredown.core.places import CONF
from paredown.core.requests import MISTAKE, Failure, as_called, as_setting, end, exit_codes
from paredown.core.words import SEARCH_PATH, as_typed, refuse_hydra, roots, with_config_dirs, with_search_path
from paredown.published.settings import named_row, with_row

PLAN = "--plan"
# Hydra's other options read foreign files, --experimental-rerun a pickle; --config-dir is taken before Hydra sees it
OPTIONS = (
    *("--help", "-h", "--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i"),
    *("--multirun", "-m", "--run", "-r"),
    PLAN,
)
ASKED: list[list[str]] = []  # the overrides, where the command line asks for a run and not for help
STOPPED = "interrupted; the same command goes on from the last checkpoint"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _parse(_: DictConfig) -> None:
    chosen = HydraConfig.get().overrides
    ASKED.append([*chosen.task, *(word for word in chosen.hydra if word.startswith(SEARCH_PATH))])


def _check_words(words: list[str]) -> None:
    """Raise UserError for what would make Hydra read foreign files, or call what they name."""
    refuse_hydra(word for word in words if "=" in word and not word.startswith("-"))
    if meant := as_setting(words, roots()):
        raise UserError(meant)
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        if option not in OPTIONS:
            raise UserError(f"unknown option {option!r}: {nearest(option, OPTIONS)}")
    for before, word in zip(["", *words], words, strict=False):
        alone = "=" not in word and not before.startswith("-")  # no setting, and not the value of an option
        if alone and (meant := choices.written(word, words)):
            raise UserError(meant)


def _run(overrides: list[str]) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)  # after Hydra, which resets it
    import_leanly()
    from paredown.core import distributed  # torch and Lightning: seconds, so not before they are needed
    from paredown.run import walk  # torch and Lightning: seconds, so not before they are needed
    from paredown.run.terminal import show

    # the process that starts several ranks has said what there is to say about the plan
    logging.getLogger("paredown").setLevel(logging.ERROR if distributed.launched() else logging.INFO)

    # a rank of one seed's run gets that seed beside the row
    one_seed = distributed.launched() and any(word.startswith("seed=") for word in overrides)
    if (name := named_row(overrides)) is not None and not one_seed:
        with working():
            _reproduce(name, overrides)
        return
    with working():
        result = walk.run(overrides)
    distributed.exit_rank()  # the process that started the ranks shows the table
    show(result, as_called(" ".join(["src/run.py", *overrides])), overrides)


def _reproduce(name: str, overrides: list[str]) -> None:
    from paredown.core import distributed
    from paredown.core.files import typed_path
    from paredown.experiment.prepare import check
    from paredown.run import walk
    from paredown.run.reproduce import reproduce, show

    settings = check(compose(overrides))
    found = reproduce(name, overrides, settings.seeds, walk.run)
    if not distributed.rank():
        show([found], found.save(typed_path(settings.output).resolve()).parent)


def _plan(words: list[str]) -> None:
    """Print what would run. Raise UserError for a word that is no setting."""
    if other := next((word for word in words if not is_override(word)), None):
        raise UserError(f"{PLAN} stands beside settings alone, not {other!r}")
    from paredown.run.plan import show_plan

    show_plan(words)


def _help(words: list[str]) -> str:  # Hydra would take over a second to list groups that it then does not show
    named = dict(word.split("=", 1) for word in words if word.partition("=")[0] in choices.every(words))
    if named:
        return as_called("\n".join(choices.describe(group, name, words) for group, name in named.items()))
    known = "\n".join(f"  {group:12} {_wrap(', '.join(names))}" for group, names in choices.every(words).items())
    text = (Path(__file__).parent / "help" / "run.txt").read_text(encoding="utf-8")
    return as_called(text.replace("$CHOICES", known))


def _wrap(text: str) -> str:
    return textwrap.fill(text, width=100, subsequent_indent=" " * 15)


def is_override(word: str) -> bool:
    """Return whether `word` of the command line is an override, not an option of Hydra or its value."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def main() -> None:
    """Run the experiment on the command line, and exit with one of the codes that `--help` lists."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        with exit_codes():
            print(_help(with_config_dirs(sys.argv[1:])), end="")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing a traceback
    with exit_codes():
        sys.argv[1:] = with_config_dirs(sys.argv[1:])
        _check_words(sys.argv[1:])
    with exit_codes(STOPPED):
        # so that what Hydra checks, and --cfg shows, is what runs
        words = [as_typed(word) for word in with_row(sys.argv[1:])]
        words = with_search_path(words)
        if any(word.startswith(SEARCH_PATH) for word in words):
            compose([word for word in words if is_override(word)])  # what the folders hold is checked before Hydra acts
        if PLAN in words:
            _plan([word for word in words if word != PLAN])
            return
        sys.argv[1:] = sorted(words, key=is_override)  # argparse takes options before words
        try:
            _parse()
        except COMPOSING as error:
            typed = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
            end(str(explain(error, typed)), MISTAKE)
        try:
            for overrides in ASKED:
                _run(overrides)
        except FloatingPointError as error:
            raise Failure(
                f"{error}; finished stages are kept, lower the learning rate or set recipe.clip_norm"
            ) from error
