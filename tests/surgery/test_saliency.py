"""Saliencies against worked numbers, conservation laws and finite differences, on a network of two layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paredown.surgery.saliency import grasp, magnitude, snip, synflow

FIRST, SECOND = "0", "2"


@pytest.fixture
def net() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    made[0].weight.data = torch.tensor([[0.5, -1], [1.5, 0.25], [-0.75, 1]], dtype=torch.float64)
    made[2].weight.data = torch.tensor([[1, -0.5, 0.25], [-1, 0.75, 0.5]], dtype=torch.float64)
    return made


IMAGES = torch.tensor([[1.0, 2], [-1, 1], [2, -1], [0.5, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 0])
BATCH = (IMAGES, LABELS)


def close(found: Tensor, wanted: list[float], digits: float = 5e-10) -> bool:
    return torch.allclose(found.flatten(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=digits)


def gradients(net: nn.Module) -> dict[str, Tensor]:
    parameters = {FIRST: net[0].weight, SECOND: net[2].weight}  # type: ignore[index]
    found = torch.autograd.grad(cross_entropy(net(IMAGES), LABELS), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def test_snip_has_the_worked_scores(net: nn.Sequential) -> None:
    found = snip(net, [BATCH])
    assert close(found[FIRST], [0.318515397, 0.318515397, 0.021911006, 0.226654956, 0.080303526, 0.116988488])
    assert close(found[SECOND], [0.318515397, 0.099426385, 0.036684962, 0.318515397, 0.149139577, 0.073369924])
    assert sum(values.sum() for values in found.values()) == pytest.approx(2.078540413, abs=1e-9)


def test_snip_does_not_depend_on_the_batches(net: nn.Sequential) -> None:
    whole = snip(net, [BATCH])
    parts = snip(net, [(IMAGES[:1], LABELS[:1]), (IMAGES[1:], LABELS[1:])])
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-14) for name in whole)


def test_snip_is_blind_to_a_scale_that_relu_carries_over_and_magnitude_is_not(net: nn.Sequential) -> None:
    before, sizes = snip(net, [BATCH]), magnitude(net)
    net[0].weight.data *= 4
    net[2].weight.data /= 4
    after = snip(net, [BATCH])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(sizes[FIRST], magnitude(net)[FIRST])


def test_grasp_has_the_worked_scores(net: nn.Sequential) -> None:
    found = grasp(net, [BATCH])
    assert close(found[FIRST], [-0.617342168, -0.617342168, 0.828969999, -0.189361776, 0.101637806, -0.174337007])
    assert close(found[SECOND], [-0.769520255, -0.041391924, 0.054784620, -0.769520255, -0.062087886, -0.109569240])
    cool = grasp(net, [BATCH], temperature=200)
    assert float(cool[FIRST][0, 0]) == pytest.approx(-1.6339332e-6, rel=1e-6)
    assert float(cool[SECOND][0, 0]) == pytest.approx(-3.9842797e-6, rel=1e-6)


def test_grasp_obeys_the_identity_of_two_layers(net: nn.Sequential) -> None:
    found, g = grasp(net, [BATCH]), gradients(net)
    left = float(found[FIRST].sum() - found[SECOND].sum())
    assert left == pytest.approx(float(g[FIRST].square().sum() - g[SECOND].square().sum()), abs=1e-12)
    assert left == pytest.approx(1.029529626, abs=1e-9)


def test_grasp_is_half_the_change_of_the_squared_gradient(net: nn.Sequential) -> None:
    def squared() -> float:
        return sum(float(values.square().sum()) for values in gradients(net).values())

    score, before, step = float(grasp(net, [BATCH])[FIRST][1, 0]), squared(), 1e-6
    net[0].weight.data[1, 0] *= 1 - step
    assert (squared() - before) / (2 * step) == pytest.approx(score, rel=1e-5)


def test_two_equal_batches_scale_grasp_by_four(net: nn.Sequential) -> None:
    once, twice = grasp(net, [BATCH]), grasp(net, [BATCH, BATCH])
    assert all(torch.allclose(twice[name], 4 * once[name], rtol=1e-12) for name in once)


def test_synflow_has_the_worked_scores_and_conserves_the_flow(net: nn.Sequential) -> None:
    found = synflow(net.float(), (2,))
    assert close(found[FIRST], [1, 2, 1.875, 0.3125, 0.5625, 0.75], 1e-12)
    assert close(found[SECOND], [1.5, 0.875, 0.4375, 1.5, 1.3125, 0.875], 1e-12)
    assert found[FIRST].sum() == found[SECOND].sum() == 6.5
    assert found[FIRST].sum(1).tolist() == pytest.approx([3, 2.1875, 1.3125])
    assert found[SECOND].sum(0).tolist() == pytest.approx([3, 2.1875, 1.3125])


def test_the_widest_layer_has_the_least_flow_per_weight() -> None:
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise((2, 4, 4, 2))]
    for layer in layers:
        nn.init.ones_(layer.weight)
    found = synflow(nn.Sequential(*layers), (2,))
    assert [float(values.flatten()[0]) for values in found.values()] == [8, 4, 8]


def test_synflow_conserves_the_flow_through_convolutions_and_batch_norms_without_touching_them() -> None:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(2)]
    second = [nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*first, *second, nn.Linear(20, 2, bias=False))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    model[1].weight.data.normal_()
    model[1].bias.data.normal_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sums = [float(values.sum()) for values in synflow(model, (3, 8, 8)).values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12) and sums[0] > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and next(model.parameters()).dtype == torch.float32


def test_synflow_survives_a_flow_beyond_float32() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(20)))
    for layer in model:
        nn.init.constant_(layer.weight, 1e3)
    found = synflow(model, (4,))
    assert all(values.isfinite().all() and values.dtype == torch.float64 for values in found.values())


class SecondHead(nn.Module):
    """A network with a classifier that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.unused = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


def test_weights_that_the_output_does_not_depend_on_are_worth_nothing() -> None:
    torch.manual_seed(0)
    net = SecondHead()
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    for scores in (snip(net, batches), grasp(net, batches), synflow(net, (4,))):
        assert not scores["unused"].any() and scores["head"].any() and scores["body"].any()
