"""Trained rank pruning against NumPy's SVD, against steps of SGD written out, and in whole fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.layers.factorised.forms import Factorisation, matrices
from paredown.layers.factorised.svd import energy_rank
from paredown.surgery.factorise import convolutions
from paredown.training.fit import fit
from paredown.training.hooks.rank_truncation import TrainedRankPruning, spectra, truncated
from paredown.training.machine import Machine
from paredown.training.module import Row

FORMS: tuple[Factorisation, ...] = ("in_group", "vertical_first")
ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


def matrix(weight: Tensor, form: Factorisation) -> Tensor:
    return matrices(weight, form)[0]


def by_svd(m: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray, int]:
    """M's truncation and U_r V_r by the rule's words: drop from the smallest on while less than `energy` is gone."""
    left, s, right = np.linalg.svd(m, full_matrices=False)
    rank = len(s)
    while rank > 1 and (s[rank - 1 :] ** 2).sum() <= energy * (s**2).sum():
        rank -= 1
    left, s, right = left[:, :rank], s[:rank], right[:rank]
    return left * s @ right, left @ right, rank


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (12, 12), (1, 7)])
@pytest.mark.parametrize("energy", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("falling", [1.0, 3.0])
def test_a_truncation_is_that_of_the_svd(shape: tuple[int, int], energy: float, falling: float) -> None:
    rng = np.random.default_rng(0)
    scales = falling ** -np.arange(min(shape))  # 3: singular values over five decades
    left, right = (np.linalg.qr(rng.normal(size=(5, side, min(shape))))[0] for side in shape)
    batch = (left * scales @ right.transpose(0, 2, 1)) * rng.uniform(0.5, 2, (5, 1, shape[1]))
    products, directions, ranks = truncated(torch.tensor(batch), energy)
    for m, product, direction, rank in zip(batch, products, directions, ranks, strict=True):
        expected, across, fewest = by_svd(m, energy)
        assert rank == fewest
        np.testing.assert_allclose(product, expected, atol=1e-9)
        np.testing.assert_allclose(direction, across, atol=1e-9)


def test_a_matrix_of_zeros_or_of_equal_rows_is_truncated() -> None:
    products, directions, ranks = truncated(torch.stack([torch.zeros(3, 4), torch.ones(3, 4)]), 0.1)
    assert ranks == [1, 1] and not products[0].any() and not directions[0].any()
    torch.testing.assert_close(products[1], torch.ones(3, 4).double())
    torch.testing.assert_close(directions[1], torch.full((3, 4), 12**-0.5, dtype=torch.float64))


def test_a_diverged_weight_is_told() -> None:
    with pytest.raises(FloatingPointError, match="training diverged: a weight to truncate is not finite"):
        truncated(torch.full((1, 2, 3), float("nan")), 0.1)


def network() -> Network:
    torch.manual_seed(0)
    return blueprint.create(ARCHITECTURE, (1, 8, 8))


def hook(form: Factorisation = "vertical_first", **changes: float) -> TrainedRankPruning:
    names = tuple(convolutions(network().module, "trp"))
    return TrainedRankPruning(form, names, **({"energy": 0.1, "decay": 3e-4, "period": 1} | changes))  # type: ignore[arg-type]


def at(module: nn.Module, step: int = 0) -> FitState:
    """A fit of `module` at `step` of its first epoch."""
    return FitState(module, Context(None, torch.device("cpu"), 0), Recipe(1), step=step, step_in_epoch=step)


def weights_of(module: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: module.get_submodule(name).weight for name in names}  # type: ignore[misc]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_cuts_to_the_energys_rank_and_adds_its_sub_gradient(form, layout, autocast: bool) -> None:
    module, trp = network().module.to(memory_format=layout), hook(form, decay=0.02)
    before = {name: w.detach().clone() for name, w in weights_of(module, trp.names).items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        trp.before_step(at(module))
        (penalty,) = trp.penalties(at(module)).values()
    scale = 2.0**16  # as a gradient scaler does
    (penalty * scale).backward()
    nuclear = 0.0
    for name, weight in weights_of(module, trp.names).items():
        expected, across, rank = by_svd(matrix(before[name], form).double().numpy(), 0.1)
        now = matrix(weight.detach(), form).double().numpy()
        s = np.linalg.svd(now, compute_uv=False)
        assert 1 < rank < len(s) and s[rank - 1] > 1e-2 * s[0] and (s[rank:] < 1e-6 * s[0]).all()
        np.testing.assert_allclose(now, expected, atol=1e-7)
        direction = trp._directions[name]
        np.testing.assert_allclose(matrix(direction, form).numpy(), across, atol=1e-6)
        # the sub-gradients of the nuclear norm are the D of spectral norm 1 with <D, W> = ||W||_*
        assert np.linalg.norm(matrix(direction, form).numpy(), 2) < 1 + 1e-6
        assert float((direction * weight).sum()) == pytest.approx(s.sum(), rel=1e-6)
        assert torch.equal(weight.grad / scale, torch.tensor(0.02) * direction)
        assert weight.is_contiguous(memory_format=layout)
        nuclear += s.sum()
    assert float(penalty) == pytest.approx(0.02 * nuclear, rel=1e-5)
    others = {name: p for name, p in module.named_parameters() if p.grad is None}
    assert "conv.weight" in others and "layer2.0.conv1.weight" in others  # the first, and one of stride 2


def test_without_truncation_only_the_gradient_changes() -> None:
    module, trp = network().module, hook(truncate=False, decay=1.0)
    trp.before_step(at(module))
    (penalty,) = trp.penalties(at(module)).values()
    untouched = network().module.state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in module.state_dict().items())
    kept = [s[: energy_rank(s, 0.1)].sum() for s in spectra(module, "vertical_first", trp.names).values()]
    assert float(penalty) == pytest.approx(float(sum(kept)), rel=1e-6)


def test_it_acts_at_every_period_of_an_epoch() -> None:
    module, trp = network().module, hook(period=3)
    found = []
    for step in range(7):
        trp.before_step(at(module, step))
        found += [step] if trp.penalties(at(module)) else []
    assert found == [0, 3, 6]


@pytest.mark.parametrize("form", FORMS)
def test_two_steps_are_those_of_sgd_written_out(form: Factorisation) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 6, 3), nn.Flatten()).double()
    weight, rate, momentum, weight_decay, decay = module[1].weight, 0.1, 0.9, 0.01, 0.05
    trp = TrainedRankPruning(form, ("1",), energy=0.3, decay=decay, period=1)
    optimiser = torch.optim.SGD([weight], rate, momentum, weight_decay=weight_decay)
    w, buffer = matrix(weight.detach(), form).numpy().copy(), 0.0
    for step in range(2):
        images, labels = torch.randn(4, 1, 8, 8).double(), torch.randint(10, (4,))
        trp.before_step(at(module, step))
        loss = cross_entropy(module(images), labels)
        (plain,) = torch.autograd.grad(loss, weight, retain_graph=True)
        optimiser.zero_grad()
        (loss + trp.penalties(at(module))["nuclear_norm"]).backward()
        optimiser.step()
        w, across, _ = by_svd(w, 0.3)
        buffer = momentum * buffer + matrix(plain, form).numpy() + decay * across + weight_decay * w
        w = w - rate * buffer
        np.testing.assert_allclose(matrix(weight.detach(), form).numpy(), w, atol=1e-12)


def train(
    data: Digits, folder: Path, *hooks: TrainedRankPruning, stop_after: int | None = None, **changes: object
) -> tuple[nn.Module, list[Row]]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    trained = network()
    folder.mkdir(exist_ok=True)
    recipe = Recipe(**({"epochs": 4, "batch_size": 32, "learning_rate": 0.05} | changes))  # type: ignore[arg-type]
    rows = fit(trained, Fit("train", recipe, hooks), Context(data, torch.device("cpu"), 7), MACHINE, folder, report)
    return trained.module, rows


def test_with_energy_0_and_decay_0_it_is_plain_sgd_to_the_last_bit(data: Digits, tmp_path: Path) -> None:
    plain, _ = train(data, tmp_path / "plain")
    trp, rows = train(data, tmp_path / "trp", hook(energy=0.0, decay=0.0))
    theirs = plain.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in trp.state_dict().items())
    assert "penalty/nuclear_norm" not in rows[0]


@pytest.mark.parametrize("stop_after", [0, 2])
def test_a_resumed_fit_ends_bit_equal(data: Digits, tmp_path: Path, stop_after: int) -> None:
    whole, rows = train(data, tmp_path / "whole", hook(period=5))  # and some 9 steps an epoch
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", hook(period=5), stop_after=stop_after)
    resumed, again = train(data, tmp_path / "cut", hook(period=5))
    theirs = whole.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in resumed.state_dict().items())
    assert [row["rank/truncated"] for row in again] == [row["rank/truncated"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_training_ends_with_fewer_singular_values_than_plain_sgd(data: Digits, tmp_path: Path, form) -> None:
    trp = hook(form)
    ranks, norms = {}, {}
    for name, hooks in {"plain": (), "trp": (trp,)}.items():
        module, rows = train(data, tmp_path / name, *hooks, epochs=8)
        values = spectra(module, form, trp.names).values()
        ranks[name] = [sum(energy_rank(s, energy) for s in values) for energy in (0.1, 0.01)]
        norms[name] = float(sum(s.sum() for s in values))
    assert all(ours < 0.7 * theirs for ours, theirs in zip(ranks["trp"], ranks["plain"], strict=True)), ranks
    assert rows[-1]["rank/truncated"] == ranks["trp"][0] and rows[-1]["nuclear_norm/sum"] == norms["trp"]
    assert norms["trp"] < norms["plain"] and rows[-1]["test/top1"] > 40  # ten classes


def _one_rank(rank: int, folder: str, ranks: int) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet-{ranks}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten())
    trp = TrainedRankPruning("vertical_first", ("1",), energy=0.1, decay=0.1, period=2)
    parallel = DistributedDataParallel(module)
    optimiser = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    images, labels = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    for step in range(5):
        if rank and step == 2:  # as if another processor had rounded otherwise
            module[1].weight.data *= 1 + 1e-6
        trp.before_step(at(module, step))
        loss = cross_entropy(parallel(images[rank::ranks]), labels[rank::ranks])
        optimiser.zero_grad()
        (loss + sum(trp.penalties(at(module)).values())).backward()
        optimiser.step()
    torch.save(module.state_dict(), f"{folder}/{rank}-of-{ranks}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_hold_the_same_weights_as_one_process(tmp_path: Path) -> None:
    _one_rank(0, str(tmp_path), 1)
    torch.multiprocessing.spawn(_one_rank, (str(tmp_path), 2), 2)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    for name, tensor in one.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
