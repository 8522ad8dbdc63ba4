"""Published rows of methods that cut filters and channels: their settings, and what differs from the papers."""

from __future__ import annotations

from paredown.published.table import PublishedRow

TRAINED = "model.weights=imagenet1k_v1"
CONSTANTS = "batch norm's scale and shift are zero with a filter: the cut network is the trained one, theirs is not"
SFP_COUNT = "the printed speed-up is of fractions of filters; ours, of whole ones, is smaller at the same rate"
WARM_UP = "the first epoch at a tenth of the rate is left out"
NARROW_NORMS = "batch norms are as narrow as their filters, theirs keep their width"
BASE = "the training before is not known: 160 epochs as GraSP"
AT_COST = "rates are not printed: found for the printed speed-up"
NO_CODE = (
    "no official code: rates, finetuning and whether sums are cut are not known; the printed speed-up is the target"
)
SHIFTED = "the printed name says another width than the printed speed-up, which is taken"
STRIDE = "the network has its stride in the 3 x 3 convolutions, theirs in the first 1 x 1"
PARTS = "who ran it, and how, is not said: the printed part of all parameters, of all channels, and a full finetuning"
CENTRIPETAL_BASE = "when the rate of the first training falls is not known: at a third and two thirds"
RETRAINED = "from torchvision's weights"
FIRST_POINT = {"13", "14", "15", "16"}  # rows of Table 6 at CNN-FCF's rate 0.25


def settings(row: PublishedRow, model: list[str]) -> list[str]:
    """Return the overrides of a row by one of METHODS, without those that all rows share."""
    on_imagenet = row["dataset"] == "imagenet"
    if row["paper"] == "ssc":
        return [*_named(row), *model, f"method.keep_params={1 + row['params_change'] / 100:.3g}"]
    if row["method"] == "sfp":
        recipe = "recipe=sfp_imagenet" if on_imagenet else "recipe=sfp"
        return ["method=sfp", "method.keep=0.7", *_network(row, model, "A"), recipe]
    if row["method"] == "nisp":
        return ["method=nisp", *_network(row, model, "B"), *_recipe(row), f"speed_up={row['speed_up']:g}"]
    if row["method"] == "cnn_fcf":
        return _cnn_fcf(row, model)
    return _c_sgd(row, model)


def _cnn_fcf(row: PublishedRow, model: list[str]) -> list[str]:
    on_imagenet = row["dataset"] == "imagenet"
    amount = "method.keep=0.75" if fixed_rate(row) else f"speed_up={row['speed_up']:g}"
    words = ["method.alpha=0.65", "method.rho=0.001", "method.growth=1.005"] if on_imagenet else []
    epochs, drops = (90, "0.3333,0.6667") if on_imagenet else (150, "0.4,0.8")
    select = "method.select={epochs:30,learning_rate:0.1,milestones:[0.3333,0.6667]}"
    finetune = f"method.finetune={{epochs:{epochs},learning_rate:0.01,milestones:[{drops}]}}"
    return ["method=cnn_fcf", *words, select, finetune, *_network(row, model, "B"), *_recipe(row), amount]


def _c_sgd(row: PublishedRow, model: list[str]) -> list[str]:
    if row["dataset"] != "imagenet":
        stage = "method.centripetal={epochs:600,learning_rate:0.03,milestones:[0.3333,0.6667]}"
        widths = ["method.keep=0.625", "method.steps=[0.8125,0.6875]"]
        return ["method=c_sgd", *widths, stage, *_network(row, model, "A"), "recipe=c_sgd"]
    before = {1.58: ("0.7", ""), 1.86: ("0.6", "0.7"), 2.26: ("0.5", "0.7,0.6")}
    keep, steps = before[float(row["speed_up"])]
    stage = "method.centripetal={epochs:70,learning_rate:0.003,milestones:[0.4286,0.7143,0.8571]}"
    words = [f"method.keep={keep}", f"method.steps=[{steps}]", "method.strength=0.05", "method.scope=internal", stage]
    return ["method=c_sgd", *words, *_network(row, model, "A"), "recipe=imagenet", "recipe.nesterov=true"]


def fixed_rate(row: PublishedRow) -> bool:
    """Return whether the row's widths are known; else its printed speed-up is the target of its runs."""
    first = row["table"] == "6" and str(row["row"]) in FIRST_POINT
    return row["method"] in ("sfp", "c_sgd") or (row["method"] == "cnn_fcf" and first)


def _named(row: PublishedRow) -> list[str]:
    names = {"l1_filter_pruning": "l1_filters", "network_slimming": "slimming"}
    return [f"method={names.get(row['method'], row['method'])}"]


def _network(row: PublishedRow, model: list[str], shortcut: str) -> list[str]:
    """Return the overrides of the model: with the paper's shortcuts on CIFAR-10, trained by torchvision on ImageNet."""
    if row["dataset"] != "imagenet":
        return [*model, f"model.shortcut={shortcut}"]
    return model if row["method"] == "sfp" else [*model, TRAINED]


def _recipe(row: PublishedRow) -> list[str]:
    return ["recipe=imagenet"] if row["dataset"] == "imagenet" else ["recipe=cifar10"]


METHODS = ("sfp", "cnn_fcf", "c_sgd", "nisp", "l1_filter_pruning", "network_slimming", "autoslim")


def differences(row: PublishedRow) -> list[str]:
    """Return what differs between the paper's training of a row by one of METHODS and ours, a phrase each; nothing for
    another method."""
    on_imagenet, method = row["dataset"] == "imagenet", row["method"]
    if method not in METHODS:
        return []
    if row["paper"] == "ssc":
        return [PARTS]
    if method == "sfp":
        return [CONSTANTS, SFP_COUNT, *([] if on_imagenet else [WARM_UP])]
    if method == "nisp":
        return [NO_CODE, *([RETRAINED] if on_imagenet else [])]
    if method == "cnn_fcf":
        return [NARROW_NORMS, *([] if fixed_rate(row) else [AT_COST]), RETRAINED if on_imagenet else BASE]
    deep = [STRIDE, *([] if row["speed_up"] == 1.58 else [SHIFTED])]
    return deep if on_imagenet else [CENTRIPETAL_BASE]
