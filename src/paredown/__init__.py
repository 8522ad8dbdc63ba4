"""paredown: compress image classifiers, every method under one protocol.

    import paredown
    small = paredown.compress(net, "zhang", speed_up=2, train=train_loader, test=test_loader, epochs=5)

The names of the API are imported when they are used: torch takes seconds.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Experiment",
    "Failure",
    "Report",
    "UserError",
    "compare_latency",
    "compress",
    "count",
    "deploy",
    "export",
    "load",
    "run",
]
ERRORS = {"UserError": "paredown.core.errors", "Failure": "paredown.core.requests"}

if TYPE_CHECKING:
    from paredown.api import Experiment, Report, compare_latency, compress, count, deploy, export, load, run
    from paredown.core.errors import UserError
    from paredown.core.requests import Failure
else:
    from paredown import export, run

    class _Room(ModuleType):
        """A room of the package that is also the function of its name: `paredown.run(...)`, `paredown.run.walk`."""

        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            """Call the function of the API."""
            return getattr(import_module("paredown.api"), self.__name__.rpartition(".")[2])(*arguments, **settings)

    for _room in (export, run):
        _room.__class__ = _Room


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(ERRORS.get(name, "paredown.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
