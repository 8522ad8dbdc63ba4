"""The networks of a comparison of speed, each in its fastest form: the same search for all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.core.network import Network
from paredown.cost.latency import in_turns, medians
from paredown.runtime.choices import MEMORY_FORMATS, Choices
from paredown.runtime.optimise import build, optimise
from paredown.runtime.search import Setting

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": "contiguous", "NHWC": "channels_last"}
DENSE, DEPLOYED, CHOSEN = "dense", "deployed", "chosen"
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Candidate:
    """A form of a network ready to be timed: DENSE or DEPLOYED, in one precision and variant (NCHW, NHWC, or
    CHOSEN by `optimise`), with its images; `choices` rebuild it (`optimise.build`)."""

    network: str
    precision: str
    variant: str
    module: nn.Module
    images: Tensor
    choices: Choices


def candidates(
    name: str,
    network: Network,
    batch: int,
    device: torch.device,
    precision: str,
    seconds: float | None,
    layouts: Sequence[str] = tuple(LAYOUTS),
) -> list[Candidate]:
    """Return the forms in which `network` is timed on `batch` images: the one that `optimise` finds in about `seconds`,
    plain layers in both layouts among its rivals; with None the plain layers in each of `layouts`.

    Raise DeployError where a chosen backend is not exact.
    """
    dtype = PRECISIONS[precision]
    setting = Setting(batch, device, dtype, portable=False)
    images = setting.random_batch(network.input_shape)
    if seconds is not None:
        log.info("choosing backends: %s %s, batch %d", name, precision, batch)
        best = optimise(network, batch, device, dtype, seconds)
        return [Candidate(name, precision, CHOSEN, best.module, images, best.choices)]
    found = []
    for variant in layouts:
        choices = setting.choices({}, LAYOUTS[variant])
        module = setting.prepare(build(network, choices), LAYOUTS[variant])
        ready = images.contiguous(memory_format=MEMORY_FORMATS[LAYOUTS[variant]])
        found.append(Candidate(name, precision, variant, module, ready, choices))
    return found


def fastest(candidates: Sequence[Candidate], seconds: float) -> list[Candidate]:
    """Return the fastest variant of each network and precision, timed in turns for about `seconds`; dense and deployed
    of one precision next to each other: the less time between two measurements that are compared, the less a change of
    clock rate biases them."""
    by_network = {(one.precision, one.network): one for one in candidates}
    if len(by_network) == len(candidates):
        return _side_by_side(by_network)
    turns = in_turns([(candidate.module, candidate.images) for candidate in candidates], seconds)
    ranked = sorted(zip(medians(turns), range(len(candidates)), strict=True), reverse=True)
    best = {(one.precision, one.network): one for one in (candidates[index] for _, index in ranked)}
    return _side_by_side(best)


def _side_by_side(by_network: Mapping[tuple[str, str], Candidate]) -> list[Candidate]:
    return [by_network[key] for key in sorted(by_network, key=lambda key: (key[0] != "fp32", key[1]))]
