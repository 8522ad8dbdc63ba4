"""Rows, sweeps and experiments that are called published, against the papers' protocols, typed in here from the papers
and their codes. Every setting that composes is asked for: one that is in no table below fails, so that no default of
conf/ decides in a paper's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import filter_protocols
import pytest

from paredown.core.config import CONF, TYPED, compose, compose_all
from paredown.core.places import SWEEPS
from paredown.published.settings import overrides, rows
from paredown.sweep.spec import load, points

# settings that change how, where or how fast something runs, never what is computed
EXECUTION = {
    "recipe": {"channels_last", "compile"},
    "dataset": {"root", "cache", "download", "workers", "memory"},
    "method": {"packed"},
    "": {
        *(
            "output",
            "store",
            "tracking",
            "trainer",
            "latency",
            "deploy",
            "seed",
            "seeds",
            "reproduce",
            "names",
            "trust",
            "progress",
        )
    },
}
NOTHING = {"epochs": None, "learning_rate": None, "milestones": None}  # overridden of a stage's recipe

# --- data: all training images, crops and mirrors --------------------------------------------------------------------
ALL_IMAGES = {"validation": 0, "fraction": 1.0, "classes": None, "split_seed": 0}
CROP_AND_FLIP = {"policy": None, "crop": 4, "flip": True, "cutout": 0}
IMAGENET_CROP = {"policy": None, "crop": 0, "flip": True, "cutout": 0}  # random resized crops to 224, as its loader has
DATA = {
    "cifar10": {"variant": 10, "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    "cifar100": {"variant": 100, "mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]},
    "tiny_imagenet": {"mean": [0.4802, 0.4481, 0.3975], "std": [0.2770, 0.2691, 0.2821]},
    "imagenet": {
        "size": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "augment": IMAGENET_CROP,
        "test": 0.2,  # of sets without a folder val, which ImageNet has
    },
}
READERS = {"cifar10": "cifar.Cifar", "cifar100": "cifar.Cifar", "imagenet": "folder.Folder"}

# --- recipes: epochs, epochs of the drops, and the rest ---------------------------------------------------------------
SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "schedule": "steps", "gamma": 0.1}
PLAIN = {"label_smoothing": 0.0, "clip_norm": None, "norm_images": 0, "precision": "32"}
GRASP = {"batch_size": 128, "learning_rate": 0.1, **SGD, **PLAIN}
RECIPES: dict[str, dict[str, Any]] = {
    # GraSP, which SSC follows: alecwangcq/GraSP; ImageNet: 150 epochs, as its author says
    "grasp cifar": {"epochs": 160, "drops": [80, 120], **GRASP},
    "grasp tiny_imagenet": {"epochs": 300, "drops": [150, 225], **GRASP},
    "grasp imagenet": {"epochs": 150, "drops": [50, 100], **GRASP, "batch_size": 256, "weight_decay": 1e-4},
    # SVD training: the released code on CIFAR-10 (Adam, no decay), appendix A on ImageNet
    "svd_training cifar": {
        "epochs": 164,
        "drops": [81, 122],
        "batch_size": 100,
        "learning_rate": 1e-3,
        **SGD,
        "optimizer": "adam",
        "weight_decay": 0.0,
        **PLAIN,
    },
    "svd_training imagenet": {
        "epochs": 90,
        "drops": [30, 60],
        "batch_size": 256,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        **SGD,
        **PLAIN,
    },
    # TRP's code and README; ImageNet: a third party's summary (trained weights, ten epochs at 1e-4)
    "trp cifar": {"epochs": 164, "drops": [81, 122], "weight_decay": 1e-4, **GRASP},
    "trp imagenet": {
        "epochs": 10,
        "drops": [],
        **GRASP,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "weight_decay": 1e-4,
        "schedule": "constant",
    },
    # beta-LASSO, appendix A.2; the paper trained in 16 bits
    "beta_lasso": {
        "epochs": 400,
        "drops": [],
        "batch_size": 512,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "label_smoothing": 0.0,
        "clip_norm": None,
        "norm_images": 0,
        "precision": "bf16",
    },
}

# --- networks ---------------------------------------------------------------------------------------------------------
GRASP_DECAY = {"vgg19": 5e-4}  # the others: 1e-4
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg19": ("cifar.vgg.vgg19_bn", {}),
    "mobilenet_v2_cifar": ("cifar.mobilenet.mobilenet_v2_cifar", {"projections": True}),
    "shufflenet_v2": ("torchvision.shufflenet_v2", {"stem": "cifar", "width": 1.0}),
    **{
        name: (f"torchvision.{name}", {"stem": "imagenet"})
        for name in ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0")
    },
}

# --- methods ----------------------------------------------------------------------------------------------------------
SSC = {
    **{"g": None, "p": None, "p_1x1": None, "parity": "halves", "kernel": "parity", "scope": "conv_fc"},
    **{"init": "dense", "replace_first": False, "replace_shortcuts": True, "pointwise_only": False},
}
SVD_NAS: dict[str, Any] = {
    **{"step": 0.05, "include_end": True, "merge": False, "select": "auto", "relax": 0.2},
    **{"second_gamma": [0.05, 0.4], "second_step": 0.05},  # up to, without, 40 % of the layer; the same 5 %
    "proxy": {"use": "auto", "images": 500, "tolerance": 5.0, "legacy_rank_list": False},
    "search": {
        **{"by": "gradient", "number": 0, "epochs": 100, "second_epochs": 50, "batch_size": 64},
        **{"learning_rate": 0.01, "weight_decay": 5e-4, "temperature": 5.0, "second_temperature": 5.0, "decay": 0.965},
        **{"split": "test", "update_total": False},
    },
    "distil": {
        **{"epochs": None, "batch_size": 64, "learning_rate": 1e-3, "patience": 10, "weight_decay": 1e-4},
        "split": "test",  # "validation accuracy", on the images that the paper reports
    },
    "synthetic": {"steps": 500, "batch_size": 32}
    | dict.fromkeys(["learning_rate", "alpha", "average", "excluded"]),  # as published for the network
}


def dataset(name: str) -> dict[str, Any]:
    reader = READERS.get(name, "tiny_imagenet.TinyImageNet")
    return {
        "name": name,
        "_target_": f"paredown.data.datasets.{reader}",
        "augment": CROP_AND_FLIP,
        **ALL_IMAGES,
        **DATA[name],
    }


def recipe(row: dict[str, Any]) -> dict[str, Any]:
    place = {"imagenet": "imagenet", "tiny_imagenet": "tiny_imagenet"}.get(row["dataset"], "cifar")
    if row["paper"] == "ssc":
        return {"weight_decay": GRASP_DECAY.get(row["model"], 1e-4)} | RECIPES[f"grasp {place}"]
    if row["paper"] == "svd_nas":
        return RECIPES["grasp imagenet"]  # trains nothing: only its precision counts
    if row["method"] in filter_protocols.METHODS:
        return filter_protocols.recipe(row, RECIPES[f"grasp {place}"])
    return RECIPES[f"{'svd_training' if row['method'] == 'svd_training' else 'trp'} {place}"]


def network(row: dict[str, Any]) -> dict[str, Any]:
    name, paper = row["model"], row["paper"]
    brought = paper == "svd_nas" or (paper, row["table"]) == ("svd_training", "7")
    trained: dict[str, Any] = {"weights": "imagenet1k_v1" if brought else None, "head": "keep"}
    trained |= {"weight_decay": GRASP_DECAY.get(name, 1e-4)}
    cuts = paper == "svd_training" and row["method"] in filter_protocols.METHODS
    own = filter_protocols.model(row) if cuts else {}
    if name in NETWORKS:
        function, arguments = NETWORKS[name]
        return trained | {"_target_": f"paredown.models.{function}", **arguments} | own
    deep = paper == "svd_training" and name in ("resnet56", "resnet110")  # in the code, from depth 44 on
    return (
        trained
        | {
            "_target_": "paredown.models.cifar.resnet.cifar_resnet",
            "depth": {"resnet20": 20, "resnet32": 32, "resnet56": 56, "resnet110": 110}[name],
            "width": 2 if paper == "ssc" else 1,  # GraSP's ResNets have twice the channels: 1.86 M weights
            "shortcut": "B",
            "block": "bottleneck" if deep else "basic",
        }
        | own
    )


def method(row: dict[str, Any]) -> dict[str, Any]:
    printed, name = row["hyperparameters"], row["method"]
    if name == "svd_training":
        return svd_training(row["dataset"], row["model"], printed)
    if name == "svd_nas":
        return svd_nas(row)
    if name in filter_protocols.METHODS:
        return filter_protocols.method(row)
    if row["paper"] == "ssc" and name not in ("dense", "ssc"):
        return pruned(row)
    pairs = {"energy": None, "ranks": None, "select": "trp", "images": 3000, "positions": 10}
    # reruns by TRP's authors: an SVD by energy of the 3 x 3 layers of stride 1, and four epochs
    pairs |= {"finetune": {"epochs": 4, "learning_rate": None, "milestones": [0.5]}}
    methods: dict[str, dict[str, Any]] = {
        "dense": {"orthogonality": "none", "decay": 1e-2},
        "ssc": SSC | ({"pointwise_only": True, "p": 2} if row["table"] == "5" else {}),
        "trp": {
            **{"form": printed.get("decomposition"), "period": 5, "energy": 0.1, "decay": 3e-4, "truncate": True},
            **{"threshold": None, "select": "trp", "finetune": NOTHING | {"epochs": 0}},
        },
        "zhang2016": {"mode": "svd_energy", "asymmetric": True, **pairs},
        "jaderberg2014": {"reconstruct": "filter", **pairs},
        "alds": {"ratio": None, "legacy_error": False, "finetune": NOTHING},
        "lr_s2": {"kappa": None, "family": "spatial", "select": "auto", "legacy_cost": False, "finetune": NOTHING},
        "f_group": {"shares": [0.125, 0.25, 0.5], "finetune": NOTHING},
    }
    return methods[name]


SHARED = {"scope": "global", "least": 0}
# images of each class in a sample, samples, and images a batch: alecwangcq/GraSP's configurations; ImageNet: 37,500
# images in batches of 20
GRASP_IMAGES = {
    ("cifar10", "vgg19"): (10, 1, 50),
    ("cifar10", "resnet32"): (10, 1, 50),
    ("cifar100", "vgg19"): (10, 1, 500),
    ("cifar100", "resnet32"): (5, 2, 250),
    ("tiny_imagenet", "vgg19"): (1, 10, 100),
    ("tiny_imagenet", "resnet32"): (1, 10, 100),
}
# Mostafa and Wang's steps between moves for WRN-28-2: 200 epochs, from 0, 25, 80 and 140
STEPS = [[0, 100], [0.125, 200], [0.4, 400], [0.7, 800]]


def pruned(row: dict[str, Any]) -> dict[str, Any]:
    """Methods that SSC's Tables 1 to 4 compare with: their codes, and where those are unknown what the row says."""
    name = row["method"].removeprefix("ip_")
    if name in ("snip", "grasp", "synflow"):
        found = {"interspace": name != row["method"], "basis": "standard", "rounds": 100 if name == "synflow" else 1}
        if name != "synflow":
            other = {"snip": (10, 1, 256), "grasp": (38, 1, 20)}[name]
            images = GRASP_IMAGES.get((row["dataset"], row["model"]), other)
            found |= dict(zip(("per_class", "draws", "chunk"), images, strict=True)) | {"batch_norm": "train"}
        scored = {"temperature": 200, "classifier": "xavier", "order": "highest"} if name == "grasp" else {}
        return SHARED | found | scored
    if name in ("lt_original_init", "lt_reset_epoch5"):
        return SHARED | {"rewind": 5 if name == "lt_reset_epoch5" else 0, "rounds": 1, "per_round": None}
    if name in ("obd", "mlprune"):  # finetuned as in EigenDamage's configurations
        finetune = {"epochs": 150, "learning_rate": 0.001, "milestones": [0.5, 0.75]}
        found = {"images": None, "chunk": 32, "labels": "sampled", "rounds": 1, "finetune": finetune}
        return SHARED | found | ({"damping": 5e-3} if name == "mlprune" else {})
    return {"until": 1.0, "start": "uniform", "least": 0} | {
        "set": {"fraction": 0.1, "one_more": True, "by_sign": False, "back": False, "period": STEPS},
        "dsr": {"budget": 0.1, "threshold": 1e-3, "period": STEPS},
        "deep_r": {"noise": 0.0, "l1": 1e-5, "period": 1},
    }[name]


