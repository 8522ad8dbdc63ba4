"""Published rows as commands: the overrides of src/run.py that reproduce what the paper trained.

What a paper fixes is written out here or in the recipe that is named; tests/published/test_protocols.py holds the
composed configuration of every row against the papers' protocols, so that no default of conf/ decides in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from paredown.core.errors import UserError, nearest
from paredown.published import filters
from paredown.published.filters import TRAINED
from paredown.published.table import PublishedRow, load

BOTTLENECKS = ("resnet56", "resnet110")  # in SVD training's and TRP's code; docs/methods/svd_training.md
HALVED = {"mobilenet_v2_cifar": "ssc_mobilenet_cifar10", "shufflenet_v2": "ssc_shufflenet_cifar10"}
# The papers train on all images and in fp32: none of their codes has mixed precision.
AS_TRAINED = ("dataset.validation=0", "recipe.precision=32")
NAMES = "reproduce="
# images of each class in a sample, samples, and images a batch, by data set and network: GraSP's configurations
SCORED = {
    ("cifar10", "vgg19"): (10, 1, 50),
    ("cifar10", "resnet32"): (10, 1, 50),
    ("cifar100", "vgg19"): (10, 1, 500),
    ("cifar100", "resnet32"): (5, 2, 250),
    ("tiny_imagenet", "vgg19"): (1, 10, 100),
    ("tiny_imagenet", "resnet32"): (1, 10, 100),
}
# MACs of the whole network as thop counts them, and as our targets do; a test counts both
THOP_AND_OURS = {
    "resnet18": (1_819_066_368, 1_814_073_344),
    "mobilenet_v2": (314_130_496, 300_774_272),
    "efficientnet_b0": (401_678_972, 385_814_752),
}


def rows(name: str) -> list[PublishedRow]:
    """Return the published rows of `name`, a row (svd_training/table3/11) or a table (svd_training/table3). Raise
    UserError for an unknown name."""
    found: list[PublishedRow] = [dict(row) for key, row in _every().items() if f"{key}/".startswith(f"{name}/")]
    if not found:
        tables = [key.rpartition("/")[0] for key in _every()]
        count = tables.count(name.rpartition("/")[0])
        known = f"its rows are 1 to {count}" if count else nearest(name, sorted(set(tables)))
        raise UserError(f"reproduce={name} is no published row or table: {known}")
    return found


@lru_cache(maxsize=1)
def _every() -> dict[str, PublishedRow]:
    return {row["id"]: dict(row) for _, row in load().iterrows()}


def only_row(name: str) -> PublishedRow:
    """Return the published row `name`. Raise UserError for a table, which is a sweep, and for an unknown name."""
    found = rows(name)
    if [row["id"] for row in found] != [name]:
        raise UserError(f"reproduce={name} is a table of {len(found)} rows: src/sweep.py runs it, or give {name}/1")
    return found[0]


def commands(row: PublishedRow, typed: Sequence[str], seeds: int) -> list[list[str]]:
    """Return the overrides of each seed's run: those of the row, replaced and extended by those the user `typed`."""
    more = [word for word in typed if word.partition("=")[0] not in ("seed", "seeds", "reproduce")]
    return [[*left(row, more), *more, f"reproduce={row['id']}", f"seed={seed}"] for seed in range(seeds)]


def left(row: PublishedRow, typed: Sequence[str]) -> list[str]:
    """Return the overrides of `row` that those the user `typed` do not replace. With another choice of a group
    (`model=`) the row's settings in it go, but for what all rows of the papers share."""
    own = {word: word.partition("=")[0] for word in overrides(row)}
    keys = {word.partition("=")[0].lstrip("+~") for word in typed}
    chosen = {word.partition("=")[0].lstrip("+~") for word in typed if word not in own}
    groups = tuple(f"{key}." for key in chosen if "." not in key)
    return [word for word, key in own.items() if key not in keys and (word in AS_TRAINED or not key.startswith(groups))]


def named_row(words: Sequence[str]) -> str | None:
    """Return the row that reproduce=ROW among `words` names, if any."""
    return next((word.removeprefix(NAMES) for word in reversed(words) if word.startswith(NAMES)), None)


