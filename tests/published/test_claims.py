"""What the docs say of the papers' numbers and of what commands run, read from the docs and held against the tables and
the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from paredown.core.config import CONF, compose
from paredown.methods.sparse.ssc.choice import choose
from paredown.models.cifar.resnet import cifar_resnet
from paredown.published import load
from paredown.published.settings import overrides, rows

ROOT = CONF.parent
CARDS = ROOT / "docs" / "methods"
NUMBER = r"(\d[\d.]*(?:e-?\d+)?)"
RANGE = rf"{NUMBER} to {NUMBER}"


def said(path: Path, pattern: str) -> list[float]:
    """The numbers that `pattern` captures in the text at `path`, whose lines are joined."""
    found = re.search(pattern, " ".join(path.read_text().split()))
    assert found, f"{path.name} no longer says {pattern}"
    return [float(number) for number in found.groups()]


def printed(dataset: str, regularizer: str, name: str) -> list[float]:
    table = load()
    mine = table[(table["method"] == "svd_training") & (table["dataset"] == dataset)]
    values = [row[name] for row in mine["hyperparameters"] if row["regularizer"] == regularizer]
    return [min(values), max(values)]


CLAIMS: list[tuple[str, tuple[str, str, str]]] = [
    (rf"Published: Hoyer {RANGE} on CIFAR-10", ("cifar10", "hoyer", "decay")),
    (rf"{RANGE} on ImageNet; L1", ("imagenet", "hoyer", "decay")),
    (rf"on ImageNet; L1 {RANGE}", ("cifar10", "l1", "decay")),
    (rf"Published on CIFAR-10: Hoyer {RANGE}", ("cifar10", "hoyer", "energy")),
    (rf"Published on CIFAR-10: .*?, L1 {RANGE}", ("cifar10", "l1", "energy")),
    (rf"Published on CIFAR-10: .*?, none {RANGE}", ("cifar10", "none", "energy")),
    (rf"; on ImageNet {RANGE} \|", ("imagenet", "hoyer", "energy")),
    (rf"the published L1 rows prune {RANGE}", ("cifar10", "l1", "energy")),
    (rf"and the Hoyer rows {RANGE}", ("cifar10", "hoyer", "energy")),
]


@pytest.mark.parametrize(("pattern", "which"), CLAIMS, ids=[" ".join(which) for _, which in CLAIMS])
def test_ranges_of_svd_training(pattern: str, which: tuple[str, str, str]) -> None:
    assert said(CARDS / "svd_training.md", pattern) == printed(*which)


@pytest.mark.parametrize(
    ("network", "model"),
    [("ResNet-18", "resnet18"), ("MobileNetV2", "mobilenet_v2"), ("EfficientNet-B0", "efficientnet_b0")],
)
def test_ranges_of_svd_nas(network: str, model: str) -> None:
    table = load()
    mine = table[(table["paper"] == "svd_nas") & (table["table"] == "S3") & (table["model"] == model)]
    betas = [float(row["beta"]) for row in mine["hyperparameters"]]
    assert said(CARDS / "svd_nas.md", rf"published:.*?{RANGE} \({network}\)") == [min(betas), max(betas)]
    low, high = said(CONF / "method" / "svd_nas.yaml", rf"Published: {RANGE}")
    assert low <= min(betas) and max(betas) <= high


def test_how_much_kinder_the_gains_of_trp_are_than_over_its_own_bases() -> None:
    own_bases = {"resnet20": 91.74, "resnet32": 92.26}  # TRP's README
    accuracies = {"svd_training/table6/5": 90.50, "svd_training/table6/7": 90.62}
    accuracies |= {"svd_training/table6/6": 91.40, "svd_training/table6/8": 91.39}
    by_id = {row["id"]: row for row in rows("svd_training/table6")}
    kinder = [by_id[name]["gain_top1"] - (top1 - own_bases[by_id[name]["model"]]) for name, top1 in accuracies.items()]
    least, most = said(CARDS / "trp.md", rf"{NUMBER} \(ResNet-32\) to {NUMBER} points \(ResNet-20\) kinder")
    assert (round(min(kinder), 1), round(max(kinder), 1)) == (least, most)


def test_the_pairs_that_the_card_names_are_chosen_for_the_network_of_conf() -> None:
    pairs = r"gets \((\d+), (\d+)\), \((\d+), (\d+)\) and \((\d+), (\d+)\) at 90, 95 and 98 %"
    numbers = said(CARDS / "ssc.md", pairs)
    width = compose(["model=resnet32"])["model"]["width"]
    found = [tuple(choose(cifar_resnet(32, width), sparsity)) for sparsity in (0.9, 0.95, 0.98)]
    assert [number for pair in found for number in pair] == numbers


@pytest.mark.parametrize("text", ["README.md", "src/paredown/cli/help/run.txt"])
def test_the_first_command_is_the_papers_network_and_protocol(text: str) -> None:
    command = "python src/run.py method=ssc model=resnet32 sparsity=0.95"
    assert command in (ROOT / text).read_text()
    words = command.removeprefix("python src/run.py ").split()

    def compared(config: dict[str, Any]) -> dict[str, Any]:
        kept = {name: config[name] for name in ("method", "model", "dataset", "recipe", "sparsity", "names")}
        kept["recipe"].pop("precision")  # which the machine chooses
        return kept

    assert compared(compose(words)) == compared(compose(overrides(rows("ssc/table1/126")[0])))