def svd_training(data: str, model: str, printed: dict[str, Any]) -> dict[str, Any]:
    on_imagenet = data == "imagenet"
    weight = {("resnet50", "channel"): 10.0}.get((model, printed["decomposition"]), 5.0) if on_imagenet else 1.0
    return {
        "form": printed["decomposition"],
        **{name: printed[name] for name in ("regularizer", "decay", "energy")},
        **{"orthogonality": weight, "keep_orthogonality": True, "init": "random", "select": "all"},
        **{"basis": "learned", "fallback_dense": False, "pretrain": NOTHING},
        "finetune": {"epochs": 60, "learning_rate": 0.01, "milestones": [0.5]} if on_imagenet else NOTHING,
    }


def svd_nas(row: dict[str, Any]) -> dict[str, Any]:
    printed = row["hyperparameters"]
    if "beta" not in printed:  # the main text's three rows, each equal to one of Table S3
        beta, gamma = {
            "resnet18": (32, [0.4, 0.8]),
            "mobilenet_v2": (80, [0.6, 0.95]),
            "efficientnet_b0": (48, [0.5, 0.95]),
        }[row["model"]]
        branches, images, few = 1 if row["model"] == "mobilenet_v2" else 2, None, False
    else:
        beta, gamma = float(printed["beta"]), [float(end) for end in printed["gamma_range"].split("-")]
        branches, few = int(printed["setting"][1]), printed.get("search_val_images") == "500"
        images = {"": None, "SD1k": 1_000, "SD25k": 25_000}[printed["setting"][3:]]
    search = SVD_NAS["search"] | ({"images": 500, "passes": 100} if few else {"images": None, "passes": 1})
    distil = SVD_NAS["distil"] | {"images": images, "setup": "synthetic" if images else "none"}
    return SVD_NAS | {"beta": beta, "gamma": gamma, "branches": branches, "search": search, "distil": distil}


