"""`python src/run.py`: Hydra's command line around `execute.run`, with one line and exit code 2 for a mistake."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from paredown.config import CONF, explain
from paredown.errors import UserError

MISTAKE, INTERRUPTED = 2, 130


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(_: DictConfig) -> None:
    overrides = list(HydraConfig.get().overrides.task)
    from paredown import distributed, execute  # torch and Lightning: seconds, so not before they are needed

    result = execute.run(overrides)
    if distributed.rank() == 0 and not (distributed.launched() and "TORCHELASTIC_RUN_ID" in os.environ):
        from paredown.summary import show

        show(result, " ".join(["src/run.py", *overrides]), _dashboard(result))


def _dashboard(result: Any) -> str:
    return "make dashboard opens all experiments in MLflow"


def main() -> None:
    """Run the experiment named on the command line and end with an exit code of `--help`'s last line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing a traceback
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("paredown").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's polite stop is a Ctrl-C
    try:
        _run()
    except UserError as error:
        _end(str(error), MISTAKE)
    except (HydraException, OmegaConfBaseException) as error:
        _end(str(error.__cause__ if isinstance(error.__cause__, UserError) else explain(error)), MISTAKE)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)


def _end(message: str, code: int) -> None:
    print(f"paredown: {message}", file=sys.stderr)
    sys.exit(code)
