"""The search's steps against closed forms, and against Adam written out."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.layers.mixed_op import MixedConv2d
from paredown.methods.search.svd_nas.candidates import candidates
from paredown.methods.search.svd_nas.space import place
from paredown.training.fit import fit
from paredown.training.hooks.architecture_search import ArchitectureSearch, cost_factor, entropy, mass_shift
from paredown.training.machine import Machine
from paredown.training.module import Row

POINTS = [["in_group", 1, 1, 400], ["in_group", 1, 2, 800], ["horizontal_first", 1, 1, 600], [None, 1, None, 1000]]
HOOK = ArchitectureSearch(2.0, {"0": 1000, "left": 500}, 2000, 5.0, 0.5, "val")
MACHINE = Machine("cpu", checkpoint_seconds=0, progress=False)
RECIPE = Recipe(10, optimizer="adam", learning_rate=0.01, weight_decay=5e-4)


def layer() -> MixedConv2d:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    made = MixedConv2d(conv, POINTS, [])
    made.set_weight_(conv)
    return made


def started(hook: ArchitectureSearch = HOOK) -> nn.Sequential:
    network = nn.Sequential(layer(), nn.BatchNorm2d(6))
    hook.start(at(network))
    return network


def at(network: nn.Module, epoch: int = 0) -> FitState:
    return FitState(network, Context(None, torch.device("cpu"), 0), RECIPE, epoch)


def test_only_thetas_learn_and_batch_norm_rests() -> None:
    network = started()
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["0.theta"]
    assert not network[1].training
    assert HOOK.state_dict() == {"total": 2000.0}
    HOOK.before_step(at(network, 1))
    assert network[0].temperature == 5.0 * HOOK.decay


def test_the_cost_factor_and_its_sensitivity() -> None:
    # the published networks' numbers: ln P / ln P0 of ResNet-18 at the start, and beta / ln P for a change of 1 %
    targeted, whole = torch.tensor(1_676_279_808.0), 1_819_066_368.0
    assert float(cost_factor(targeted, whole, 1.0)) == pytest.approx(0.99617, abs=1e-5)
    for beta, slope in ((2, 0.094), (16, 0.75), (48, 2.25), (88, 4.1)):
        change = cost_factor(targeted * 1.0001, whole, beta) / cost_factor(targeted, whole, beta) - 1
        assert float(change.double()) / 1e-4 == pytest.approx(slope, rel=0.05)


def test_the_loss_is_cross_entropy_times_the_factor_and_layers_left_out_count() -> None:
    network = started()
    network[0].expected = torch.tensor(700.0)
    found = HOOK.loss(at(network), torch.zeros(3, 1), torch.zeros(3, 2), torch.tensor(1.5))
    assert float(found) == pytest.approx(1.5 * (math.log(1200) / math.log(2000)) ** 2)


def test_the_pairs_mass_stays_what_it_was() -> None:
    new, old = torch.tensor([1.3, 0.2]), torch.tensor([1.0, 0.4])
    for heat in (5.0, 0.842, 0.1):
        shift = mass_shift(new, old, heat)
        mass = [float((theta.double() / heat).exp().sum()) for theta in (new - shift, old)]
        assert mass[0] == pytest.approx(mass[1], rel=1e-5)
        direct = heat * math.log(
            sum(math.exp(x / heat) for x in (1.3, 0.2)) / sum(math.exp(x / heat) for x in (1, 0.4))
        )
        assert float(shift) == pytest.approx(direct, rel=1e-4)


def test_a_step_is_coupled_adam_and_the_correction() -> None:
    network = started()
    searched, optimizer = network[0], HOOK.optimizer(at(network))
    by_hand = copy.deepcopy(searched.theta.detach())
    moments = [torch.zeros(4), torch.zeros(4)]
    for step in range(1, 4):
        HOOK.before_step(at(network))
        pair = list(searched.pair)
        assert len(set(pair)) == 2
        loss = HOOK.loss(at(network), x := torch.randn(2, 4, 8, 8), torch.zeros(2, 2), network(x).square().mean())
        optimizer.zero_grad()
        loss.backward()
        gradient = searched.theta.grad.detach() + 5e-4 * by_hand
        assert set(range(4)) - set(pair) == set((searched.theta.grad == 0).nonzero().flatten().tolist())
        optimizer.step()
        HOOK.after_step(at(network))
        moments = [0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2]
        old = by_hand[pair].clone()
        rate = (moments[0] / (1 - 0.9**step)) / ((moments[1] / (1 - 0.999**step)).sqrt() + 1e-8)
        by_hand = by_hand - 0.01 * rate
        by_hand[pair] -= 5 * ((by_hand[pair] / 5).exp().sum() / (old / 5).exp().sum()).log()
        assert torch.allclose(searched.theta.detach(), by_hand, atol=1e-5)
        assert searched.pair is None and int(searched.choice) == int(by_hand.argmax())


def test_what_is_never_drawn_falls_as_adam_scales_the_decay_up() -> None:
    """Worked numbers of the specification: from 1.0 to 0.90, 0.22 and 0.016 after 10, 100 and 200 steps."""
    network = started()
    searched, optimizer = network[0], HOOK.optimizer(at(network))
    seen = {}
    for step in range(1, 201):
        searched.theta.grad = torch.zeros(4)
        optimizer.step()
        seen[step] = float(searched.theta[0])
    assert [seen[step] for step in (10, 100, 200)] == pytest.approx([0.90, 0.22, 0.016], abs=0.01)


def test_an_epochs_figures() -> None:
    network = started()
    searched = network[0]
    searched.theta.data = torch.tensor([0.0, math.log(3), -50.0, -50.0])
    searched.choice.fill_(1)
    row = HOOK.after_epoch(at(network))
    assert row["search/expected_macs"] == pytest.approx(500 + 0.25 * 400 + 0.75 * 800)
    assert (row["search/choice_macs"], row["choice/0"]) == (1300, 1)
    nats = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert row["search/entropy"] == pytest.approx(nats / math.log(4)) and entropy(
        torch.full((4,), 0.25)
    ) == pytest.approx(math.log(4))


def test_the_released_codes_total_is_what_was_drawn_every_ten_epochs() -> None:
    hook = ArchitectureSearch(2.0, {"0": 1000, "left": 500}, 2000, 5.0, 0.9, "val", update_total=True)
    network = started(hook)
    network[0].theta.data = torch.tensor([0.0, 0.0, 99.0, 0.0])
    totals = []
    for epoch in range(10):
        hook.after_epoch(at(network, epoch))
        totals.append(hook.state_dict()["total"])
    assert totals == [2000.0] * 9 + [2000.0 - 1000 + 600]


def _one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    hook = ArchitectureSearch(2.0, {"0": 1000, "left": 500}, 2000, 5.0, 0.9, "val", update_total=True)
    network = started(hook)
    network[0].theta.data.zero_()
    torch.manual_seed(100 + rank)  # an epoch's seed differs between ranks
    totals = []
    for epoch in range(9, 80, 10):
        hook.after_epoch(at(network, epoch))
        totals.append(hook.state_dict()["total"])
    Path(f"{folder}/{rank}").write_text(json.dumps(totals))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_draw_one_total(tmp_path: Path) -> None:
    multiprocessing.spawn(_one_rank, (str(tmp_path),), nprocs=2)
    first, second = ((tmp_path / str(rank)).read_text() for rank in (0, 1))
    assert first == second and len(set(json.loads(first))) > 1


def test_equal_candidates_are_drawn_equally_often() -> None:
    conv = nn.Conv2d(4, 4, 3)
    points = [c.point() for c in candidates(conv, 6, (0.4, 0.9), 0.1)]
    network = nn.Sequential(made := MixedConv2d(conv, points, []))
    HOOK.start(at(network))
    torch.manual_seed(0)
    counts = torch.zeros(len(points))
    for _ in range(2000):
        HOOK.before_step(at(network))
        counts[list(made.pair)] += 1
    assert (counts / 4000 * len(points) - 1).abs().max() < 0.25


def search(
    data: Digits, folder: Path, beta: float, stop_after: int | None = None, epochs: int = 4
) -> tuple[nn.Module, list[Row]]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    convs = {"0": nn.Conv2d(1, 8, 3, padding=1), "2": nn.Conv2d(8, 8, 3, padding=1)}
    points = {name: [c.point() for c in candidates(conv, 8, (0.3, 0.9), 0.6)] for name, conv in convs.items()}
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    module = nn.Sequential(convs["0"], nn.ReLU(), convs["2"], *head)
    network = Network(module, {}, (1, 8, 8))
    for name in convs:
        place(network, name, points[name])
    macs = {name: listed[-1][3] for name, listed in points.items()}
    hook = ArchitectureSearch(beta, macs, sum(macs.values()) + 80, 1.0, 0.7, "val", images=100)
    folder.mkdir(exist_ok=True)
    stage = Fit(
        "search", replace(RECIPE, epochs=epochs, batch_size=20, learning_rate=0.1, schedule="constant"), (hook,)
    )
    rows = fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, folder, report)
    return network.module, rows


@pytest.mark.parametrize("more", [{}, {"images": 100}, {"images": 30, "passes": 3}, {"split": "test"}])
def test_an_epoch_has_the_images_that_it_says(data: Digits, more) -> None:
    hook = replace(HOOK, **more)
    seen = sum(len(labels) for _, labels in hook.loader(data, 16, 0, device=torch.device("cpu")))
    assert hook.images_per_epoch(data) == seen != data.sizes["train"]


def test_a_killed_search_ends_bit_equal(data: Digits, tmp_path: Path) -> None:
    whole, rows = search(data, tmp_path / "whole", 16)
    with pytest.raises(KeyboardInterrupt):
        search(data, tmp_path / "cut", 16, stop_after=1)
    resumed, again = search(data, tmp_path / "cut", 16)
    theirs = whole.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in resumed.state_dict().items())
    keep = ("search/entropy", "search/expected_macs", "choice/0", "val/top1", "train/objective")
    assert [[row[name] for name in keep] for row in again] == [[row[name] for name in keep] for row in rows]
    assert whole[0].temperature == pytest.approx(0.7**3)


def test_more_beta_searches_fewer_macs_and_only_thetas_move(data: Digits, tmp_path: Path) -> None:
    found = {}
    for beta in (0.0, 30.0):
        module, rows = search(data, tmp_path / str(beta), beta, epochs=20)
        found[beta] = rows[-1]["search/expected_macs"]
    assert found[30.0] < 0.9 * found[0.0], found
    torch.manual_seed(0)
    assert torch.equal(module[0].weight, nn.Conv2d(1, 8, 3, padding=1).weight)
    entropies = [row["search/entropy"] for row in rows]
    assert entropies[-1] < entropies[0] <= 1
