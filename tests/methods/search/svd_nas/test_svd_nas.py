"""SVD-NAS: its stages and refusals, the pruning of its space, relaxed ranks, designs that cost what was searched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.layers.factorised.forms import Branch
from paredown.layers.mixed_op import mixed_ops
from paredown.methods.search.svd_nas import space
from paredown.methods.search.svd_nas.candidates import candidates
from paredown.methods.search.svd_nas.config import Proxy, Search
from paredown.methods.search.svd_nas.method import SVDNAS
from paredown.methods.search.svd_nas.space import build, open_second, open_space, restore
from paredown.run import walk
from paredown.surgery.factorise import convolutions, decompose

RECIPE = Recipe(epochs=2)
SPACE = {"gamma": (0.5, 0.9), "step": 0.1, "include_end": True, "merge": False, "proxy": None}
SECOND = {"gamma": (0.05, 0.4), "step": 0.05, "relax": 0.2}


class Data:
    """Stands for a data module of 40 random images in each split."""

    key, eval_splits, sizes = "random", ("val", "test"), {"train": 40, "val": 40, "test": 40}

    def eval_loader(self, split, batch_size, device, images=None):
        generator = torch.Generator().manual_seed(0)
        yield torch.randn(images or 40, 3, 16, 16, generator=generator), torch.arange(images or 40) % 10


def context(shared: Path | None = None) -> Context:
    return Context(Data(), torch.device("cpu"), 0, shared)


def dense() -> Network:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    network.module.eval()
    return network


NAMES = list(convolutions(dense().module, "auto"))


def test_the_stages() -> None:
    stages = SVDNAS(beta=8, branches=2).plan(None, dense(), RECIPE)
    assert [stage.name for stage in stages] == ["train", "space", "search", "second_space", "search_second", "build"]
    search, second = stages[2], stages[4]
    assert isinstance(search, Fit) and isinstance(second, Fit)
    assert (search.recipe.epochs, second.recipe.epochs, search.recipe.optimizer) == (100, 50, "adam")
    assert (search.recipe.learning_rate, search.recipe.weight_decay, search.recipe.schedule) == (0.01, 5e-4, "constant")
    hook = search.hooks[0]
    assert (hook.beta, hook.temperature, hook.decay, set(hook.macs)) == (8, 5, 0.965, set(NAMES))
    one = SVDNAS(beta=8).plan(None, dense(), RECIPE)
    assert one[:3] == stages[:3]  # a second branch shares the first's search
    network = dense()
    network.pretrained = True
    assert isinstance(SVDNAS().plan(None, network, RECIPE)[0], Edit)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SVDNAS(gamma=(0.5, 1.2)), r"gamma=0.5 to 1.2 is no range within \(0, 1\)"),
        (lambda: SVDNAS(gamma=(0.0, 0.9)), r"gamma=0 to 0.9"),
        (lambda: SVDNAS(second_gamma=(0.4, 0.05)), r"second_gamma=0.4 to 0.05 is no range"),
        (lambda: SVDNAS(second_gamma=(0.3, 0.3)), r"second_gamma=0.3 to 0.3 without its end holds no fraction"),
        (lambda: SVDNAS(second_step=0), r"second_step=0 is not above 0"),
        (lambda: SVDNAS(gamma=(0.5, 0.5), include_end=False), r"gamma=0.5 to 0.5 without its end holds no fraction"),
        (lambda: SVDNAS(beta=-1), r"method.beta=-1 \(at least 0\)"),
        (lambda: SVDNAS(search=Search(epochs=0, images=0)), r"search.epochs=0 \(at least 1\); method.search.images=0"),
        (lambda: SVDNAS(search=Search(decay=0)), r"method.search.decay=0 \(in \(0, 1\]\)"),
        (lambda: SVDNAS().plan(Target("speed_up", 2), dense(), RECIPE), r"cannot aim at speed_up=2: method.beta"),
        (lambda: SVDNAS(proxy=Proxy(True, 41)).check(dense(), Data()), r"proxy.images=41 is more than the 40 images"),
        (lambda: SVDNAS(search=Search(images=50)).check(dense(), Data()), r"search.images=50 is more than the 40"),
    ],
)
def test_what_is_refused(make, says) -> None:
    with pytest.raises(UserError, match=says):
        make()


def test_without_a_proxy_task_its_images_need_not_be_there() -> None:
    SVDNAS().check(dense(), Data())


def test_a_network_without_layers_and_a_data_set_without_held_out_images(tmp_path: Path) -> None:
    words = ["method=svd_nas", "dataset=digits", "debug=fast", f"output={tmp_path}"]
    for more, says in (
        (["model=three_fc"], "has no convolution to factorise"),
        (["model=resnet20", "dataset.validation=0"], "searches on held-out images: set dataset.validation"),
        (["model=mobilenet_v2_cifar", "method.proxy.images=500"], r"proxy.images=500 is more than the \d+ images"),
    ):
        with pytest.raises(UserError, match=says):
            assert prepare(compose([*words, *more])).steps


def test_opening_changes_nothing_until_a_choice_is_made() -> None:
    network, before = dense(), dense()
    notes = open_space(network, context(), NAMES, **SPACE)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(network.module(x), before.module(x))
    assert notes["found"] == notes["kept"] and list(mixed_ops(network.module)) == NAMES
    assert count(network.module, (3, 16, 16)).macs == count(before.module, (3, 16, 16)).macs
    assert 1 < notes["bytes"]["searched"] / notes["bytes"]["dense"] < 8
    copies = sum(notes["kept"][n] * before.module.get_submodule(n).weight.nbytes for n in NAMES)  # type: ignore[union-attr]
    assert notes["bytes"]["searched"] < copies / 8


@pytest.mark.parametrize("branches", [1, 2])
def test_what_was_searched_is_what_is_deployed(branches) -> None:
    network, generator = dense(), torch.Generator().manual_seed(branches)
    original = count(network.module, (3, 16, 16)).macs
    open_space(network, context(), NAMES, **SPACE)

    def choose() -> int:
        for layer in mixed_ops(network.module).values():
            layer.choice.copy_(torch.randint(len(layer.points) - 1, (), generator=generator))
        return sum(
            layer.points[int(layer.choice)][3] - layer.points[-1][3] for layer in mixed_ops(network.module).values()
        )

    saved = choose()
    if branches == 2:
        open_second(network, context(), **SECOND)
        saved = choose()
    as_searched = network.module(x := torch.randn(2, 3, 16, 16))
    notes = build(network, context())
    assert count(network.module, (3, 16, 16)).macs == original + saved
    assert {entry["kind"] for entry in network.blueprint.values()} == {"pair" if branches == 1 else "branches"}
    assert torch.allclose(network.module.eval()(x), as_searched, atol=1e-4)
    assert all(len(notes["shares"][name]) == branches for name in notes["designs"])
    json.dumps(notes)


def test_first_branches_give_back_a_fifth_of_the_layer() -> None:
    network = dense()
    open_space(network, context(), NAMES, **SPACE)
    first = mixed_ops(network.module)
    for layer in first.values():
        layer.choice.fill_(4)
    kept = NAMES[0]
    first[kept].choice.fill_(len(first[kept].points) - 1)
    choices = {name: layer.points[int(layer.choice)] for name, layer in first.items()}
    whole = {name: layer.points[-1][3] for name, layer in first.items()}
    notes = open_second(network, context(), **SECOND)
    second = mixed_ops(network.module)
    assert kept not in second and set(second) <= set(NAMES[1:])  # left as it is by the first search
    for name, layer in second.items():
        factorisation, groups, rank, macs = choices[name]
        per_rank, relaxed = macs // rank, notes["fixed"][name]["rank"]
        assert relaxed == max(1, rank - max(1, int(0.2 * whole[name] / per_rank + 1e-9)))
        assert (notes["fixed"][name]["factorisation"], notes["fixed"][name]["groups"]) == (factorisation, groups)
        most = min(1 - relaxed * per_rank / whole[name], 0.4)
        added = [point[3] - relaxed * per_rank for point in layer.points[:-1]]
        assert min(added) > 0 and max(added) < most * whole[name]
        assert layer.points[-1][3] == whole[name]


def test_a_first_branch_that_leaves_no_room_is_named(caplog: pytest.LogCaptureFixture) -> None:
    network = dense()
    open_space(network, context(), NAMES, **SPACE)
    for layer in mixed_ops(network.module).values():
        layer.choice.fill_(len(layer.points) - 2)
    with caplog.at_level("WARNING"), pytest.raises(UserError, match="left no layer"):
        open_second(network, context(), gamma=(0.98, 0.99), step=0.005, relax=0.0)
    assert all(f"{name} has no room for a second branch beside rank" in caplog.text for name in NAMES)


def test_the_second_branchs_grid_is_its_own() -> None:
    """A coarse first search leaves the second the paper's grid: from 5 % in steps of 5 %."""
    stages = {stage.name: stage for stage in SVDNAS(branches=2, step=0.2).plan(None, dense(), RECIPE)}
    assert stages["space"].arguments["step"] == 0.2
    assert stages["second_space"].arguments == {"gamma": [0.05, 0.4], "step": 0.05, "relax": 0.2}
    given = SVDNAS(branches=2, second_gamma=(0.1, 0.3), second_step=0.1).plan(None, dense(), RECIPE)
    assert given[3].arguments == {"gamma": [0.1, 0.3], "step": 0.1, "relax": 0.2}
    assert given[1] == SVDNAS().plan(None, dense(), RECIPE)[1]

    def shares(step: float, gamma: tuple[float, float]) -> set[int]:
        """Return the ranks of the second branch's candidates in one group, for the first layer."""
        network = dense()
        open_space(network, context(), NAMES[:1], **SPACE)
        layer = mixed_ops(network.module)[NAMES[0]]
        layer.choice.fill_(0)
        notes = open_second(network, context(), gamma, step, 0.2)
        (points,) = [made.points for made in mixed_ops(network.module).values()]
        assert notes["found"] == {NAMES[0]: len(points)}
        return {point[2] for point in points if tuple(point[:2]) == ("horizontal_first", 1)}

    # a rank of 16 channels' 3 x 1 and 1 x 3 costs 96 of the 2304 multiply-adds of a pixel, 4.2 %
    assert shares(0.05, (0.05, 0.4)) == {1, 2, 3, 4, 6, 7, 8}
    assert shares(0.1, (0.05, 0.4)) == {1, 3, 6, 8}
    assert shares(0.1, (0.2, 0.3)) == {4}


