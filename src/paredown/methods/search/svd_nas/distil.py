"""SVD-NAS's edit before a data-free distillation: images synthesised from the dense network."""

from __future__ import annotations

import base64
from typing import Any

from torch.nn import functional

from paredown.core import distributed
from paredown.core.hooks import Context
from paredown.core.keys import digest, identity
from paredown.core.network import Network
from paredown.core.progress import working_on
from paredown.surgery.synthesise import Synthesis, synthesise
from paredown.training.hooks.distillation import frozen, image_store


@identity("svd_nas/synthesise")
def synthesise_images(
    network: Network, context: Context, images: int, synthesis: Synthesis, teacher: str | None
) -> dict[str, Any]:
    """Make those of the first `images` synthetic images of the stage `teacher`'s network that are not stored yet.

    Return the name of their folder, l_bn of the first batch at every step, and some of the images as pixels.
    """
    module = frozen(context.earlier(teacher).module).to(context.device)
    store = image_store(module, context, synthesis)
    mine = range(distributed.rank(), -(-images // synthesis.batch_size), distributed.started())
    with working_on("synthesis", len(mine), "batches") as work:
        for number in mine:
            if not store.file(number).is_file():
                seed = int(digest([store.folder.name, number])[:12], 16)
                store.write(number, *synthesise(module, context.data.input_shape, synthesis, seed, context.device))
            work.advance()
    distributed.barrier()
    first = store.read(0)
    sample = first["images"][: min(images, 16)]
    sample = functional.avg_pool2d(sample, -(-sample.shape[3] // 64))
    losses = [round(value, 6) for value in first["losses"].tolist()]
    notes = {"folder": store.folder.name, "images": images, "losses": losses, "shape": list(sample.shape)}
    return notes | {"pixels": base64.b64encode(sample.numpy().astype("<f4").tobytes()).decode()}
