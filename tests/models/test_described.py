"""The digest of a live module: equal for equal modules in any process, another where anything else is computed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paredown.models import live
from paredown.models.described import ONCE, description


class Base(nn.Module):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Net(Base):
    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        for name, value in given.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.layer(x))


def scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * by


def one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def hooked(function: Any) -> Net:
    (net := Net()).layer.register_forward_hook(function)
    return net


def of_base(body: str) -> nn.Module:
    """Return a network of a class whose base alone differs."""
    space: dict[str, Any] = {"nn": nn, "__name__": "__main__"}
    exec(f"class Low(nn.Module):\n def forward(self, x): return {body}\nclass High(Low): ...", space)
    return space["High"]()


def of_global(value: Any) -> nn.Module:
    space: dict[str, Any] = {"nn": nn, "__name__": "__main__", "WIDTH": value}
    exec("def helper(x): return x * WIDTH\nclass High(nn.Module):\n def forward(self, x): return helper(x)", space)
    return space["High"]()


def tied(same: bool) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    if same:
        net[1].weight = net[0].weight
    return net


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


def buffered(value: float) -> nn.Module:
    (net := Net()).register_buffer("shift", torch.tensor([value]), persistent=False)
    return net


PAIRS: dict[str, Callable[[int], nn.Module]] = {
    "a function": lambda k: Net(act=[torch.relu, torch.tanh][k]),
    "a lambda": lambda k: Net(act=[lambda x: x + 1, lambda x: x + 2][k]),
    "a closure": lambda k: Net(act=scaled(float(k))),
    "a partial": lambda k: Net(act=functools.partial(torch.add, other=k)),
    "a tuple": lambda k: Net(sizes=(1, k)),
    "a list in a dict": lambda k: Net(sizes={"a": [1, k]}),
    "a set": lambda k: Net(sizes={"a", "b", str(k)}),
    "a base class": lambda k: of_base(["x", "-x"][k]),
    "a global": of_global,
    "a hook": lambda k: hooked([one, scaled(3.0)][k]),
    "a tensor aside": lambda k: Net(mean=torch.full((2,), float(k))),
    "a buffer that is not saved": lambda k: buffered(float(k)),
    "an object": lambda k: Net(settings=SimpleNamespace(width=k)),
    "an object with slots": lambda k: Net(settings=Slotted(k)),
    "a module in a list": lambda k: Net(others=[nn.Dropout(k / 2)]),
    "a type": lambda k: Net(kind=[nn.ReLU, nn.Tanh][k]),
    "a dtype": lambda k: Net(kind=[torch.float16, torch.bfloat16][k]),
    "shared weights": lambda k: tied(bool(k)),
    "a graph": lambda k: torch.fx.symbolic_trace(of_base(["x", "-x"][k])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_computes_something_else_has_another_digest(name: str) -> None:
    make = PAIRS[name]
    first, again, second = description(make(0)), description(make(0)), description(make(1))
    assert first == again != second and not first.startswith(ONCE) and not second.startswith(ONCE)


def test_weights_and_the_mode_are_no_part() -> None:
    assert description(Net()) == description(Net().eval())
    assert description(hooked(one)) == description(hooked(one)) != description(Net())


def test_what_cannot_be_described_is_never_equal() -> None:
    net = Net(lock=threading.Lock())
    assert description(net).startswith(ONCE) and description(net) != description(net)


def test_two_networks_of_one_structure_stay_apart() -> None:
    first, second = Net(act=torch.relu), Net(act=torch.tanh)
    given = [live.give(net) for net in (first, second)]
    assert given[0]["digest"] == given[1]["digest"] and given[0] != given[1]
    acts = [live.live(one["digest"], code=one["code"]).act for one in given]
    assert acts == [torch.relu, torch.tanh]
    assert live.live(given[0]["digest"]).act is torch.tanh  # a state of an older version: the last that was given


@pytest.mark.slow
def test_another_process_finds_the_same() -> None:
    names = [name for name in PAIRS if name != "a graph"]
    code = f"import test_described as t\nprint([t.description(t.PAIRS[name](0)) for name in {names!r}])"
    found = set()
    for seed in "12":
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
