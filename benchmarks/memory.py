"""Peak memory of whole plans against a dense training's, on batches of one size: SVD-NAS's search, a lottery's round,
scorings before training.

    python benchmarks/memory.py [--batch 256] [--only svd_nas lottery]

The embedded digits, a ResNet-20 of double width, one epoch of everything. Each contender runs in a process of its own;
its peak is how much more memory that process has held, at most, than with imports, images and network alone. Goal: 1.5
times the dense training's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SEARCH = "{epochs:1,batch_size:BATCH,split:test}"  # of the test images, since the digits hold out too few for a batch
CONTENDERS = {
    "dense": ["method=dense"],
    "svd_nas": ["method=svd_nas", f"method.search={SEARCH}", "method.step=0.1", "method.proxy={images:64}"],
    "lottery": ["method=lottery", "sparsity=0.8", "method.rounds=1"],
    "snip": ["method=snip", "sparsity=0.9"],
    "grasp": ["method=grasp", "sparsity=0.9"],
    "synflow": ["method=synflow", "sparsity=0.9"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS], help="beside dense")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--contender", choices=[*CONTENDERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(measured(options.contender, options.batch))
        return
    found: dict[str, float] = {}
    for name in dict.fromkeys(["dense", *options.only]):
        command = [sys.executable, __file__, "--contender", name, "--batch", str(options.batch)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(ended.stdout.splitlines()[-1])
        print(f"{name:8} {found[name]:6.0f} MiB  {found[name] / found['dense']:.2f}x a dense training", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def measured(name: str, batch: int) -> float:
    """Return how many MiB the stages of the contender `name` take at most beyond what was there before."""
    import pytorch_lightning  # noqa: F401 - what every training imports is no part of its peak

    from paredown.core.config import compose
    from paredown.experiment.prepare import prepare
    from paredown.run.walk import carry_out_stages
    from paredown.training.fit import fit  # noqa: F401

    words = ["dataset=digits", "model=resnet20", "model.width=2", "recipe.epochs=1", f"recipe.batch_size={batch}"]
    words += ["trainer.accelerator=cpu", "trainer.progress=false", "tracking=off", "recipe.precision=32"]
    own = [word.replace("BATCH", str(batch)) for word in CONTENDERS[name]]
    with tempfile.TemporaryDirectory() as output:
        experiment = prepare(compose([*words, *own, f"output={output}"]))
        assert experiment.steps
        before = peak()
        carry_out_stages(experiment)
    return peak() - before


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
