"""How the rows of each paper's tables are read: a dict of printed cells to a dict of `table.py`'s columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Cells = dict[str, str]
Row = dict[str, Any]

# who counts how (names of cost/rules.py); the rows of zhang2016 and jaderberg2014 were measured by TRP's authors
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


def ssc(cells: Cells) -> Row:
    """Verma et al., WACV 2023, tables 1 to 5: accuracy at a sparsity, the dense accuracy beside it."""
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
        "sparsity": number(cells["sparsity_pct"]) / 100,
        "params_change": kept - 100,
        "compression": 100 / kept,
        "counting": "params" if cells["params_pct"] else "conv_fc",
        "gain_reference": "own_full_rank_model" if cells["method"] == "dense" else "unpruned_row_of_this_table",
        "details": _present(cells, "source", "cited_ref", "method_family"),
    } | dense


def _ssc_network(model: str, dataset: str) -> tuple[str, Row]:
    """The networks of GraSP's code, which the paper follows: ResNets of double width; stems for 32 x 32 images."""
    if model == "resnet32":
        return model, {"width": 2}
    if model == "shufflenet_v2" and dataset == "cifar10":
        return model, {"stem": "cifar"}
    return ("mobilenet_v2_cifar" if (model, dataset) == ("mobilenet_v2", "cifar10") else model), {}


def svd_training(cells: Cells) -> Row:
    """Yang et al., CVPR-W 2020, tables 3 to 8: a gain at a speed-up, in top-1 or top-5."""
    top = f"top{cells['top_k']}"
    knobs = _present(cells, "decomposition", "regularizer")
    knobs |= {
        name: number(cells[cell]) for name, cell in (("decay", "decay"), ("energy", "energy_pruned")) if cells[cell]
    }
    return {
        "table": cells["table"],
        "dataset": cells["dataset"],
        "model": cells["model"],
        "method": cells["method"],
        "label": cells["variant"] or "SVD training",
        "knobs": knobs,
        f"gain_{top}": number(cells["acc_gain_pp"]),
        f"dense_{top}": number(cells["base_acc"]),
        "speed_up": number(cells["speed_up"]),
        "counting": COUNTING[cells["method"]],
        "gain_reference": cells["gain_reference"],
        "details": _present(cells, "source"),
    }


def svd_nas(table: str) -> Callable[[Cells], Row]:
    """Yu and Bouganis, WACV 2023: supplement tables S1 to S3 and, from a third party, the main text's. ImageNet; gains
    against the pretrained network, changes of FLOPs and parameters in percent."""

    def read(cells: Cells) -> Row:
        label = cells.get("method", "SVD-NAS")
        counted = "delta_flops_pct" in cells
        flops, params = (number(cells.get(f"delta_{what}_pct", "")) for what in ("flops", "params"))
        return {
            "table": table,
            "dataset": "imagenet",
            "model": MODELS[cells["model"]],
            "method": METHODS[label.split(" (")[0]],
            "label": label,
            "knobs": _present(cells, "setting", "iteration", "search_val_images", "beta", "gamma_range", "tau_proxy"),
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


def beta_lasso(cells: Cells) -> Row:
    """Neyshabur, NeurIPS 2020, tables 3 and 4: no results but the weights of each layer, printed and counted."""
    rest = {name: cell for name, cell in cells.items() if cell and name not in ("table", "variant", "layer", "note")}
    return {
        "table": cells["table"],
        "model": cells["variant"].lower().replace("-", "_"),
        "label": cells["variant"],
        "knobs": {"layer": cells["layer"]},
        "counting": "weights",
        "details": rest,
    }


def number(cell: str) -> float:
    """The number in `cell`, NaN where it is empty."""
    return float(cell) if cell else float("nan")


def _present(cells: Cells, *names: str) -> Row:
    return {name: cells[name] for name in names if cells.get(name)}
