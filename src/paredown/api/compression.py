"""Compression of a live module: `compress(net, "zhang", speed_up=2, train=loader)`, on the engine of every command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import nn

from paredown.api.images import GIVE, GivenData, folder_of, read_images
from paredown.api.loaders import Loader
from paredown.api.modules import check_module, checked_shape, classes_of, made_plain
from paredown.api.process import undisturbed
from paredown.api.report import Report
from paredown.core.compressed import CompressedLayer
from paredown.core.config import TYPED, compose
from paredown.core.constraints import written
from paredown.core.deploy import deploy
from paredown.core.errors import UserError
from paredown.core.files import sha256, typed_path, write_tensors
from paredown.core.keys import identity_of
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.progress import Mode
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import compare, count
from paredown.data.images import ImageData
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import open_data, prepare
from paredown.models.live import give
from paredown.run.walk import carry_out_stages
from paredown.store.states import open_store
from paredown.training.evaluate import evaluate

EVAL_BATCH = 256  # images at once
LEARNING_RATE = 0.01  # the networks that are given are trained already
NOTHING_TRAINED = "nothing was trained: give train= and epochs= to finetune"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, CompressedLayer)
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Untrained(Method):
    """Another method where nothing can be trained: what its plan does to the network, not the trainings after it."""

    of: Any
    name: str

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Plan the edits. Raise UserError for a method that trains before, or in place of, them."""
        stages = self.of.plan(target, network, recipe)
        last = max((number for number, stage in enumerate(stages) if isinstance(stage, Edit)), default=-1)
        edits, after = stages[: last + 1], stages[last + 1 :]
        hooks = [hook for stage in after for hook in stage.hooks if identity_of(type(hook)).counts]
        if not edits or hooks or any(isinstance(stage, Fit) for stage in edits):
            raise UserError(f"{self.name} trains the network: {GIVE}, and epochs=")
        return edits

    def check(self, network: Network, data: Any) -> None:
        """Check as the method does."""
        self.of.check(network, data)


def compress(
    module: nn.Module,
    method: str,
    *,
    speed_up: float | None = None,
    sparsity: float | None = None,
    input_shape: tuple[int, int, int] | None = None,
    train: Loader | str | Path | None = None,
    test: Loader | None = None,
    epochs: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    trained: bool = True,
    store: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool | Mode = True,
    **hyperparameters: Any,
) -> nn.Module:
    """Compress a copy of `module`, an image classifier, and return it in eval mode, with what was done as `.report`.

    `method` is a name of `paredown list methods`, `hyperparameters` are its settings (`paredown explain method=NAME`).
    `input_shape` (channels, height, width) is needed only where no loader tells it. `train` and `test` are DataLoaders
    of (images, labels), each image once an epoch in an order that `seed` decides, or `train` a folder of class folders;
    without `train`, or with `epochs=0`, nothing is trained. `epochs` is how long each training is, finetuning too;
    unset, it is 90, and finetuning is as long as the method's `finetune` says. What a search takes is a setting of the
    method (`svd_nas`: `search={"epochs": 3}`). `recipe` has the other settings of trainings (learning_rate, 0.01 unless
    set; batch_size ...). `trained=False` takes the module's weights as a start that methods may train from. `store` is
    a folder that keeps stages for the next call. Raise UserError for whatever is wrong.

    >>> import torch, paredown
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3),
    ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10))
    >>> small = paredown.compress(net, "lr_s2", speed_up=2, input_shape=(3, 32, 32))
    >>> small(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    >>> small.report.metrics["cost/speed_up"] > 1.9
    True
    """
    check_module(module)
    trains = train is not None and epochs != 0
    with _storage(store) as output, undisturbed():
        plain, notes = made_plain(module)
        words = [f"method={method}", f"output={output}", f"seed={seed}", "tracking=off", "dataset=folder"]
        defaults = compose([*words, f"trainer.accelerator={device}", f"trainer.progress={str(progress).lower()}"])
        data = _images(train, test, input_shape, plain, defaults)
        given = {
            "model": _model(plain, data.input_shape, output, trained),
            "method": _hyperparameters(defaults, hyperparameters, epochs if trains else None),
            "recipe": _recipe(defaults["recipe"], recipe, epochs, train),
            "names": defaults["names"] | {"model": type(module).__name__, "dataset": data.name},
            "speed_up": speed_up,
            "sparsity": sparsity,
            TYPED: [f"method.{name}.{key}" for name in hyperparameters for key in _keys(hyperparameters[name])],
        }
        experiment = _planned(defaults | given, data, None if trains else method)
        network, history = carry_out_stages(experiment)
        report = _report(experiment, method, network, history, notes + ([] if trains else [NOTHING_TRAINED]))
    return _returned(network, report, module)


def _planned(config: Mapping[str, Any], data: ImageData, untrained: str | None) -> Experiment:
    """Return the planned experiment; of an `untrained` method, the edits alone."""
    experiment = prepare(config, lambda _: data)
    if untrained is not None:
        return replace(experiment, method=Untrained(experiment.method, untrained))
    trainings = [step.stage for step in experiment.steps if isinstance(step.stage, Fit)]
    for stage in trainings:
        log.info("%s: %d epochs", stage.name, stage.recipe.epochs)
    return experiment