def test_the_proxy_task_keeps_the_ranks_above_the_first_that_fails(tmp_path: Path, monkeypatch) -> None:
    """Against an accuracy made up: falling with the rank, so that what is kept can be told beforehand."""
    tested: list[tuple[str, int]] = []

    def made_up(module, loader, device):
        chosen = [(name, layer) for name, layer in mixed_ops(module).items() if layer.choice < len(layer.points) - 1]
        if not chosen:
            return {"top1": 90.0}
        ((name, layer),) = chosen
        _, _, rank, macs = layer.points[int(layer.choice)]
        tested.append((name, rank))
        return {"top1": 90.0 - 10 * (1 - macs / layer.points[-1][3])}  # 5 points: half of the MACs

    monkeypatch.setattr(space, "evaluate", made_up)
    task = {"split": "val", "images": 20, "tolerance": 3.0, "legacy": False}
    name = NAMES[0]
    all_points = [c.point() for c in candidates(dense().module.get_submodule(name), 16, (0.5, 0.9), 0.1)]
    network = dense()
    notes = open_space(network, context(tmp_path), [name], **SPACE | {"proxy": task})
    kept = mixed_ops(network.module)[name].points
    assert [list(p) for p in kept] == [p for p in all_points if p[3] >= 0.7 * all_points[-1][3] - 1e-6]
    assert notes["kept"][name] == len(kept) < notes["found"][name] == len(all_points)
    count_before = len(tested)
    assert notes["images"] == 20 * (1 + count_before)  # the dense network's accuracy and each candidate's
    again = dense()
    notes = open_space(again, context(tmp_path), [name], **SPACE | {"proxy": task, "gamma": (0.5, 0.8)})
    assert len(tested) == count_before  # all of them lie in the store
    assert 20 < notes["images"] <= 20 * (1 + count_before)  # whoever measured them
    legacy = dense()
    open_space(legacy, context(), [name], **SPACE | {"proxy": task | {"legacy": True}, "step": 0.2})
    ranks = [p[2] for p in mixed_ops(legacy.module)[name].points if p[:2] == ("horizontal_first", 1)]
    per_rank = next(p[3] // p[2] for p in all_points if p[0] == "horizontal_first")
    low, high, stride = (int(f * all_points[-1][3] / per_rank + 1e-9) for f in (0.5, 0.9, 0.2))
    failed = max(r for r in range(low, high + 1, stride) if r * per_rank < 0.7 * all_points[-1][3])
    assert ranks == list(range(failed + 1, high + 1, stride))


SMALL = ["method=svd_nas", "dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "tracking=off"]


def test_two_branches_say_what_they_cost_beside_one(tmp_path: Path) -> None:
    words = [*SMALL, "latency.seconds=0.02", "trainer.progress=false", f"output={tmp_path}", "method.branches=2"]
    result = walk.run(words)
    metrics = result.metrics
    cost = count(blueprint.load(result.state), (1, 8, 8))
    experiment = prepare(compose(words))
    targets = sum(
        step.stage.hooks[0].macs[n] for step in experiment.steps if step.stage.name == "search" for n in NAMES
    )
    assert cost.macs == metrics["cost/macs"] == metrics["search/branches_macs"] + metrics["cost/dense_macs"] - targets
    assert metrics["search/memory"] > 1 and 0 < metrics["search/entropy"] <= 1 and "search/first_branch_macs" in metrics
    (rows,) = [o.history for o in experiment.outcomes() if o.stage.name == "search_second"]
    assert all(0 < row["train/objective"] < row["train/loss"] for row in rows)  # P is below P0
    names = {"design", "theta_entropy", "search_macs", "choice_first_branch", "choice_second_branch"}
    assert names <= set(experiment.method.figures(experiment.outcomes()))


IMAGENET = [("resnet18", (0.5, 0.9), 2336), ("mobilenet_v2", (0.6, 0.95), 4925), ("efficientnet_b0", (0.5, 0.95), 6822)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gamma", "candidates"), IMAGENET)
def test_three_networks_at_224_go_through_a_search(name, gamma, candidates) -> None:
    """Random weights and images: what is held is the way, the cost and the memory."""
    torch.manual_seed(0)
    network = blueprint.create({"_target_": f"paredown.models.torchvision.{name}"}, (3, 224, 224))
    network.module.eval()
    method = SVDNAS(beta=16, gamma=gamma, proxy=Proxy(use=False), search=Search(learning_rate=0.5))
    _, space, search, _ = method.plan(None, network, RECIPE)
    original, thop = count(network.module, network.input_shape).macs, search.hooks[0].total
    notes = space.function(network, context(), **space.arguments)
    assert sum(notes["kept"].values()) == candidates
    hook, batch = search.hooks[0], torch.randn(2, 3, 224, 224)
    fit = FitState(network.module, context(), search.recipe)
    hook.start(fit)
    optimizer = hook.optimizer(fit)
    for _ in range(2):
        hook.before_step(fit)
        logits = network.module(batch)
        loss = hook.loss(fit, batch, logits, functional.cross_entropy(logits, torch.tensor([1, 2])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hook.after_step(fit)
    row = hook.after_epoch(fit)
    targeted_macs = sum(hook.macs.values())
    assert 0.5 * targeted_macs < row["search/expected_macs"] < targeted_macs < thop
    memory = notes["bytes"]["searched"] / notes["bytes"]["dense"]
    assert 3.5 < memory < 4.5
    chosen = {key: layer.design() for key, layer in mixed_ops(network.module).items()}
    for key in chosen:
        restore(network, key)
    decompose(network, {k: [Branch(**b) for b in d] for k, d in chosen.items() if d})
    assert count(network.module, network.input_shape).macs == original - targeted_macs + row["search/choice_macs"]
