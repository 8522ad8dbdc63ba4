"""Modules as people write them, through `compress`: what it does with their layers, and what it says of the others."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import paredown

SHAPE = (3, 12, 10)
IMAGES = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def loader(**settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, **settings)


class Net(nn.Module):
    """Two convolutions and a linear layer, of which `forward` uses the second convolution by `second`."""

    def __init__(self, second: Callable[[Any, Tensor], Tensor] = lambda net, x: net.b(x)) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)
        self.second = second

    def forward(self, x: Tensor) -> Any:
        return self.head(self.c(self.second(self, self.a(x).relu()).relu()).relu().mean((2, 3)))


def tied() -> nn.Module:
    net = Net()
    net.c = nn.Conv2d(8, 8, 3)
    net.c.weight = net.b.weight
    return net


def hooked() -> nn.Module:
    net = Net()
    net.b.register_forward_hook(lambda layer, inputs, output: 2 * output)
    return net


ALONE = {
    "tied": (tied, {"b", "c"}),
    "hooked": (hooked, {"b"}),
    "by keyword": (lambda: Net(lambda net, x: net.b(input=x)), {"b"}),
    "without a call": (lambda: Net(lambda net, x: functional.conv2d(x, net.b.weight, padding=1)), {"b"}),
    "attributes": (lambda: Net(lambda net, x: net.b(x.to(net.b.weight.dtype))), {"b"}),
    "class": (lambda: Net(lambda net, x: net.b(x) if isinstance(net.b, nn.Conv2d) else x), {"b"}),
}


@pytest.mark.parametrize("name", ALONE)
def test_layers_that_no_other_can_stand_for_are_left_alone(name: str, tmp_path: Path) -> None:
    make, names = ALONE[name]
    torch.manual_seed(0)
    net = make().eval()
    small = paredown.compress(net, "jaderberg", speed_up=1.05, input_shape=SHAPE, progress=False, store=tmp_path)
    assert names <= set(small.report.left) and set(small.report.changed)
    assert {type(small.get_submodule(one)) for one in names} == {nn.Conv2d}
    (state,) = tmp_path.glob(f"store/*/{small.report.key}")  # tied weights are stored, and tied again
    assert torch.equal(paredown.load(state, network=net)(IMAGES), small(IMAGES))
    pruned = paredown.compress(net, "magnitude", sparsity=0.01, input_shape=SHAPE, progress=False)
    torch.testing.assert_close(pruned(IMAGES), net(IMAGES), atol=0.05, rtol=0.05)
    assert pruned.report.metrics["cost/sparsity"] == pytest.approx(0.01, abs=0.01)


def test_masks_fit_a_layer_whose_attributes_are_read() -> None:
    net = ALONE["attributes"][0]()
    assert "b" in paredown.compress(net, "magnitude", sparsity=0.5, input_shape=SHAPE).report.changed


def test_a_mark_is_of_the_module_as_it_is_now() -> None:
    net = hooked()
    small = paredown.compress(net, "magnitude", sparsity=0.5, input_shape=SHAPE)
    small.b._forward_hooks.clear()
    again = paredown.compress(small, "magnitude", sparsity=0.5, input_shape=SHAPE)
    assert "b" in small.report.left and "b" in again.report.changed


@pytest.mark.parametrize("first", ["lr_s2", "magnitude", "alds", "l1_filters"])
def test_a_returned_module_is_compressed_again(first: str) -> None:
    target = {"sparsity": 0.5} if first == "magnitude" else {"speed_up": 1.3}
    once = paredown.compress(Net(), first, input_shape=SHAPE, **target)
    plain = paredown.count(paredown.deploy(once), SHAPE)
    again = paredown.compress(once, "magnitude", sparsity=0.75, input_shape=SHAPE)
    assert again.report.metrics["cost/sparsity"] == pytest.approx(0.75, abs=0.01)
    assert again.report.dense == plain
    assert ("were made plain first" in str(again.report)) == (first != "l1_filters")
    low = paredown.compress(once, "lr_s2", speed_up=1.1, input_shape=SHAPE)
    assert low.report.metrics["cost/speed_up"] >= 1.1 and low(IMAGES).shape == (40, 3)


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, self.more(logits)) if self.training else logits


def test_a_second_head_is_refused_where_something_is_trained_and_only_there() -> None:
    with pytest.raises(paredown.UserError, match=r"TwoHeads returns a tuple in training mode, not logits"):
        paredown.compress(TwoHeads(), "magnitude", sparsity=0.5, train=loader(), epochs=1, progress=False)
    scored = paredown.compress(TwoHeads(), "synflow", sparsity=0.5, input_shape=SHAPE)
    assert scored.report.metrics["cost/sparsity"] == pytest.approx(0.5, abs=0.01)


def pruned_by_torch() -> nn.Module:
    net = Net()
    prune.l1_unstructured(net.b, "weight", 0.3)
    return net


def quantised() -> nn.Module:
    net = Net()
    net.second = None
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


MISTAKES = {
    "float64": (lambda: Net().double(), {}, r"a\.weight is torch\.float64, .*: give net\.float\(\)"),
    "bfloat16": (lambda: Net().bfloat16(), {}, r"a\.weight is torch\.bfloat16"),
    "prune": (pruned_by_torch, {}, r"cannot be copied \(b\.weight\), .*torch\.nn\.utils\.prune\.remove"),
    "quantised": (quantised, {}, r"state holds a .* \(head\._packed_params\..*before it is quantised"),
    "of trainings": (Net, {"norm_images": 20}, r"norm_images is a setting of trainings: recipe=\{'norm_images': 20\}"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_refused_says_what_to_do(name: str) -> None:
    make, settings, said = MISTAKES[name]
    with pytest.raises(paredown.UserError, match=said):
        paredown.compress(make(), "magnitude", sparsity=0.5, input_shape=SHAPE, **settings)


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")],
    ids=["inference mode", "no grad", "default device"],
)
def test_it_trains_inside_of_whatever_is_set(context: Callable[[], Any]) -> None:
    net = Net()
    with context():
        small = paredown.compress(net, "magnitude", sparsity=0.5, train=loader(), epochs=1, progress=False)
    assert small.head.weight.device.type == "cpu" and len(small.report.history) == 1


def test_it_works_in_float32_whatever_the_default_is() -> None:
    net = Net()
    torch.set_default_dtype(torch.float64)
    try:
        small = paredown.compress(net, "alds", speed_up=1.2, input_shape=SHAPE)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in small.parameters()} == {torch.float32}


WRONG = {
    "count of text": (lambda net, path: paredown.count("net", SHAPE), r"module='net' is no nn\.Module"),
    "count of a number": (lambda net, path: paredown.count(net, 5), r"input_shape=5 is no shape"),
    "latency of text": (lambda net, path: paredown.compare_latency(net, "net", (1, *SHAPE)), "small='net' is no"),
    "latency of an image": (lambda net, path: paredown.compare_latency(net, net, SHAPE), "is not .images, channels"),
    "latency of a number": (lambda net, path: paredown.compare_latency(net, net, 5), "shape=5 is no shape"),
    "latency of halves": (lambda net, path: paredown.compare_latency(net, net, (1.5, *SHAPE)), "is no shape"),
    "latency of channels": (
        lambda net, path: paredown.compare_latency(net, net, (1, 1, 8, 8)),
        r"Net does not run on images of shape \(1, 1, 8, 8\)",
    ),
    "latency of dtypes": (
        lambda net, path: paredown.compare_latency(copy.deepcopy(net).double(), net, (1, *SHAPE)),
        r"small is torch\.float32 and dense torch\.float64",
    ),
    "load of a number": (lambda net, path: paredown.load(5), "folder=5 is no path"),
    "export of text": (lambda net, path: paredown.export("net", path, input_shape=SHAPE), "module='net' is no"),
    "export with the batch": (
        lambda net, path: paredown.export(net, path, input_shape=(1, *SHAPE)),
        "is not .channels",
    ),
    "export of channels": (
        lambda net, path: paredown.export(net, path, input_shape=(1, 8, 8)),
        r"Net does not run on images of shape \(8, 1, 8, 8\)",
    ),
    "export to a file": (lambda net, path: paredown.export(net, __file__, input_shape=SHAPE), "choose another folder"),
    "export as text": (lambda net, path: paredown.export(net, path, formats="onnx", input_shape=SHAPE), r"\['onnx'\]"),
    "export as nothing": (lambda net, path: paredown.export(net, path, formats=[], input_shape=SHAPE), "is no list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_one_line(name: str, tmp_path: Path) -> None:
    call, said = WRONG[name]
    with pytest.raises(paredown.UserError, match=said) as raised:
        call(Net(), tmp_path)
    assert "\n" not in str(raised.value)


def test_networks_in_float64_are_counted_and_timed_as_they_are() -> None:
    net = Net().double()
    assert paredown.count(net, SHAPE).macs == paredown.count(Net(), SHAPE).macs
    assert paredown.compare_latency(net, net, (1, *SHAPE), seconds=0.02).ms > 0


def test_no_function_moves_the_generators(tmp_path: Path) -> None:
    net = Net()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    small = paredown.compress(net, "lr_s2", speed_up=1.2, input_shape=SHAPE)
    paredown.count(small, SHAPE)
    paredown.compare_latency(net, small, (2, *SHAPE), seconds=0.02)
    paredown.export(paredown.deploy(small), tmp_path, formats=["program"], input_shape=SHAPE)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and (before[2] == after[2]).all()
