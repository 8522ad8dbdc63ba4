"""A published row as a command: the overrides of src/run.py that train what its paper trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paredown.errors import UserError, nearest
from paredown.published.table import load

Row = Mapping[str, Any]
BOTTLENECKS = ("resnet56", "resnet110")  # in SVD training's and TRP's code; docs/methods/svd_training.md
HALVED = {"mobilenet_v2_cifar": "ssc_mobilenet_cifar10", "shufflenet_v2": "ssc_shufflenet_cifar10"}


def rows(name: str) -> list[Row]:
    """The published rows called `name`: one (svd_training/table3/11) or a table (svd_training/table3). UserError for
    none."""
    table = load()
    found = table[(table["id"] == name) | table["id"].str.startswith(f"{name}/")]
    if found.empty:
        tables = sorted(set(table["id"].str.rpartition("/")[0]))
        in_table = name.rpartition("/")[0] in tables
        count = int((table["id"].str.rpartition("/")[0] == name.rpartition("/")[0]).sum())
        known = f"its rows are 1 to {count}" if in_table else nearest(name, tables)
        raise UserError(f"reproduce={name} is no published row or table: {known}")
    return [dict(row) for _, row in found.iterrows()]


def overrides(row: Row) -> list[str]:
    """What to type after src/run.py for `row`. UserError for one that cannot be run, saying what is missing."""
    if row["method"] not in SETTINGS:
        what = f"there is no method {row['method']!r} here yet" if row["method"] else "it holds counts, not results"
        raise UserError(f"{row['id']} cannot be run: {what}")
    model = [f"model={row['model']}", *(f"model.{name}={value}" for name, value in row["network"].items())]
    return [f"dataset={row['dataset']}", *SETTINGS[row["method"]](row, model)]


def _dense(row: Row, model: list[str]) -> list[str]:
    return ["method=dense", *model]


def _ssc(row: Row, model: list[str]) -> list[str]:
    if row["model"] in HALVED:  # section 4.2: only the point-wise convolutions, every other channel
        return [f"experiment={HALVED[row['model']]}"]
    return ["method=ssc", *model, f"sparsity={row['sparsity']:g}"]


def _svd_training(row: Row, model: list[str]) -> list[str]:
    knobs = row["knobs"]
    names = ("regularizer", "decay", "energy")
    method = ["method=svd_training", f"method.form={knobs['decomposition']}"]
    method += [f"method.{name}={knobs[name]}" for name in names]
    if row["dataset"] != "imagenet":
        return [*method, *_family(row), "recipe=svd_training_code"]
    orthogonality = 10 if (row["model"], knobs["decomposition"]) == ("resnet50", "channel") else 5
    finetune = "method.finetune={epochs:60,learning_rate:0.01,milestones:[0.5]}"
    return [*method, *model, f"method.orthogonality={orthogonality}", finetune]


def _at_its_speed_up(method: str, *more: str) -> Callable[[Row, list[str]], list[str]]:
    """For baselines whose knobs the paper does not print: the printed speed-up is the target."""

    def settings(row: Row, model: list[str]) -> list[str]:
        form = [f"method.form={row['knobs']['decomposition']}"] if method == "trp" else []
        return [f"method={method}", *form, *_family(row), f"speed_up={row['speed_up']:g}", *more]

    return settings


def _post_training(row: Row, model: list[str]) -> list[str]:
    """SVD-NAS's comparison without training: torchvision's weights and, where there are knobs, the printed speed-up."""
    target = [] if row["method"] == "f_group" else [f"speed_up={row['speed_up']:.4g}"]
    return [f"method={row['method']}", *model, "model.weights=imagenet1k_v1", *target]


def _svd_nas(row: Row, model: list[str]) -> list[str]:
    """Searched on the images that accuracy is reported on, as published. The main text's rows print no knobs: they are
    rows of Table S3."""
    if not row["counting"]:
        raise UserError(f"{row['id']} cannot be run: it holds search times, not results")
    knobs = row["knobs"] if "beta" in row["knobs"] else _knobs_of_equal_row(row)
    branch, _, distilled = knobs["setting"].partition("-")
    words = [f"method.beta={knobs['beta']}", f"method.gamma=[{knobs['gamma_range'].replace('-', ',')}]"]
    words += ["method.branches=2"] if branch == "B2" else []
    # held-out training images are evaluated after every epoch, and a distillation ends by them: not a tenth of all
    words += ["dataset.validation=10000", "method.search.split=test"]
    if knobs.get("search_val_images") == "500":
        words += ["method.search.images=500", "method.search.passes=100"]
    if distilled:
        count = {"SD1k": 1_000, "SD25k": 25_000}[distilled]
        words += ["method.distil.setup=synthetic", f"method.distil.images={count}"]
    return ["method=svd_nas", *model, "model.weights=imagenet1k_v1", *words]


def _knobs_of_equal_row(row: Row) -> Mapping[str, Any]:
    numbers = ["flops_change", "params_change", "gain_top1"]
    table = load()
    equal = table[(table["table"] == "S3") & (table["model"] == row["model"])]
    equal = equal[(equal[numbers] - [row[name] for name in numbers]).abs().max(axis=1, skipna=False) < 0.005]
    if len(equal) != 1:
        raise UserError(f"{row['id']} cannot be run: it prints no beta, and no one row of Table S3 equals it")
    return dict(equal.iloc[0]["knobs"])


def _family(row: Row) -> list[str]:
    return [f"model={row['model']}_bottleneck" if row["model"] in BOTTLENECKS else f"model={row['model']}"]


SETTINGS: dict[str, Callable[[Row, list[str]], list[str]]] = {
    "dense": _dense,
    "ssc": _ssc,
    "svd_training": _svd_training,
    "trp": _at_its_speed_up("trp"),
    "zhang2016": _at_its_speed_up("zhang"),
    "jaderberg2014": _at_its_speed_up("jaderberg"),
    "alds": _post_training,
    "lr_s2": _post_training,
    "f_group": _post_training,
    "svd_nas": _svd_nas,
}
