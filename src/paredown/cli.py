"""`python src/run.py`: Hydra's command line around `execute.run`, with one line and exit code 2 for a mistake."""

from __future__ import annotations

import logging
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from paredown.config import COMPOSING, CONF, explain
from paredown.errors import UserError

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


ASKED: list[list[str]] = []  # the overrides, where the command line asks for a run and not for help


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _parse(_: DictConfig) -> None:
    ASKED.append(list(HydraConfig.get().overrides.task))


def _run(overrides: list[str]) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)  # after Hydra, which resets it
    from paredown import distributed, execute  # torch and Lightning: seconds, so not before they are needed
    from paredown.summary import show

    # the process that starts several ranks has said what there is to say about the plan
    logging.getLogger("paredown").setLevel(logging.ERROR if distributed.launched() else logging.INFO)

    if names := [word.partition("=")[2] for word in overrides if word.startswith("reproduce=")]:
        _reproduce(names[-1], overrides)
        return
    result = execute.run(overrides)
    if not distributed.launched():  # among several ranks, the process that started them shows the table
        show(result, " ".join(["src/run.py", *overrides]))


def _reproduce(name: str, overrides: list[str]) -> None:
    from paredown import execute
    from paredown.config import compose
    from paredown.reproduce import reproduce, show

    config = compose(overrides)
    found = reproduce(name, overrides, config["seeds"], execute.run)
    show([found], found.save(Path(config["output"]).expanduser().resolve()).parent)


def _help() -> str:
    """Ours, since Hydra takes over a second to list the groups of its own that it then does not show."""
    groups = sorted(path for path in CONF.iterdir() if path.is_dir())
    names = {group.name: ", ".join(sorted(path.stem for path in group.glob("*.yaml"))) for group in groups}
    choices = "\n".join(f"  {group:12} {_wrap(text)}" for group, text in names.items())
    return (Path(__file__).parent / "help.txt").read_text().replace("$CHOICES", choices)


def _wrap(text: str) -> str:
    return textwrap.fill(text, width=100, subsequent_indent=" " * 15)


def main() -> None:
    """Run the experiment named on the command line and end with an exit code of `--help`'s last line."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(_help(), end="")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing a traceback
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's polite stop is a Ctrl-C
    try:
        _parse()
    except COMPOSING as error:
        typed = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
        end(str(explain(error, typed)), MISTAKE)
    try:
        for overrides in ASKED:
            _run(overrides)
    except UserError as error:
        end(str(error), MISTAKE)
    except FloatingPointError as error:
        end(f"{error}; finished stages are kept, lower the learning rate or set recipe.clip_norm", FAILED)
    except KeyboardInterrupt:
        end("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)


def end(message: str, code: int) -> NoReturn:
    """Say one line and exit with `code`."""
    print(f"paredown: {message}", file=sys.stderr)
    sys.exit(code)
