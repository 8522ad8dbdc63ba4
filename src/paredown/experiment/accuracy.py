"""The accuracy of stored networks in one form and precision, so that two of them may be subtracted."""

from __future__ import annotations

import json

import torch

from paredown.core.deploy import deploy
from paredown.core.files import write_text
from paredown.core.keys import digest
from paredown.data.images import ImageData
from paredown.store.states import Store
from paredown.training.evaluate import evaluate

VERSION = 1  # of what is computed


def accuracy(store: Store, key: str, data: ImageData, device: torch.device, batch: int) -> dict[str, float]:
    """Return loss, top1 and top5 (percent) of the deployed network of state `key` on the test images of `data`, in fp32
    whatever it was trained in; nothing where there are no test images. It is computed once: what is found is kept
    beside the states."""
    if not data.sizes["test"]:
        return {}
    path = store.shared / "accuracy" / f"{digest(['accuracy', VERSION, key, data.key])}.json"
    try:
        kept = json.loads(path.read_text())
        return {name: float(kept[name]) for name in ("loss", "top1", "top5")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not yet, or damaged
        found = evaluate(deploy(store.read(key).module), data.eval_loader("test", batch, device), device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found))
    return found
