"""What the stages of a plan cost: every pass of a training step counts."""

from __future__ import annotations

import json
from pathlib import Path

from paredown.core.config import compose
from paredown.core.network import Network
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.methods.low_rank import svd_training
from paredown.results.training_cost import as_tag, total, training_cost
from paredown.run.walk import carry_out_stages
from paredown.training.hooks.sandwich import Sandwich

SMALL = ("dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.05", "recipe.precision=32")


def test_a_training_of_several_widths_costs_the_passes_that_it_makes(tmp_path: Path, monkeypatch) -> None:
    passes, loss = [], Sandwich.loss

    def counted(hook, fit, images, logits, value):
        handle = fit.model.register_forward_hook(lambda *_: passes.append(len(images)))
        try:
            return loss(hook, fit, images, logits, value)
        finally:
            handle.remove()

    monkeypatch.setattr(Sandwich, "loss", counted)
    words = ["method=autoslim", "speed_up=1.5", "method.samples=3", "method.images=20", "recipe.epochs=1"]
    experiment = prepare(compose([*SMALL, *words, f"output={tmp_path}", "trainer.accelerator=cpu"]))
    carry_out_stages(experiment)
    supernet, _, train = training_cost(experiment)
    network: Network = experiment.dense()
    macs = count(network.module, network.input_shape).macs
    assert supernet["macs"] == 3 * macs * (supernet["images"] + sum(passes)) and sum(passes) == 4 * supernet["images"]
    slim = experiment.store.read(experiment.steps[-1].key)
    assert train["macs"] == 3 * count(slim.module, slim.input_shape).macs * train["images"] > 0


def test_the_tag_holds_the_rounds_of_a_lottery() -> None:
    """22 rounds, each a training, a pruning and a rewinding, are 99.3 % sparse."""
    fit = {"key": "0" * 20, "images": 8_000_000, "other_images": 0, "epochs": 160.0, "seconds": 98765.4321012}
    edit = {"key": "0" * 20, "images": 0, "other_images": 0, "epochs": 0, "seconds": 0.123456789, "macs": 0}
    spent = 23 * [fit | {"macs": 979_516_416_000_000}] + 44 * [edit]
    assert len(json.dumps(spent)) > 8000 > len(as_tag(spent))  # of MLflow
    assert json.loads(as_tag(spent))[0] == spent[0] | {"seconds": 98765.432}


def prices(tmp_path: Path, *words: str) -> tuple[dict[str, float], dict[str, int]]:
    """The summed price of a small experiment, and the number of images of each split of its data set."""
    experiment = prepare(compose([*SMALL, *words, "recipe.epochs=1", f"output={tmp_path}", "trainer.accelerator=cpu"]))
    carry_out_stages(experiment)
    return total(experiment, training_cost(experiment)), dict(experiment.data.sizes)


def test_a_cut_by_what_images_say_is_no_compression_without_them(tmp_path: Path) -> None:
    found, sizes = prices(tmp_path, "method=nisp", "speed_up=2", "method.images=20", "method.finetune.epochs=0")
    assert found["price/images"] == sizes["train"] > 20
    assert found["price/other_images"] == found["price/compression_images"] == 20
    found, _ = prices(tmp_path, "method=nisp", "speed_up=2", "method.images=5000", "method.finetune.epochs=0")
    assert found["price/compression_images"] == sizes["train"]  # there are no more
    found, _ = prices(tmp_path, "method=l1_filters", "speed_up=2", "method.finetune.epochs=0")
    assert found["price/other_images"] == found["price/compression_images"] == 0


def test_a_line_search_sees_its_images_at_each_step(tmp_path: Path, monkeypatch) -> None:
    seen, true = [], svd_training.evaluate

    def counted(module, loader, device):
        loader = list(loader)
        seen.append(sum(len(labels) for _, labels in loader))
        return true(module, loader, device)

    monkeypatch.setattr(svd_training, "evaluate", counted)
    found, sizes = prices(tmp_path, "method=svd_training", "dataset.validation=10")
    assert found["price/other_images"] == sum(seen) >= 2 * sizes["val"] == 20
