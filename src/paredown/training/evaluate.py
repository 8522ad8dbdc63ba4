"""Accuracy of a network over a loader, without a trainer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.progress import passed


@torch.inference_mode()
def evaluate(module: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> dict[str, float]:
    """Compute loss, top1 and top5 (percent) of `module` over `loader`, in fp32."""
    module = module.to(device).eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for images, labels in passed(loader, "evaluation"):
        logits = module(images)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack(
            [
                loss.double(),
                top[:, 0].sum().double(),
                top.sum().double(),
                loss.new_tensor(len(labels)).double(),
            ]
        )
    loss, top1, top5, images = sums.tolist()
    return {"loss": loss / images, "top1": 100 * top1 / images, "top5": 100 * top5 / images}
