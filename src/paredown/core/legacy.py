"""Names and formats of older versions: what they wrote stays readable.

States of format 1 name models by the paths of the first layout; recorded configurations name methods and data sets so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Entry = dict[str, Any]
FORMS = {"spatial": "vertical_first", "channel": "in_group"}  # of the kinds conv_pair and low_rank
FAMILIES = {"spatial": "horizontal_first"}  # of the kinds grouped_pair, branches and searched
PARTS = {"first.": "body.0.", "second.": "body.1."}  # the layers of a conv_pair
SEARCH_STATE = ("temperature", "total")  # buffers of the kind searched, now in the checkpoint of a search
# `_target_`s that have moved since they were written. Targets are user-facing: add a line when one moves.
MOVED = {
    "paredown.data.cifar.Cifar": "paredown.data.datasets.cifar.Cifar",
    "paredown.data.digits.Digits": "paredown.data.datasets.digits.Digits",
    "paredown.data.folder.Folder": "paredown.data.datasets.folder.Folder",
    "paredown.data.svhn.Svhn": "paredown.data.datasets.svhn.Svhn",
    "paredown.data.tiny_imagenet.TinyImageNet": "paredown.data.datasets.tiny_imagenet.TinyImageNet",
    "paredown.methods.alds.ALDS": "paredown.methods.low_rank.alds.method.ALDS",
    "paredown.methods.beta_lasso.BetaLasso": "paredown.methods.sparse.beta_lasso.BetaLasso",
    "paredown.methods.f_group.FGroup": "paredown.methods.low_rank.f_group.FGroup",
    "paredown.methods.jaderberg.Jaderberg": "paredown.methods.low_rank.jaderberg.Jaderberg",
    "paredown.methods.lr_s2.LRS2": "paredown.methods.low_rank.lr_s2.LRS2",
    "paredown.methods.ssc.SSC": "paredown.methods.sparse.ssc.method.SSC",
    "paredown.methods.svd_nas.SVDNAS": "paredown.methods.search.svd_nas.method.SVDNAS",
    "paredown.methods.svd_training.SVDTraining": "paredown.methods.low_rank.svd_training.SVDTraining",
    "paredown.methods.trp.TRP": "paredown.methods.low_rank.trp.TRP",
    "paredown.methods.zhang.Zhang": "paredown.methods.low_rank.zhang.Zhang",
    "paredown.models.counterparts.counterpart": "paredown.models.cifar.counterparts.counterpart",
    "paredown.models.counterparts.three_fc": "paredown.models.cifar.counterparts.three_fc",
    "paredown.models.mobilenet.mobilenet_v2_cifar": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar",
    "paredown.models.resnet.cifar_resnet": "paredown.models.cifar.resnet.cifar_resnet",
    "paredown.models.vgg.vgg19_bn": "paredown.models.cifar.vgg.vgg19_bn",
    **{
        f"paredown.models.vision.{name}": f"paredown.models.torchvision.{name}"
        for name in ("efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50", "shufflenet_v2")
    },
}


def current_target(target: str) -> str:
    """Return today's path of the class or function that a file of any version calls `target`."""
    return MOVED.get(target, target)


def upgrade(data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Bring `data`, the contents of an architecture.json of format 1, and its `weights` to format 2."""
    architecture = dict(data["architecture"]) | {"_target_": current_target(data["architecture"]["_target_"])}
    blueprint, tensors = upgrade_layers(*_without_teachers(data["blueprint"], weights))
    return {**data, "architecture": architecture, "blueprint": blueprint}, tensors


def _without_teachers(
    blueprint: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Turn each layer of kind `taught`, low rank beside its dense weights, into its low-rank part: `branches`."""
    taught = {name for name, entry in blueprint.items() if entry["kind"] == "taught"}
    entries = {
        name: {**entry, "kind": "branches"} if name in taught else dict(entry) for name, entry in blueprint.items()
    }
    dense = {f"{name}.{part}" for name in taught for part in ("weight", "offset")}
    tensors = {}
    for key, tensor in weights.items():
        name, _, part = key.rpartition(".student.")
        if key not in dense:
            tensors[f"{name}.{part}" if name in taught else key] = tensor
    return entries, tensors


def upgrade_layers(
    blueprint: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Entry], dict[str, Tensor]]:
    """Return `blueprint` and `weights` of format 1 with the present names of factorised layers."""
    # of the layers of a grouped_pair the second alone can have a bias
    biased = {key.rpartition(".body.")[0] for key in weights if key.endswith(".bias")}
    entries = {name: _entry(name, entry, weights, name in biased) for name, entry in blueprint.items()}
    tensors = {}
    for name, tensor in weights.items():
        layer = next((above for above in _above(name) if above in blueprint), "")
        kind, part = (blueprint[layer]["kind"], name.removeprefix(f"{layer}.")) if layer else ("", name)
        if kind != "searched" or part not in SEARCH_STATE:
            tensors[name.removesuffix(part) + _tensor(kind, part)] = tensor
    return entries, tensors


def _above(name: str) -> Iterator[str]:
    """Yield the modules that the tensor `name` is in, the outermost first."""
    return (name[:end] for end, sign in enumerate(name) if sign == ".")


def _entry(name: str, entry: Mapping[str, Any], weights: Mapping[str, Tensor], biased: bool) -> Entry:
    kind, arguments = entry["kind"], {key: value for key, value in entry.items() if key != "kind"}
    if kind == "low_rank" and "form" in entry:
        return {"kind": kind, "factorisation": FORMS[entry["form"]], "rank": entry["rank"]}
    if kind == "conv_pair":
        bias = f"{name}.second.bias" in weights
        return {"kind": "pair", "factorisation": FORMS[entry["form"]], "groups": 1, "rank": entry["rank"], "bias": bias}
    if kind == "grouped_pair":
        return {"kind": "pair", **_branch(arguments), "bias": biased}
    if kind == "searched":
        points = [[FAMILIES.get(point[0], point[0]), *point[1:]] for point in entry["points"]]
        return {"kind": "mixed_op", "points": points, "fixed": [_branch(item) for item in entry.get("fixed", [])]}
    if kind == "branches":
        return {"kind": kind, **arguments, "branches": [_branch(item) for item in entry["branches"]]}
    return dict(entry)


def _branch(branch: Mapping[str, Any]) -> Entry:
    if "family" not in branch:
        return dict(branch)
    family = branch["family"]
    return {"factorisation": FAMILIES.get(family, family), "groups": branch["groups"], "rank": branch["rank"]}


def _tensor(kind: str, name: str) -> str:
    """Return the present name of a layer's tensor."""
    if kind == "conv_pair":
        part = next((old for old in PARTS if name.startswith(old)), "")
        return PARTS.get(part, "") + name.removeprefix(part)
    return name.replace("basis_spatial_", "basis_horizontal_first_") if kind == "searched" else name
