"""What holds of modules while a context lasts: the mode, and hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module of `network` into eval mode while the context lasts."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks of `handles`, which are registered one by one on entry, when the context ends."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
