"""The protocols of papers that cut filters and channels, for test_protocols.py: typed in from the papers and codes."""

from __future__ import annotations

from typing import Any

NOTHING = {"epochs": None, "learning_rate": None, "milestones": None}
ALL = {"scope": "all", "least": 1, "round_to": 1}
METHODS = ("sfp", "cnn_fcf", "c_sgd", "nisp", "l1_filter_pruning", "network_slimming", "autoslim")
RECIPES: dict[str, dict[str, Any]] = {  # what differs from GraSP's protocol on the data set
    # he-y/soft-filter-pruning: a fifth of the rate at 60, 120, 160; ImageNet: a tenth every 30 of 100 epochs
    "sfp cifar10": {"epochs": 200, "drops": [60, 120, 160], "gamma": 0.2, "nesterov": True, "weight_decay": 5e-4},
    "sfp imagenet": {"epochs": 100, "drops": [30, 60, 90]},
    # DingXiaoH/Centripetal-SGD: 600 epochs at 0.05 before; when that falls is not known
    "c_sgd cifar10": {"epochs": 600, "drops": [200, 400], "batch_size": 64, "learning_rate": 0.05, "nesterov": True},
    "c_sgd imagenet": {"nesterov": True},
}


def recipe(row: dict[str, Any], grasp: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a row of SVD training's tables, given GraSP's on its data set."""
    return {"weight_decay": 1e-4} | grasp | RECIPES.get(f"{row['method']} {row['dataset']}", {})


def model(row: dict[str, Any]) -> dict[str, Any]:
    """What the row's network has beside its name: SFP and C-SGD pad shortcuts, CNN-FCF has projections."""
    if row["dataset"] == "imagenet":
        return {"weights": None if row["method"] == "sfp" else "imagenet1k_v1"}
    return {"shortcut": "A" if row["method"] in ("sfp", "c_sgd") else "B", "block": "basic"}


def method(row: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a row."""
    on_imagenet, name = row["dataset"] == "imagenet", row["method"]
    part = {84.4: 0.513, 91.5: 0.438, 91.9: 0.46, 89.5: 0.558}  # of the parameters, by the printed top-1 (SSC, Table 5)
    slimmed = {"scope": "all", "keep_params": part.get(row["top1"])}
    first = row["speed_up"] in (1.71, 1.73, 1.75, 1.76)  # CNN-FCF at a rate of a quarter
    keep, steps = {1.58: (0.7, []), 1.86: (0.6, [0.7]), 2.26: (0.5, [0.7, 0.6])}.get(
        row["speed_up"], (0.625, [0.8125, 0.6875])
    )
    return {
        "l1_filter_pruning": ALL
        | {"keep_params": 0.513, "rates": None, "normalise": True}
        | {"finetune": {"epochs": None, "learning_rate": 1e-3, "milestones": [0.5, 0.75]}},
        "network_slimming": ALL | slimmed | {"decay": 1e-4, "start": 0.5, "reduce": "max", "finetune": NOTHING},
        "autoslim": slimmed
        | {"least": 0.15, "steps": 10, "samples": 2, "images": 2000, "supernet": NOTHING, "train": NOTHING},
        "sfp": {"keep": 0.7, "pretrained": False, "batch_norm": True, "every": 1, "soft": NOTHING},
        "nisp": {"keep": None, "images": 2000, "alpha": 0.5, "scope": "all"}
        | {"finetune": {"epochs": None, "learning_rate": 1e-2, "milestones": [0.5, 0.75]}},
        "cnn_fcf": {
            **{"keep": 0.75 if first else None, "reads": "previous", "most": 6.0},
            **{"alpha": 0.65 if on_imagenet else 0.99, "rho": 0.001 if on_imagenet else 0.01},
            "growth": 1.005 if on_imagenet else 1.01,
            "select": {"epochs": 30, "learning_rate": 0.1, "milestones": [0.3333, 0.6667]},  # after 10 and 20
            "finetune": {"epochs": 90, "learning_rate": 0.01, "milestones": [0.3333, 0.6667]}
            if on_imagenet
            else {"epochs": 150, "learning_rate": 0.01, "milestones": [0.4, 0.8]},
        },
        "c_sgd": {
            **{"keep": keep, "steps": steps, "strength": 0.05 if on_imagenet else 3e-3},
            "scope": "internal" if on_imagenet else "all",
            "centripetal": {"epochs": 70, "learning_rate": 3e-3, "milestones": [0.4286, 0.7143, 0.8571]}
            if on_imagenet
            else {"epochs": 600, "learning_rate": 0.03, "milestones": [0.3333, 0.6667]},
        },
    }[name]