def _images(
    train: Loader | str | Path | None,
    test: Loader | None,
    input_shape: Any,
    module: nn.Module,
    config: Mapping[str, Any],
) -> ImageData:
    """Return the images as a data set. Raise UserError where nothing tells their shape, or the network refuses them."""
    shape = None if input_shape is None else checked_shape(input_shape)
    if (folder := folder_of(train)) is not None:
        if test is not None:
            raise UserError("train= is a folder, whose test/ or val/ is taken: leave test= out")
        return _folder(folder, shape, module, config)
    given = read_images(cast(Loader | None, train), test)
    shape = shape or next((images.shape for images in given if images is not None), None)
    if shape is None:
        raise UserError("input_shape=(channels, height, width) is needed where no loader tells it")
    data = GivenData(*given, shape, classes_of(module, shape))
    data.prepare()
    return data


def _folder(
    folder: Path, shape: tuple[int, int, int] | None, module: nn.Module, config: Mapping[str, Any]
) -> ImageData:
    """Return the images of a folder, scaled to `shape`. Raise UserError where they have another, or other classes."""
    if shape is not None and shape[1] != shape[2]:
        raise UserError(f"input_shape={shape} is oblong: the images of a folder are made square, (3, size, size)")
    data = open_data({**config["dataset"], "root": str(folder), "size": shape and shape[1]})
    data.prepare()
    if shape is not None and data.input_shape != shape:
        raise UserError(f"input_shape={shape}: the images of {folder} are read as {data.input_shape}")
    classes = classes_of(module, data.input_shape)
    if classes != data.num_classes:
        raise UserError(f"{folder} has {data.num_classes} classes, the network gives {classes} logits")
    return data


def _model(module: nn.Module, shape: tuple[int, int, int], output: Path, trained: bool) -> dict[str, Any]:
    """Return the configuration of the given network for images of `shape`; its weights are a file where they are
    `trained`."""
    weights = _weights_file(module, output) if trained else None
    return give(module, shape, start=not trained) | {"weights": weights, "weight_decay": None}


def _weights_file(module: nn.Module, output: Path) -> str:
    """Write the weights of `module` below `output`, by what they are, and return the path."""
    path = output / f"given-{os.getpid()}.safetensors"
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    write_tensors(path, weights)
    return str(path.replace(output / f"given-{sha256(path)[:16]}.safetensors"))


def _hyperparameters(defaults: Mapping[str, Any], given: Mapping[str, Any], epochs: int | None) -> dict[str, Any]:
    """Return the settings of the method: `given` over its `defaults`, and `epochs` for its finetuning. Raise UserError
    for one of a training."""
    merged = dict(defaults["method"])
    for name in given:
        if name in defaults["recipe"] and name not in merged:
            raise UserError(f"{name} is a setting of trainings: recipe={{{name!r}: {given[name]!r}}}")
    if epochs is not None and "finetune" in merged:
        merged["finetune"] = {**merged["finetune"], "epochs": epochs}
    for name, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = {**merged[name], **value} if nested else value
    return merged


def _keys(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, Mapping) else []


def _recipe(
    defaults: Mapping[str, Any], given: Mapping[str, Any] | None, epochs: int | None, train: Any
) -> dict[str, Any]:
    """Return the settings of every training. Raise UserError where `given` has no names."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"recipe={written(given)} is not settings by name, as {{'learning_rate': 0.001}}")
    batch = getattr(train, "batch_size", None)
    own = {"precision": "32", "weight_decay": defaults["weight_decay"] or 1e-4, "learning_rate": LEARNING_RATE}
    own |= {"batch_size": batch} if batch else {}
    own |= {"epochs": epochs} if epochs else {}
    return {**defaults, **own, **(given or {})}


@contextmanager
def _storage(store: str | Path | None) -> Iterator[Path]:
    """Yield the folder that holds the states: `store`, or one that is gone afterwards."""
    if store is not None:
        output = typed_path(store).absolute()
        open_store(output / "store")  # says what is wrong with the folder
        yield output
        return
    with TemporaryDirectory(prefix="paredown-") as folder:
        yield Path(folder)


def _report(
    experiment: Experiment, method: str, network: Network, history: list[dict[str, float]], notes: list[str]
) -> Report:
    cost, dense = count(network.module, network.input_shape), experiment.dense_cost
    metrics = compare(cost, dense) | _accuracies(experiment, network)
    changed = {name: str(entry["kind"]) for name, entry in network.blueprint.items()}
    layers = [name for name, layer in network.module.named_modules() if isinstance(layer, LAYERS)]
    left = tuple(name for name in layers if not any(name == one or name.startswith(f"{one}.") for one in changed))
    names = tuple(step.stage.name for step in experiment.steps)
    return Report(
        method, str(experiment.target or ""), cost, dense, metrics, names, changed, left, tuple(history), tuple(notes),
        experiment.steps[-1].key, network.architecture, network.blueprint, network.input_shape,
    )  # fmt: skip


def _accuracies(experiment: Experiment, network: Network) -> dict[str, float]:
    """Return the top-1 of the dense and of the deployed network on the test images, where there are any."""
    data, device = experiment.data, experiment.device
    if not data.sizes["test"]:
        return {}
    networks = {"dense": experiment.dense().module, "final": deploy(network.module)}
    found = {
        name: evaluate(one, data.eval_loader("test", EVAL_BATCH, device), device) for name, one in networks.items()
    }
    return {f"{name}/{metric}": values[metric] for name, values in found.items() for metric in ("top1", "top5", "loss")}


def _returned(network: Network, report: Report, given: nn.Module) -> nn.Module:
    """Return the compressed module, on the device of the `given` one, with its report."""
    place = next((tensor.device for tensor in given.parameters()), torch.device("cpu"))
    module = network.module.to(place).eval()
    module.report = report  # type: ignore[assignment]
    return module