def of_paper(row: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What the protocols say for `row`; the target is the row's, and test_published_rows.py's business."""
    return {
        "dataset": dataset(row["dataset"]),
        "recipe": recipe(row),
        "model": network(row),
        "method": method(row),
        "transfer": {"mode": "mask_only"},  # no data set that it comes from: no transfer
        "control": None,
        "sparsity": config["sparsity"],
        "speed_up": config["speed_up"],
        "latency_speed_up": None,  # of one machine
    }


def shown(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without what changes no result, milestones as the epochs where the rate drops, precision as text."""
    found = {name: value for name, value in config.items() if name not in {TYPED, *EXECUTION[""]}}
    for group, left_out in EXECUTION.items():
        if group:
            found[group] = {name: value for name, value in found[group].items() if name not in left_out}
    found["method"].pop("_target_")
    parts, schedule = found["recipe"].pop("milestones"), found["recipe"]["schedule"]
    epochs = found["recipe"]["epochs"]
    found["recipe"] |= {"drops": [round(part * epochs) for part in parts] if schedule == "steps" else []}
    found["recipe"]["precision"] = str(found["recipe"]["precision"])
    if schedule != "steps":
        found["recipe"].pop("gamma")
    if schedule != "one_cycle":
        found["recipe"].pop("warmup")
    budget = found.pop("budget")
    return found | ({"budget": budget} if budget["images"] or budget["epochs"] else {})  # no paper has one


def wanted(expected: dict[str, Any]) -> dict[str, Any]:
    if expected["recipe"]["schedule"] != "steps":
        expected = expected | {"recipe": {k: v for k, v in expected["recipe"].items() if k != "gamma"}}
    return expected


def test_every_row_is_run_by_its_papers_protocol(composed) -> None:
    for row, config in composed:
        assert shown(config) == wanted(of_paper(row, config)), row["id"]


# --- sweeps and experiments ------------------------------------------------------------------------------------------
TABLES = {
    "ssc_table1_resnet32": ("ssc/table1", {"model": "resnet32"}),
    "ssc_table1_vgg19": ("ssc/table1", {"model": "vgg19"}),
    "ssc_table2_resnet32": ("ssc/table2", {"model": "resnet32"}),
    "ssc_table2_vgg19": ("ssc/table2", {"model": "vgg19"}),
    "ssc_table3_resnet50": ("ssc/table3", {}),
    "ssc_table4_resnet18": ("ssc/table4", {}),
    "ssc_table5_cifar10": ("ssc/table5", {}),
    "svd_nas_tableS3_efficientnet_b0": ("svd_nas/tableS3", {"model": "efficientnet_b0"}),
    "svd_nas_tableS3_mobilenet_v2": ("svd_nas/tableS3", {"model": "mobilenet_v2"}),
    "svd_nas_tableS3_resnet18": ("svd_nas/tableS3", {"model": "resnet18"}),
    **{
        f"svd_training_resnet{depth}_{form}": (f"svd_training/table{table}", {"model": f"resnet{depth}", "form": form})
        for table, depths in ((3, (20, 32, 56, 110)), (4, (18,)), (5, (50,)))
        for depth in depths
        for form in ("channel", "spatial")
    },
}
BETA_LASSO = ("beta_lasso_lambda", "beta_lasso_scaling", "beta_lasso_sgd")
STUDIES = ("study_ssc_pairs", "study_svd_nas_branches", "study_svd_training_images")
OURS = ("readme_front", "leaderboard_cifar10", "svd_nas_resnet20_front", *STUDIES)  # no published numbers


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    return shown(config) | {"names": config["names"]["method"]}


def of_table(composed: Any, table: str, where: dict[str, str]) -> Iterator[dict[str, Any]]:
    for row, config in composed:
        form = row["hyperparameters"].get("decomposition")
        has = {"model": row["model"], "form": form}
        if row["id"].rpartition("/")[0] == table and where.items() <= has.items():
            yield comparable(config)


def test_random_masks_stand_beside_what_cifar_and_tiny_imagenet_train() -> None:
    for name in TABLES:
        wanted = ("random",) if name.startswith(("ssc_table1", "ssc_table2")) else ()
        assert load([f"sweep={name}"]).control_kinds == wanted, name


def test_every_sweep_is_known() -> None:
    assert {path.stem for path in SWEEPS.glob("*.yaml")} == {*TABLES, *BETA_LASSO, *OURS}


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_sweep_runs_its_rows(name: str, composed) -> None:
    ours = [comparable(config) for config in compose_all([point.overrides for point in unseeded(name)])]
    theirs = list(of_table(composed, *TABLES[name]))
    assert len(ours) == len(theirs) > 0
    assert [config for config in ours if config not in theirs] == []
    assert [config for config in theirs if config not in ours] == []


def unseeded(name: str) -> list[Any]:
    found = list(points(load([f"sweep={name}"])))
    seeds = {word for point in found for word in point.overrides if word.startswith("seed=")}
    return [point for point in found if not seeds or "seed=0" in point.overrides]


@pytest.mark.parametrize("name", BETA_LASSO)
def test_beta_lassos_grids_are_of_its_protocol(name: str) -> None:
    for config in compose_all([point.overrides for point in points(load([f"sweep={name}"]))]):
        assert_beta_lasso(config, tuned=name == "beta_lasso_sgd")


def assert_beta_lasso(config: dict[str, Any], tuned: bool) -> None:
    """5,000 held-out images choose, as the paper chooses by validation; AutoAugment for its Fast AutoAugment."""
    found, expected = shown(config), wanted({"recipe": RECIPES["beta_lasso"]})["recipe"]
    own = {"momentum", "weight_decay"} if tuned else set()
    assert {k: v for k, v in found["recipe"].items() if k not in own} == {
        k: v for k, v in expected.items() if k not in own
    }
    changed = {"validation": 5000, "augment": CROP_AND_FLIP | {"policy": "cifar10"}}
    assert found["dataset"] == dataset("cifar10") | changed


EXPERIMENTS = {  # with these words, this row
    "ssc_mobilenet_cifar10": ([], "ssc/table5/5"),
    "ssc_shufflenet_cifar10": ([], "ssc/table5/8"),
    "ssc_resnet32_cifar10": (["sparsity=0.9"], "ssc/table1/125"),
    "ssc_resnet32_cifar100": (["sparsity=0.98"], "ssc/table1/130"),
    "ssc_vgg19_cifar10": (["sparsity=0.95"], "ssc/table1/64"),
    "ssc_vgg19_cifar100": (["sparsity=0.9"], "ssc/table1/66"),
    "svd_training_resnet20_cifar10": ([], "svd_training/table3/11"),
    "svd_training_resnet56_cifar10": ([], "svd_training/table3/49"),
    "svd_training_resnet110_cifar10": ([], "svd_training/table3/68"),
    "svd_training_resnet18_imagenet": ([], "svd_training/table4/2"),
    "svd_training_resnet50_imagenet": ([], "svd_training/table5/2"),
}


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "experiment").glob("*.yaml")])
def test_an_experiment_is_the_row_that_it_names(name: str) -> None:
    if name == "beta_lasso_s_fc_cifar10":
        assert_beta_lasso(compose([f"experiment={name}"]), tuned=False)
        return
    words, row = EXPERIMENTS[name]
    assert comparable(compose([f"experiment={name}", *words])) == comparable(compose(overrides(rows(row)[0])))
