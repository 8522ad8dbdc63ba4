"""beta-LASSO (Neyshabur 2020, arXiv 2007.13657): SGD with an l1 penalty, and a threshold that zeroes small weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown.core.constraints import NonNegative, check_arguments
from paredown.core.errors import UserError
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.local import LocallyConnected2d
from paredown.layers.masked import maskable
from paredown.models.cifar.counterparts import InPlaceOfConv


class BetaLasso(torch.optim.Optimizer):
    """w <- w - lr * (gradient + decay * sign(w)), then w <- 0 where |w| < beta * decay (the paper's Algorithm 1).

    `decay` is lambda, `beta` the threshold in units of it, not scaled by the learning rate; both and `lr` can be set
    per parameter group. decay=0 is plain SGD, beta=0 plain l1 subgradient descent. A zero revives where one step moves
    it to the threshold or beyond. Raise UserError for negative values and for weights of fewer than 32 bits, in which
    lr * decay would vanish: keep them in fp32 and compute under autocast.
    """

    def __init__(self, params: Any, lr: NonNegative = 0.1, decay: NonNegative = 1e-5, beta: NonNegative = 50.0) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "beta": beta})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Raise UserError for its hyperparameters or weights, as the class does."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_arguments(BetaLasso.__init__, {name: group[name] for name in ("lr", "decay", "beta")}, "")
        for weight in group["params"]:
            if torch.finfo(weight.dtype).bits < 32:
                raise UserError(f"BetaLasso needs weights in fp32, got {weight.dtype}: compute under autocast instead")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` recomputes the loss, which is returned. A gradient scaler unscales first, and skips
        the threshold with the step where a gradient is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            gradients: list[Tensor] = [weight.grad for weight in weights]  # type: ignore[misc]
            if not weights:
                continue
            signs = torch._foreach_sign(weights) if group["decay"] else None  # before the step
            torch._foreach_add_(weights, gradients, alpha=-group["lr"])
            if signs:
                torch._foreach_add_(weights, signs, alpha=-group["lr"] * group["decay"])
            for weight in weights if (threshold := group["beta"] * group["decay"]) else ():
                zero_below(weight, threshold)
        return loss


def zero_below(weight: Tensor, threshold: float) -> None:
    """Zero the entries of `weight` smaller than `threshold` in absolute value, in place, in one pass over memory."""
    below = torch.nextafter(torch.tensor(threshold, dtype=weight.dtype), torch.zeros((), dtype=weight.dtype))
    torch.hardshrink(weight, float(below), out=weight)  # keeps what is above: |w| > below is |w| >= threshold


@identity("beta_lasso")
@dataclass(frozen=True)
class BetaLassoSteps(Hooks):
    """Training by `BetaLasso`, logging the non-zero weights of each layer. lambda is `decay_conv` for convolutions and
    the layers that replace them, `decay_fc` for other linear layers, 0 for the rest."""

    decay_conv: float
    decay_fc: float
    beta: float

    def optimizer(self, fit: FitState) -> BetaLasso:
        """Build `BetaLasso` over conv-like weights, fc weights, and the rest (batch norm, biases: plain SGD)."""
        conv, fc, others = weight_groups(fit.model)
        groups = [(conv, self.decay_conv), (fc, self.decay_fc), (others, 0.0)]
        settings = [{"params": weights, "decay": decay} for weights, decay in groups if weights]
        return BetaLasso(settings, lr=fit.recipe.learning_rate, beta=self.beta)

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return `nonzero/LAYER` for each layer of the first two groups."""
        return {f"nonzero/{name}": float(count) for name, count in nonzeros(fit.model).items()}


def is_conv_like(layer: nn.Module) -> bool:
    """Return whether `layer` is a convolution or replaces one: locally or fully connected."""
    return isinstance(layer, nn.Conv2d | LocallyConnected2d | InPlaceOfConv)


def weight_groups(network: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the parameters of `network`, each once: conv-like weights, other linear layers' weights, and the rest."""
    conv_like = {id(layer.weight): is_conv_like(layer) for layer in maskable(network).values()}
    groups: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for parameter in network.parameters():
        kind = conv_like.get(id(parameter))
        groups[2 if kind is None else 0 if kind else 1].append(parameter)
    return groups


def nonzeros(network: nn.Module) -> dict[str, int]:
    """Count the non-zero weights of each convolution, linear and locally connected layer of `network`, by name."""
    weights = {name: cast(Tensor, layer.weight) for name, layer in maskable(network).items()}
    return {name: int(weight.count_nonzero()) for name, weight in weights.items()}
