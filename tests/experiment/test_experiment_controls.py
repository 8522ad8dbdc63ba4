"""Controls: the same budget to the weight or the rank, drawn by the seed alone, trained for as long."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from paredown.core import blueprint
from paredown.core.blueprint import create, rewrite
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.cost import count
from paredown.experiment.controls import budgets, even_budgets, even_ranks, nearest_width, rebuild, smaller_dense
from paredown.experiment.prepare import prepare
from paredown.graph.channels import channels
from paredown.layers.masked import maskable
from paredown.results.training_cost import training_cost
from paredown.run import walk
from paredown.store.states import Record
from paredown.surgery.narrowing import cut
from paredown.sweep.planning import training_images

RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "width": 1, "num_classes": 10}
INPUT = (3, 32, 32)
CONTEXT = Context(None, torch.device("cpu"), 7)


def dense() -> Network:
    torch.manual_seed(0)
    return create(RESNET, INPUT)


def masked(seed: int = 0) -> Network:
    """Every convolution and the classifier with a mask of a density of its own."""
    network, generator = dense(), torch.Generator().manual_seed(seed)
    for index, name in enumerate(maskable(network.module)):
        rewrite(network, name, "masked")
        layer = network.module.get_submodule(name)
        layer.set_mask(torch.rand(layer.mask.shape, generator=generator) < 0.1 + 0.05 * index)
    return network


def low_rank(kind: str = "low_rank", **more) -> Network:
    network = dense()
    for index, name in enumerate(("layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv2")):
        rewrite(network, name, kind, rank=3 + 4 * index, **(more or {"factorisation": "in_group"}))
    return network


def macs(network: Network) -> dict[str, int]:
    return {layer.name: layer.macs for layer in count(network.module, INPUT).layers}


def made(layers, context: Context = CONTEXT) -> Network:
    network = dense()
    rebuild(network, context, json.loads(json.dumps(layers)))
    return network


def test_random_masks_keep_each_layers_number_of_weights() -> None:
    point = masked()
    control, again = made(budgets(point)), made(budgets(point))
    assert macs(control) == macs(point)
    for name, layer in maskable(point.module).items():
        mask = control.module.get_submodule(name).mask
        assert int(mask.sum()) == int(layer.mask.sum()) and not torch.equal(mask, layer.mask)
        assert torch.equal(mask, again.module.get_submodule(name).mask)
    # what is kept starts as the dense network does, which is how SSC starts too
    weight = control.module.get_submodule("layer1.0.conv1").effective_weight()
    assert torch.equal(weight[weight != 0], dense().module.get_submodule("layer1.0.conv1").weight[weight != 0])


@pytest.mark.parametrize(
    "more", [{}, {"kind": "pair", "factorisation": "in_group", "groups": 2, "bias": True}, {"kind": "branches"}]
)
def test_factors_start_with_the_size_of_the_dense_weight(more) -> None:
    if more.get("kind") == "branches":
        point, pair = dense(), {"factorisation": "in_group", "groups": 1, "rank": 3}
        rewrite(point, "layer2.0.conv1", "branches", branches=[pair, pair | {"groups": 2}])
    else:
        point = low_rank(**more)
    control, start = made(budgets(point)), dense()
    for name in point.blueprint:
        weight = control.module.get_submodule(name).effective_weight()
        wanted = start.module.get_submodule(name).weight
        torch.testing.assert_close(weight.square().mean(), wanted.square().mean(), rtol=1e-4, atol=0)
        assert not torch.allclose(weight, wanted, rtol=0.1)


@pytest.mark.parametrize("more", [{}, {"kind": "pair", "factorisation": "in_group", "groups": 2}])
def test_random_factors_have_each_layers_rank(more) -> None:
    point = low_rank(**more)
    control = made(budgets(point))
    assert macs(control) == macs(point)
    assert {name: entry["rank"] for name, entry in control.blueprint.items()} == {
        name: entry["rank"] for name, entry in point.blueprint.items()
    }


def test_one_density_everywhere_costs_the_same() -> None:
    point = masked()
    control = made(even_budgets(point, dense()))
    layers = {layer.name: layer for layer in count(dense().module, INPUT).layers}
    densities = {name: int(layer.mask.sum()) / layer.mask.numel() for name, layer in maskable(control.module).items()}
    (density,) = {round(sum(macs(point).values()) / sum(macs(dense()).values()), 12)}
    for name, own in densities.items():
        assert abs(own - density) <= 0.5 / layers[name].weights + 1e-9
    positions = sum(layer.macs / layer.weights for layer in layers.values())
    assert abs(sum(macs(control).values()) - sum(macs(point).values())) <= positions / 2


def test_one_density_everywhere_keeps_as_many_weights() -> None:
    point = masked()
    control = made(even_budgets(point, dense(), "weights"))
    wanted, whole = count(point.module, INPUT).weights, count(dense().module, INPUT).weights
    for layer in maskable(control.module).values():
        assert abs(int(layer.mask.sum()) - wanted / whole * layer.mask.numel()) <= 0.5
    assert abs(count(control.module, INPUT).weights - wanted) <= len(point.blueprint) / 2
    ranks = made(even_budgets(low_rank(), dense(), "weights"))
    left = count(low_rank().module, INPUT).weights - count(ranks.module, INPUT).weights
    assert 0 <= left < max(layer.weights for layer in count(low_rank().module, INPUT).layers)


@pytest.mark.parametrize("target", ["sparsity=0.9", "speed_up=4"])
def test_a_uniform_control_has_what_the_target_is_of(tmp_path, target: str) -> None:
    """SNIP keeps narrow layers of many positions: of as many MACs one density would be twice as many weights."""
    point = walk.run(words(tmp_path, "method=snip", target)).metrics
    uniform = walk.run(words(tmp_path, "method=snip", target, "control=uniform")).metrics
    metric, other = ("cost/sparsity", "cost/macs") if "sparsity" in target else ("cost/macs", "cost/sparsity")
    assert uniform[metric] == pytest.approx(point[metric], rel=2e-3)
    assert uniform[other] != pytest.approx(point[other], rel=2e-2)


def test_one_fraction_of_the_rank_everywhere_costs_the_same_within_a_rank() -> None:
    point = low_rank()
    control = made(even_budgets(point, dense()))
    per_rank = max(macs(point)[name] // entry["rank"] for name, entry in point.blueprint.items())
    left = sum(macs(point).values()) - sum(macs(control).values())
    assert 0 <= left < per_rank


def test_even_ranks_against_every_fraction() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        full = {f"l{i}": int(torch.randint(2, 40, (), generator=generator)) for i in range(5)}
        price = {name: int(torch.randint(1, 50, (), generator=generator)) for name in full}
        least, most = sum(price.values()), sum(full[name] * price[name] for name in full)
        limit = int(torch.randint(least, most + 1, (), generator=generator))
        ranks = even_ranks(full, price, limit)
        cost = sum(ranks[name] * price[name] for name in full)
        assert limit - max(price.values()) < cost <= limit
        # between the ranks of two fractions that follow each other
        fractions = sorted({0.0, *((rank - 0.5) / full[name] for name in full for rank in range(2, full[name] + 1))})
        rounded = [{name: max(1, int(f * full[name] + 0.5 + 1e-9)) for name in full} for f in fractions]
        below = max(i for i, r in enumerate(rounded) if sum(r[name] * price[name] for name in full) <= limit)
        above = rounded[min(below + 1, len(rounded) - 1)]
        assert all(rounded[below][name] <= ranks[name] <= above[name] for name in full)


def test_the_width_is_the_nearest_there_is() -> None:
    every = {k / 16: sum(macs(create(RESNET | {"width": k / 16}, INPUT)).values()) for k in range(1, 17)}
    for wanted in (1, 700_000, 3_000_000, 7_777_777, 10**9):
        found = nearest_width(dense(), wanted)["width"]
        assert abs(every[found] - wanted) == min(abs(value - wanted) for value in every.values())


def test_layers_with_neither_mask_nor_rank_have_no_even_budget() -> None:
    point = dense()
    rewrite(
        point, "layer1.0.conv1", "branches", branches=[{"factorisation": "horizontal_first", "groups": 1, "rank": 2}]
    )
    assert budgets(point) == point.blueprint
    with pytest.raises(UserError, match=r"knows masks and ranks: layer1\.0\.conv1 is branches"):
        even_budgets(point, dense())


def words(tmp_path, *more: str) -> list[str]:
    tiny = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1"]
    return [*tiny, "latency.seconds=0.02", "tracking=off", "trainer.progress=false", f"output={tmp_path}", *more]


def test_a_control_stands_beside_a_finished_experiment(tmp_path) -> None:
    ssc = words(tmp_path, "method=ssc", "speed_up=2")
    with pytest.raises(UserError, match=r"control=random stands beside a finished experiment: run the same without"):
        prepare(compose([*ssc, "control=random"]))
    point = walk.run(ssc)
    with pytest.raises(UserError, match=r"control='randon': did you mean random"):
        prepare(compose([*ssc, "control=randon"]))
    found = {kind: walk.run([*ssc, f"control={kind}"]) for kind in ("random", "dense")}
    assert found["random"].metrics["cost/macs"] == point.metrics["cost/macs"]
    network = blueprint.read(found["dense"].state)
    assert network.architecture["width"] < 1 and not network.blueprint
    assert found["dense"].metrics["cost/dense_macs"] == point.metrics["cost/dense_macs"]  # of the wide one
    assert [result.metrics["price/epochs"] for result in found.values()] == [1, 1]
    assert len({point.folder, *(result.folder for result in found.values())}) == 3


@pytest.mark.slow
def test_controls_train_for_the_whole_plan_and_share_what_is_the_same(tmp_path) -> None:
    lr_s2 = words(tmp_path, "method=lr_s2", "speed_up=2", "method.finetune.epochs=2")
    walk.run(lr_s2)
    ranks = prepare(compose([*lr_s2, "control=dense"]))
    assert [step.stage.name for step in ranks.steps] == ["narrow", "train"]
    assert ranks.steps[1].stage.recipe.epochs == 3
    other = words(tmp_path, "method=ssc", "speed_up=2", "recipe.epochs=3")
    walk.run(other)
    alike = prepare(compose([*other, "control=dense"]))
    assert alike.steps[-1].key == ranks.steps[-1].key and alike.key != ranks.key and alike.folder != ranks.folder


def test_a_control_sees_as_many_images_not_as_many_epochs(tmp_path) -> None:
    """SVD-NAS: 2 epochs, 40 on 100 images and 700 on 30 are 27 epochs, not 742."""
    asked = ["method=svd_nas", "method.search.epochs=40", "method.search.images=100", "dataset.validation=0.3"]
    asked += ["method.distil.setup=few_sample", "method.distil.images=30", "recipe.epochs=2", "dataset.fraction=1"]
    point = prepare(compose(words(tmp_path, *asked)))
    epochs = {"train": 2, "search": 40, "distil": 700}  # a distillation ends early: as long as it was, it counts
    network = low_rank()
    for step in point.steps:
        values = (step.key, step.parent, {}, 0, step.data.key, 1.0)
        point.store.put(network, Record(*values, [{"seconds": 1.0}] * epochs.get(step.stage.name, 0)))
    control = prepare(compose(words(tmp_path, *asked, "control=random")))
    images = 2 * point.data.sizes["train"] + 40 * 100 + 700 * 30
    assert control.steps[-1].stage.recipe.epochs == round(images / point.data.sizes["train"]) == 27
    assert training_images([step for step in point.steps if step.stage.name == "search"]) == 40 * 100
    assert [row["macs"] > 0 for row in training_cost(point)] == [isinstance(step.stage, Fit) for step in point.steps]
    shutil.rmtree(point.store.folder(point.steps[2].key))
    with pytest.raises(UserError, match="control=random: the state of 'search', which says how long it trained, was"):
        prepare(compose(words(tmp_path, *asked, "control=random")))


def test_a_dense_network_has_no_control(tmp_path) -> None:
    walk.run(words(tmp_path))
    with pytest.raises(UserError, match="has nothing to control: dense-resnet20-digits-seed=0-"):
        prepare(compose(words(tmp_path, "control=dense")))


def narrowed_by_a_third(architecture: dict[str, object]) -> Network:
    torch.manual_seed(0)
    network = create(architecture, INPUT)
    groups = channels(network.module, INPUT).groups
    cut(network, groups, {group.name: list(range(group.size // 3)) for group in groups})
    return network


def test_a_narrow_network_has_every_control() -> None:
    """The same widths anew, one fraction of all channels, and a smaller dense network."""
    point = narrowed_by_a_third(RESNET | {"shortcut": "A"})
    start = create(RESNET | {"shortcut": "A"}, INPUT)
    cost = count(point.module, INPUT)
    random = create(RESNET | {"shortcut": "A"}, INPUT)
    rebuild(random, CONTEXT, json.loads(json.dumps(budgets(point))))
    assert count(random.module, INPUT).layers == cost.layers and random.blueprint == point.blueprint
    even = create(RESNET | {"shortcut": "A"}, INPUT)
    rebuild(even, CONTEXT, json.loads(json.dumps(even_budgets(point, start))))
    assert 0.9 * cost.macs < count(even.module, INPUT).macs <= cost.macs
    assert all(torch.isfinite(even.module(torch.randn(2, *INPUT))).flatten())


def test_a_model_without_a_width_is_narrowed_evenly() -> None:
    architecture = {"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}
    start = create(architecture, INPUT)
    wanted = count(start.module, INPUT).macs // 3
    edit = smaller_dense(start, wanted)
    edit.function(start, CONTEXT, **edit.arguments)
    assert 0.95 * wanted < count(start.module, INPUT).macs <= wanted
    stem, head = start.module.stem.conv.out_channels / 32, start.module.head.conv.out_channels / 1280
    assert abs(stem - head) < 1 / 32
    with pytest.raises(UserError, match="out of reach"):
        smaller_dense(create(architecture, INPUT), 10)


def test_narrow_layers_are_drawn_as_their_model_draws_them() -> None:
    """He's normal at the narrow fan-out; torch's uniform at the narrow fan-in."""
    network = create(RESNET | {"width": 4}, INPUT)
    rewrite(network, "layer3.0.conv2", "narrow", inputs=256, outputs=64)
    conv = network.module.layer3[0].conv2
    assert float(conv.weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    linear = create({"_target_": "paredown.models.cifar.counterparts.three_fc"}, INPUT)
    rewrite(linear, "fc2", "narrow", inputs=300, outputs=1469)
    assert float(linear.module.fc2.weight.abs().max()) == pytest.approx(300**-0.5, rel=0.03)
