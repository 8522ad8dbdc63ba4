"""SVD-NAS's edits around a distillation: layers that keep their dense weights, synthetic images, and what ships."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import distributed as dist
from torch import nn
from torch.nn import functional

from paredown import blueprint, distributed
from paredown.layers.taught import TaughtConv2d, taught, teacher
from paredown.plan import Context, Network, digest
from paredown.surgery.design_space import Design
from paredown.surgery.synthetic import Synthesis, synthesise
from paredown.training.distillation import images_of


def teach(network: Network, designs: Mapping[str, Design]) -> None:
    """As `design_space.decompose`, but each layer keeps the dense one it was."""
    for name, design in designs.items():
        dense: nn.Conv2d = network.module.get_submodule(name)  # type: ignore[assignment]
        branches = [asdict(branch) for branch in design]
        layer = TaughtConv2d(dense, branches)
        layer.become(dense.weight, dense.bias)
        blueprint.place(network, name, layer, "taught", branches=branches)


def synthesise_images(network: Network, context: Context, images: int, synthesis: Mapping[str, Any]) -> dict[str, Any]:
    """Make those of the first `images` synthetic images of the dense network that are not in the store yet. Returns
    where they lie, l_bn of the first batch at every step, and some of them as pixels."""
    how = Synthesis(**dict(synthesis) | {"excluded": tuple(synthesis["excluded"])})
    module = teacher(network.module).to(context.device)
    store = images_of(module, context, how)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    for number in range(distributed.rank(), -(-images // how.batch_size), ranks):
        if not store.file(number).is_file():
            seed = int(digest([store.folder.name, number])[:12], 16)
            store.write(number, *synthesise(module, context.data.input_shape, how, seed, context.device))
    distributed.barrier()
    first = store.read(0)
    sample = first["images"][: min(images, 16)]
    sample = functional.avg_pool2d(sample, -(-sample.shape[3] // 64))
    losses = [round(value, 6) for value in first["losses"].tolist()]
    notes = {"folder": store.folder.name, "images": images, "losses": losses, "shape": list(sample.shape)}
    return notes | {"pixels": base64.b64encode(sample.numpy().astype("<f4").tobytes()).decode()}


def drop_dense(network: Network, context: Context) -> None:
    """Keep of each taught layer what ships."""
    for name, layer in taught(network.module).items():
        branches = network.blueprint[name]["branches"]
        if len(branches) == 1:
            blueprint.place(network, name, layer.student.pairs[0], "grouped_pair", **branches[0])
        else:
            blueprint.place(network, name, layer.student, "branches", branches=branches)