def with_row(words: list[str]) -> list[str]:
    """Return `words`, overrides among options of Hydra's command line, with the settings of the published row that
    they name. Raise UserError if there is no such row or it cannot be run."""
    if (name := named_row(words)) is None:
        return words
    typed = [word for word in words if ("=" in word or word.startswith("~")) and not word.startswith("-")]
    (every,) = commands(only_row(name), typed, seeds=1)
    place = words.index(f"{NAMES}{name}")
    return [*words[:place], *(word for word in every[:-1] if word not in words), *words[place:]]


def overrides(row: PublishedRow) -> list[str]:
    """Return the overrides of src/run.py that train `row`. Raise UserError with the reason if it cannot be run."""
    if row["method"] not in SETTINGS:
        what = f"there is no method {row['method']!r} here yet" if row["method"] else "it holds counts, not results"
        raise UserError(f"{row['id']} cannot be run: {what}")
    model = [f"model={row['model']}", *(f"model.{name}={value}" for name, value in row["network"].items())]
    return [f"dataset={row['dataset']}", *SETTINGS[row["method"]](row, model)]


def _dense(row: PublishedRow, model: list[str]) -> list[str]:
    return ["method=dense", *model, *AS_TRAINED]


def _ssc(row: PublishedRow, model: list[str]) -> list[str]:
    if row["model"] in HALVED:  # section 4.2: only the point-wise convolutions, every other channel
        return [f"experiment={HALVED[row['model']]}", *AS_TRAINED]
    return ["method=ssc", *model, f"sparsity={row['sparsity']:g}", *AS_TRAINED]


def _at_sparsity(row: PublishedRow, model: list[str]) -> list[str]:
    return [*model, f"sparsity={row['sparsity']:g}", *AS_TRAINED]


