"""Readers of the papers' tables: each maps the printed cells of a row to the columns of `table.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Cells = dict[str, str]  # a row of a CSV file, as printed
Columns = dict[str, Any]  # the columns of `table.py` that a reader fills

# how each method's MACs were counted (names of cost/conventions.py); TRP's authors measured zhang2016, jaderberg2014
COUNTING = {
    "svd_training": "conv",
    "trp": "conv",
    "zhang2016": "conv",
    "jaderberg2014": "conv",
    "sfp": "sfp",
    "cnn_fcf": "cnn_fcf",
    "c_sgd": "conv_fc",
    "nisp": "not stated",
}
MODELS = {"ResNet-18": "resnet18", "MobileNetV2": "mobilenet_v2", "EfficientNet-B0": "efficientnet_b0"}
METHODS = {"SVD-NAS": "svd_nas", "ALDS": "alds", "LR-S2": "lr_s2", "F-Group": "f_group"}


def ssc(cells: Cells) -> Columns:
    """Read a row of Verma et al., WACV 2023, Tables 1 to 5: accuracy at a sparsity, and the dense accuracy."""
    kept = number(cells["params_pct"])
    model, network = _ssc_network(cells["model"], cells["dataset"])
    dense = {"speed_up": 1.0, "compression": 1.0} if cells["method"] == "dense" else {}
    return {
        "table": cells["table"],
        "dataset": cells["dataset"],
        "model": model,
        "network": network,
        "method": cells["method"],
        "label": cells["method_label"],
        "top1": number(cells["top1"]),
        "top1_std": number(cells["top1_std"]),
        "top5": number(cells["top5"]),
        "dense_top1": number(cells["unpruned_top1"]),
        "dense_top5": number(cells["unpruned_top5"]),
        # Table 5 prints parameters, all of them, and no sparsity of weights: what the file has is 100 - that
        "sparsity": number("" if cells["params_pct"] else cells["sparsity_pct"]) / 100,
        "params_change": kept - 100,
        "compression": 100 / kept,
        "counting": "params" if cells["params_pct"] else "conv_fc",
        "gain_reference": "own_full_rank_model" if cells["method"] == "dense" else "unpruned_row_of_this_table",
        "details": _present(cells, "source", "cited_ref", "method_family"),
    } | dense


def _ssc_network(model: str, dataset: str) -> tuple[str, Columns]:
    """Return model and settings of GraSP's code, which the paper follows: ResNets of double width, CIFAR stems."""
    if model == "resnet32":
        return model, {"width": 2}
    if model == "shufflenet_v2" and dataset == "cifar10":
        return model, {"stem": "cifar"}
    return ("mobilenet_v2_cifar" if (model, dataset) == ("mobilenet_v2", "cifar10") else model), {}


def svd_training(cells: Cells) -> Columns:
    """Read a row of Yang et al., CVPR-W 2020, Tables 3 to 8: a gain in top-1 or top-5 at a speed-up."""
    top = f"top{cells['top_k']}"
    hyperparameters = _present(cells, "decomposition", "regularizer")
    hyperparameters |= {
        name: number(cells[cell]) for name, cell in (("decay", "decay"), ("energy", "energy_pruned")) if cells[cell]
    }
    return {
        "table": cells["table"],
        "dataset": cells["dataset"],
        "model": cells["model"],
        "network": {"width": 1} if cells["model"] == "resnet32" else {},
        "method": cells["method"],
        "label": cells["variant"] or "SVD training",
        "hyperparameters": hyperparameters,
        f"gain_{top}": number(cells["acc_gain_pp"]),
        f"dense_{top}": number(cells["base_acc"]),
        "speed_up": number(cells["speed_up"]),
        "counting": COUNTING[cells["method"]],
        "gain_reference": cells["gain_reference"],
        "details": _present(cells, "source"),
    }


def svd_nas(table: str) -> Callable[[Cells], Columns]:
    """Return the reader of `table` of Yu and Bouganis, WACV 2023: S1 to S3 of the supplement or, from a third party,
    the main text's. ImageNet; gains against the pretrained network, changes of FLOPs and parameters in percent."""

    def read(cells: Cells) -> Columns:
        label = cells.get("method", "SVD-NAS")
        counted = "delta_flops_pct" in cells
        flops, params = (number(cells.get(f"delta_{what}_pct", "")) for what in ("flops", "params"))
        return {
            "table": table,
            "dataset": "imagenet",
            "model": MODELS[cells["model"]],
            "method": METHODS[label.split(" (")[0]],
            "label": label,
            "hyperparameters": _present(
                cells, "setting", "iteration", "search_val_images", "beta", "gamma_range", "tau_proxy"
            ),
            "gain_top1": number(cells.get("delta_top1_pp", "")),
            "gain_top5": number(cells.get("delta_top5_pp", "")),
            "flops_change": flops,
            "params_change": params,
            "speed_up": 1 / (1 + flops / 100),
            "compression": 1 / (1 + params / 100),
            "counting": "thop" if counted else "",
            "gain_reference": "pretrained_model" if counted else "",
            "details": _present(cells, "gpu", "gpu_hours"),
        }

    return read


def beta_lasso(cells: Cells) -> Columns:
    """Read a row of Neyshabur, NeurIPS 2020, Tables 3 and 4: weight counts of each layer, no accuracies."""
    rest = {name: cell for name, cell in cells.items() if cell and name not in ("table", "variant", "layer", "note")}
    return {
        "table": cells["table"],
        "model": cells["variant"].lower().replace("-", "_"),
        "label": cells["variant"],
        "hyperparameters": {"layer": cells["layer"]},
        "counting": "weights",
        "details": rest,
    }


def number(cell: str) -> float:
    """Return the number in `cell`, NaN for an empty one."""
    return float(cell) if cell else float("nan")


def _present(cells: Cells, *names: str) -> Columns:
    return {name: cells[name] for name in names if cells.get(name)}
