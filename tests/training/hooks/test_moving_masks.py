"""Masks that move in whole fits: when, with exact counts, nothing hidden, resumed bit-equal, and alike on two ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target
from paredown.data.datasets.digits import Digits
from paredown.layers.masked import Masked, MaskedConv2d, MaskedLinear
from paredown.surgery import moves
from paredown.surgery.densities import start_counts
from paredown.surgery.sparsify import masked_layers, sizes
from paredown.training.fit import fit
from paredown.training.hooks.moving_masks import MovingMask, Schedule
from paredown.training.machine import Machine
from paredown.training.module import Row

RESNET8 = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "num_classes": 10, "in_channels": 1}
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)
CPU = torch.device("cpu")
RULES: dict[str, MovingMask] = {
    "set": MovingMask(moves.SET(0.2), ((0.0, 2),)),
    "dsr": MovingMask(moves.DSR(300, 0.01), ((0.0, 2),)),
    "deep_r": MovingMask(moves.DeepR(noise=1e-3, l1=1e-3), ((0.0, 1),)),
    "deep_r, seldom": MovingMask(moves.DeepR(noise=1e-3, l1=1e-3), ((0.0, 7),)),
    "rigl": MovingMask(moves.RigL(0.3), ((0.0, 2),), until=0.75),
    "gradual": MovingMask(moves.Gradual(Goal("sparsity", 0.9), least=8), ((0.0, 2),), until=0.75),
}


def start(method: str, sparsity: float = 0.9) -> Network:
    """A network with random masks of one density, all weights for gradual pruning."""
    torch.manual_seed(0)
    network = blueprint.create(RESNET8, (1, 8, 8))
    layers = masked_layers(network)
    if method != "gradual":
        counts = start_counts(network, Target("sparsity", sparsity), "uniform")
        generator = torch.Generator().manual_seed(1)
        for name, layer in layers.items():
            layer.set_mask(moves.draw(torch.ones_like(layer.mask), counts[name], generator))
    return network


def train(
    data: Digits, folder: Path, network: Network, *hooks: Hooks, stop_after: int | None = None, **recipe: Any
) -> list[Row]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    stage = Fit("train", replace(Recipe(epochs=4, batch_size=64, learning_rate=0.05), **recipe), hooks)
    return fit(network, stage, Context(data, CPU, 7), MACHINE, folder, report)


@identity("test/watch")
class Watch(Hooks):
    """After every step: nothing is left in the weight, the momentum and the gradient where a mask has no weight."""

    def __init__(self) -> None:
        self.active: list[list[int]] = []
        self.moved: list[int] = []
        self._masks: dict[str, Tensor] = {}

    def after_step(self, fit: FitState) -> None:
        layers = {name: layer for name, layer in fit.model.named_modules() if isinstance(layer, Masked)}
        for layer in layers.values():
            buffer = fit.optimizer.state[layer.weight]["momentum_buffer"]
            assert not layer.weight[~layer.mask].any() and not buffer[~layer.mask].any()
            assert buffer.any() and layer.weight.grad is not None and not layer.weight.grad[~layer.mask].any()
        if any(not torch.equal(mask, layers[name].mask) for name, mask in self._masks.items()):
            self.moved.append(fit.step)
            for name, old in self._masks.items():  # what grew has neither a value nor momentum
                layer, grown = layers[name], layers[name].mask & ~old
                assert not layer.weight[grown].any()
                assert not fit.optimizer.state[layer.weight]["momentum_buffer"][grown].any()
        self._masks = {name: layer.mask.clone() for name, layer in layers.items()}
        self.active.append([layer.active_weights() for layer in layers.values()])

    def __copy__(self) -> Watch:
        return self


@pytest.mark.parametrize("method", RULES)
def test_a_fit_moves_when_due_and_hides_nothing(method: str, data: Digits, tmp_path: Path) -> None:
    network, watch = start(method), Watch()
    before = [layer.active_weights() for layer in masked_layers(network).values()]
    rows = train(data, tmp_path, network, RULES[method], watch)
    steps = len(data.train_loader(64, 0, CPU))
    last = 4 * steps - 1 if RULES[method].until == 1 else 3 * steps
    period = RULES[method].period[0][1]
    due = [step for step in range(1, last + 1) if step % period == 0]
    assert set(watch.moved) <= {*due, last} and len(watch.moved) >= 0.9 * len(due) - 1
    if method == "gradual":
        total = sum(sizes(network).values())
        assert sum(watch.active[-1]) == total - math.floor(0.9 * total + 0.5)
    else:
        assert {sum(active) for active in watch.active} == {sum(before)}
    if method in ("set", "deep_r", "deep_r, seldom", "rigl"):
        assert all(active == before for active in watch.active)
    if method == "dsr":
        assert watch.active[-1] != before and len({row["moved/threshold"] for row in rows}) > 1
    densities = {name: layer.active_weights() / layer.mask.numel() for name, layer in masked_layers(network).items()}
    assert {name: rows[-1][f"density/{name}"] for name in densities} == densities
    assert sum(row["moved/connections"] for row in rows) > 0 and rows[-1]["active/weights"] == sum(watch.active[-1])


@pytest.mark.parametrize("method", RULES)
def test_a_fit_killed_after_any_epoch_ends_bit_equal(method: str, data: Digits, tmp_path: Path) -> None:
    whole = start(method)
    rows = train(data, tmp_path / "whole", whole, RULES[method])
    cut = start(method)
    for stop_after in (0, 1, 2) if method == "dsr" else (1,):  # more kills of one fit
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "cut", cut, RULES[method], stop_after=stop_after)
        cut = start(method)
    again = train(data, tmp_path / "cut", cut, RULES[method])
    theirs = whole.module.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in cut.module.state_dict().items())
    figures = [[{k: v for k, v in row.items() if k != "seconds"} for row in each] for each in (rows, again)]
    assert figures[0] == figures[1]


def test_draws_follow_from_the_stages_seed(data: Digits, tmp_path: Path) -> None:
    found = []
    for seed in (7, 7, 8):
        network = start("set")
        stage = Fit("train", Recipe(epochs=1, batch_size=64), (RULES["set"],))
        folder = tmp_path / str(len(found))
        folder.mkdir()
        fit(network, stage, Context(data, CPU, seed), MACHINE, folder, lambda epoch, row: None)
        found.append([layer.mask for layer in masked_layers(network).values()])
    first, same, other = found
    assert all(map(torch.equal, first, same)) and not all(map(torch.equal, first, other))


def test_a_dense_gradient_is_neither_clipped_with_nor_stepped_by(data: Digits, tmp_path: Path) -> None:
    """RigL at a rate that moves nothing: the training is the one without the hook, clipping included."""
    never = MovingMask(moves.RigL(1e-9), ((0.0, 1),))
    networks = [start("rigl"), start("rigl")]
    train(data, tmp_path / "with", networks[0], never, epochs=1, clip_norm=0.05)
    train(data, tmp_path / "without", networks[1], epochs=1, clip_norm=0.05)
    plain = networks[1].module.state_dict()
    for name, value in networks[0].module.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-7)


def test_the_penalties_of_deep_r_are_its_noise_and_decay() -> None:
    mask = torch.rand(300, 300, generator=torch.Generator().manual_seed(0)) < 0.5
    layer = MaskedLinear(nn.Linear(300, 300), mask)
    for ranks in (1, 4):
        found = moves.DeepR(noise=0.09, l1=0.2).penalties({"fc": layer}, ranks)
        noise = torch.autograd.grad(found["noise"], layer.weight)[0]
        assert not noise[~mask].any()
        assert float(noise[mask].std()) == pytest.approx(0.3 * math.sqrt(ranks), rel=0.02)
        decay = torch.autograd.grad(found["l1"], layer.weight)[0]
        assert torch.allclose(decay, 0.2 * layer.weight.sign())
    assert not moves.DeepR(0.0, 0.0).penalties({"fc": layer}, 1)


def test_the_schedule_of_the_specification() -> None:
    falling = ((0.0, 100), (0.125, 200), (0.4, 400), (0.7, 800))
    schedule = Schedule(falling, 0.0, 1.0, ends=False, epochs=200, steps=100)
    found = list(schedule.moves())
    assert found[:24] == [*range(100, 2500, 100)]  # 25 epochs
    assert [step for step in found if 2500 <= step < 8000] == [*range(2600, 8000, 200)]
    assert [step for step in found if step >= 14000] == [*range(14400, 20000, 800)]
    assert not schedule.due(0) and not schedule.due(20000)


def test_a_schedule_begins_and_ends() -> None:
    schedule = Schedule(((0.0, 3),), 0.1, 0.5, ends=True, epochs=4, steps=10)
    assert list(schedule.moves()) == [7, 10, 13, 16, 19, 20]
    assert [schedule.progress(step) for step in (4, 12, 20)] == [0, 0.5, 1]
    assert list(replace(schedule, ends=False).moves()) == [7, 10, 13, 16, 19]


@pytest.mark.parametrize(
    ("hook", "epochs", "message"),
    [
        (RULES["set"], 1, None),
        (
            MovingMask(moves.SET(), ((0.0, 100),)),
            2,
            r"never move: .* \d+ steps, .* 100 steps apart \(method.period\)",
        ),
        (MovingMask(moves.SET(), ((0.0, 100), (0.5, 200))), 2, "moves are 100 and 200 steps apart"),
        (MovingMask(moves.RigL(), ((0.0, 2),), until=0.1), 1, "never move: .* 0 of them open"),
        (MovingMask(moves.Gradual(Goal("sparsity", 0.5)), ((0.0, 9),), until=0.5), 2, "move only once"),
    ],
)
def test_a_period_longer_than_the_training_is_refused(
    hook: MovingMask, epochs: int, message: str | None, data: Digits
) -> None:
    recipe = Recipe(epochs=epochs, batch_size=64)
    if message is None:
        hook.check(recipe, data)
        return
    with pytest.raises(UserError, match=message):
        hook.check(recipe, data)


def test_weights_that_are_not_finite_end_the_training() -> None:
    layer = MaskedLinear(nn.Linear(8, 8), torch.rand(8, 8) < 0.5)
    layer.weight.data[0, 0] = math.nan
    state = state_of(nn.Sequential(layer), 7)
    hook = MovingMask(moves.SET(), ((0.0, 1),))
    hook.start(state)
    state.step = 1
    with pytest.raises(FloatingPointError, match="training diverged: weights of 0 are not finite"):
        hook.after_step(state)


@pytest.mark.parametrize(("flip_at", "moves_at"), [(2, 3), (4, 6), (6, 6)])
def test_a_sign_changed_at_any_step_of_a_period_is_seen(flip_at: int, moves_at: int) -> None:
    """In a period of three steps the signs are those after the last move, after a resume too."""
    layer = MaskedLinear(nn.Linear(4, 4), torch.eye(4).bool())
    layer.weight.data[0, 0] = 1.0
    state = state_of(nn.Sequential(layer), seed=0)
    hook = MovingMask(moves.DeepR(l1=0.0), ((0.0, 3),))
    hook.start(state)
    moved = []
    for step in range(8):
        state.step = step
        remembered = hook.state_dict()
        hook.start(state)
        hook.load_state_dict(remembered)
        hook.before_step(state)
        if step == flip_at:
            layer.weight.data[0, 0] = -1.0
        hook.after_backward(state)
        before = layer.mask.clone()
        hook.after_step(state)
        moved += [step] * (not torch.equal(layer.mask, before))
    assert moved == [moves_at]


def test_a_place_that_grew_has_the_sign_of_its_first_step() -> None:
    layer = MaskedLinear(nn.Linear(4, 4), torch.eye(4).bool())
    layer.weight.data.mul_(0)
    state = state_of(nn.Sequential(layer), seed=0)
    hook = MovingMask(moves.DeepR(l1=0.0), ((0.0, 3),))
    hook.start(state)
    before = layer.mask.clone()
    for state.step in range(4):
        hook.before_step(state)
        layer.weight.data[0, 0] = (0.0, 0.5, 0.5, -0.5)[state.step]
        hook.after_step(state)
    assert not torch.equal(layer.mask, before)


class Eight:
    """Stands for a data module of eight batches an epoch."""

    def train_loader(self, batch_size: int, seed: int, device: Any, **place: Any) -> range:
        return range(8)


def state_of(module: nn.Module, seed: int) -> FitState:
    state = FitState(module, Context(Eight(), CPU, seed), Recipe(epochs=1))
    state.optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    return state


def _one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for method, hook in RULES.items():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 10)]
        kinds = {nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}
        density = 1.1 if method == "gradual" else 0.4
        for place, layer in enumerate(layers):
            if kind := kinds.get(type(layer)):
                layers[place] = kind(layer, torch.rand(layer.weight.shape) < density)
        module = nn.Sequential(*layers)
        parallel = DistributedDataParallel(module)
        state = state_of(module, seed=rank)  # as if the ranks drew otherwise
        hook.start(state)
        images, labels = torch.randn(8, 1, 6, 6), torch.randint(10, (8,))
        for step in range(8):
            state.step = step
            torch.manual_seed(10 * step + rank)
            hook.before_step(state)
            loss = cross_entropy(parallel(images[rank::2]), labels[rank::2]) + sum(hook.penalties(state).values())
            state.optimizer.zero_grad()
            loss.backward()
            hook.after_backward(state)
            state.optimizer.step()
            hook.after_step(state)
        momentum = {f"momentum{n}": value["momentum_buffer"] for n, value in enumerate(state.optimizer.state.values())}
        found[method] = {
            **module.state_dict(),
            **momentum,
            "moved": torch.tensor(hook.after_epoch(state)["moved/connections"]),
        }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_hold_the_same_masks_weights_and_momentum(tmp_path: Path) -> None:
    """Though each would draw other places: what is decided on rank 0 is broadcast before it is applied."""
    multiprocessing.spawn(_one_rank, (str(tmp_path),), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for method in RULES:
        assert first[method]["moved"] > 0
        for name, tensor in first[method].items():
            assert torch.equal(tensor, second[method][name]), (method, name)
        for name in ("0", "1", "3"):
            assert not first[method][f"{name}.weight"][~first[method][f"{name}.mask"]].any()