def _before_training(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of SNIP, GraSP and SynFlow, and of interspace pruning by them: the images that GraSP's
    configurations score on; on ImageNet GraSP's 37,500 images, in batches of 20, are 38 of each class."""
    name = row["method"].removeprefix("ip_")
    words = ["method.interspace=true", "method.basis=standard"] if name != row["method"] else []
    if name != "synflow":
        on_imagenet = {"snip": (10, 1, 256), "grasp": (38, 1, 20)}[name]
        per_class, draws, chunk = SCORED.get((row["dataset"], row["model"]), on_imagenet)
        words += [f"method.per_class={per_class}", f"method.draws={draws}", f"method.chunk={chunk}"]
    return [f"method={name}", *words, *_at_sparsity(row, model)]


def _lottery(row: PublishedRow, model: list[str]) -> list[str]:
    epoch = {"lt_original_init": 0, "lt_reset_epoch5": 5}[row["method"]]
    return ["method=lottery", f"method.rewind={epoch}", "method.rounds=1", *_at_sparsity(row, model)]


def _by_curvature(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of OBD and MLPrune: one shot, finetuned as EigenDamage's code does."""
    finetune = "method.finetune={epochs:150,learning_rate:0.001,milestones:[0.5,0.75]}"
    return [f"method={row['method']}", "method.labels=sampled", finetune, *_at_sparsity(row, model)]


def _moving(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of DSR, SET and Deep-R: those of Mostafa and Wang's code as far as they are known."""
    return [f"method={row['method']}", "method.start=uniform", "method.until=1.0", *_at_sparsity(row, model)]


def _svd_training(row: PublishedRow, model: list[str]) -> list[str]:
    printed = row["hyperparameters"]
    names = ("regularizer", "decay", "energy")
    method = ["method=svd_training", f"method.form={printed['decomposition']}"]
    method += [f"method.{name}={printed[name]}" for name in names]
    if row["dataset"] != "imagenet":
        return [*method, *_in_svd_code(row, model), "recipe=svd_training_code", *AS_TRAINED]
    orthogonality = 10 if (row["model"], printed["decomposition"]) == ("resnet50", "channel") else 5
    finetune = "method.finetune={epochs:60,learning_rate:0.01,milestones:[0.5]}"
    stages = [f"method.orthogonality={orthogonality}", finetune]
    return [*method, *model, *stages, "recipe=svd_training_imagenet", *AS_TRAINED]


def _by_trp_authors(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of TRP, and of the SVDs that its authors ran under the names of Zhang and Jaderberg. Their
    hyperparameters are not printed: the printed speed-up is the target."""
    method = {
        "trp": ["method=trp", f"method.form={row['hyperparameters'].get('decomposition')}"],
        "zhang2016": ["method=zhang", "method.mode=svd_energy"],
        "jaderberg2014": ["method=jaderberg", "method.reconstruct=filter"],
    }[row["method"]]
    trained = [*model, TRAINED, "recipe=trp_imagenet"] if row["dataset"] == "imagenet" else None
    network = trained or [*_in_svd_code(row, model), "recipe=trp"]
    return [*method, "method.select=trp", *network, f"speed_up={row['speed_up']:g}", *AS_TRAINED]


def _post_training(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of SVD-NAS's comparison without training: torchvision's weights, and the printed FLOPs as the
    target except for F-Group, which has no hyperparameter to meet one with."""
    target = [] if row["method"] == "f_group" else [f"speed_up={_our_speed_up(row):.5g}"]
    return [f"method={row['method']}", *model, TRAINED, *target, *AS_TRAINED]


def _our_speed_up(row: PublishedRow) -> float:
    """Return the speed-up, in our count, of a network with as many FLOPs fewer as printed in thop's."""
    thop, ours = THOP_AND_OURS[row["model"]]
    return float(ours / (ours + row["flops_change"] / 100 * thop))


def _svd_nas(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the settings of an SVD-NAS row, searched, and its distillation judged, on the images that accuracy is
    reported on, as published. Rows of the main text print no hyperparameters and take them from the equal row of Table
    S3."""
    if not row["counting"]:
        raise UserError(f"{row['id']} cannot be run: it holds search times, not results")
    printed = row["hyperparameters"] if "beta" in row["hyperparameters"] else _hyperparameters_of_equal_row(row)
    branch, _, distilled = printed["setting"].partition("-")
    words = [f"method.beta={printed['beta']}", f"method.gamma=[{printed['gamma_range'].replace('-', ',')}]"]
    words += ["method.branches=2"] if branch == "B2" else []
    words += ["method.search.split=test", "method.distil.split=test"]
    if printed.get("search_val_images") == "500":
        words += ["method.search.images=500", "method.search.passes=100"]
    if distilled:
        count = {"SD1k": 1_000, "SD25k": 25_000}[distilled]
        words += ["method.distil.setup=synthetic", f"method.distil.images={count}"]
    return ["method=svd_nas", *model, TRAINED, *words, *AS_TRAINED]


def _hyperparameters_of_equal_row(row: PublishedRow) -> Mapping[str, Any]:
    numbers = ["flops_change", "params_change", "gain_top1"]
    table = load()
    equal = table[(table["table"] == "S3") & (table["model"] == row["model"])]
    equal = equal[(equal[numbers] - [row[name] for name in numbers]).abs().max(axis=1, skipna=False) < 0.005]
    if len(equal) != 1:
        raise UserError(f"{row['id']} cannot be run: it prints no beta, and no one row of Table S3 equals it")
    return dict(equal.iloc[0]["hyperparameters"])


def _in_svd_code(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the overrides of the model that the code of SVD training and TRP builds under the name in the row."""
    return [f"model={row['model']}_bottleneck"] if row["model"] in BOTTLENECKS else model


def _cut(row: PublishedRow, model: list[str]) -> list[str]:
    return [*filters.settings(row, model), *AS_TRAINED]


SETTINGS: dict[str, Callable[[PublishedRow, list[str]], list[str]]] = {
    "dense": _dense,
    "ssc": _ssc,
    **dict.fromkeys(("snip", "grasp", "synflow", "ip_snip", "ip_grasp", "ip_synflow"), _before_training),
    **dict.fromkeys(("lt_original_init", "lt_reset_epoch5"), _lottery),
    **dict.fromkeys(("obd", "mlprune"), _by_curvature),
    **dict.fromkeys(("dsr", "set", "deep_r"), _moving),
    "svd_training": _svd_training,
    "trp": _by_trp_authors,
    "zhang2016": _by_trp_authors,
    "jaderberg2014": _by_trp_authors,
    "alds": _post_training,
    "lr_s2": _post_training,
    "f_group": _post_training,
    "svd_nas": _svd_nas,
    **dict.fromkeys(filters.METHODS, _cut),
}
