"""Saliencies of second order against worked numbers, autograd of single images, and closed forms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.layers.masked import build
from paredown.surgery.curvature import (
    OBD,
    MLPrune,
    fisher_diagonal,
    kronecker_factors,
    kronecker_scores,
    mlprune,
    obd,
)

# softmax regression
IMAGES = torch.tensor([[1.0, 2], [-1, 0.5], [0.5, -1.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])
WEIGHT = [[0.2, -0.4], [0.1, 0.3], [-0.5, 0.6]]
FISHER = [[0.10056951, 0.31801757], [0.16172598, 0.47493690], [0.17197528, 0.41982264]]
OBD_SCORES = [[0.00201139, 0.02544141], [0.00080863, 0.02137216], [0.02149691, 0.07556808]]
KFAC_SCORES = [[0.00040546, 0.00464499], [0.00010311, 0.00265769], [0.00256913, 0.01059562]]


@pytest.fixture
def regression() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 3, bias=False)).double()
    made[0].weight.data = torch.tensor(WEIGHT, dtype=torch.float64)
    return made


def close(found: Tensor, wanted: Any, digits: float = 6e-9) -> bool:
    return torch.allclose(found, torch.as_tensor(wanted, dtype=torch.float64), rtol=0, atol=digits)


def test_saliency_is_the_increase_of_a_quadratic_loss_and_not_the_order_of_magnitudes() -> None:
    h, w = torch.tensor([4.0, 0.1, 900]), torch.tensor([0.5, -2, 0.1])
    scores = h * w.square() / 2
    assert scores.tolist() == pytest.approx([0.5, 0.2, 4.5])
    # the same by the factors: of one output, the inverse's diagonal is 1 / h
    found = kronecker_scores(w[None].double(), torch.diag(h).double()[None], torch.ones(1, 1, 1).double(), 0)
    assert found[0].tolist() == pytest.approx([0.5, 0.2, 4.5])
    assert found[0].argsort().tolist() == [1, 0, 2] and w.abs().argsort().tolist() == [2, 0, 1]
    full = torch.tensor([[[4.0, 1, 0], [1, 1, 0], [0, 0, 9]]], dtype=torch.float64)
    surgeon = kronecker_scores(w[None].double(), full, torch.ones(1, 1, 1).double(), 0)
    assert surgeon[0].tolist() == pytest.approx([0.375, 1.5, 0.045])  # with the others readjusted
    assert (full[0].diagonal() * w.square() / 2).tolist() == pytest.approx([0.5, 2, 0.045])


def test_expected_labels_give_the_closed_form_which_is_the_hessians_diagonal(regression: nn.Sequential) -> None:
    found = fisher_diagonal(regression, [(IMAGES, LABELS)], "expected")["0"]
    odds = regression(IMAGES).softmax(1)
    closed = torch.einsum("bj,bi->ji", odds * (1 - odds), IMAGES.square()) / 3
    assert torch.allclose(found, closed, rtol=0, atol=1e-15) and close(found, FISHER)
    weight = regression[0].weight.detach()
    hessian = torch.func.hessian(lambda w: cross_entropy(IMAGES @ w.T, LABELS))(weight)  # type: ignore[no-untyped-call]
    assert torch.allclose(found.flatten(), hessian.reshape(6, 6).diagonal(), rtol=0, atol=1e-15)
    assert close(obd(regression, [(IMAGES, LABELS)], "expected")["0"], OBD_SCORES)


def test_true_labels_are_the_empirical_fisher_matrix_of_single_images(regression: nn.Sequential) -> None:
    found = fisher_diagonal(regression, [(IMAGES, LABELS)], "given")["0"]
    assert close(found[0], [0.30532160, 1.37288788])
    (mean,) = torch.autograd.grad(cross_entropy(regression(IMAGES), LABELS), regression.parameters())
    assert close(mean.square()[0], [0.05670021, 0.79916293], 2e-8)  # the square of the mean is another quantity


def test_sampled_labels_are_those_of_the_models_softmax(regression: nn.Sequential) -> None:
    draws = 4000
    images, labels = IMAGES.repeat(draws, 1), LABELS.repeat(draws)
    found = fisher_diagonal(regression, [(images, labels)], "sampled", seed=3)["0"]
    odds = regression(IMAGES).softmax(1)
    p, x2 = odds[:, :, None], IMAGES.square()[:, None, :]
    exact = (p * (1 - p) * x2).mean(0)
    fourth = (p * (1 - p) ** 4 + (1 - p) * p**4) * x2.square()  # E[g^4] of each image
    error = ((fourth - (p * (1 - p) * x2).square()).mean(0) / (3 * draws)).sqrt()
    assert ((found - exact).abs() < 3 * error).all()


@pytest.mark.parametrize("score", [obd, mlprune])
def test_labels_follow_from_the_seed_and_neither_from_batches_nor_shares(score: Any, regression: nn.Sequential) -> None:
    images = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(50, dtype=torch.int64)
    batches = list(zip(images.split(7), labels.split(7), strict=True))
    whole = score(regression, [(images, labels)], seed=1)["0"]
    assert torch.allclose(whole, score(regression, batches, seed=1)["0"], rtol=1e-12)
    assert not torch.allclose(whole, score(regression, batches, seed=2)["0"])
    halves = [fisher_diagonal(regression, batches, seed=1, share=(r, 2))["0"] for r in (0, 1)]
    assert torch.allclose(sum(halves), fisher_diagonal(regression, batches, seed=1)["0"], rtol=1e-12)


NETS = {
    "conv": lambda: [nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3)],
    "grouped": lambda: [nn.Conv2d(2, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3)],
    "circular": lambda: [nn.Conv2d(2, 3, (2, 3), padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(90, 3)],
    "tokens": lambda: [nn.Flatten(2), nn.Linear(25, 6), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)],
}


def net(name: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    return nn.Sequential(*NETS[name]()).double().eval(), images, torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("name", NETS)
def test_the_diagonal_squares_the_gradient_of_each_image(name: str) -> None:
    model, images, labels = net(name)
    found = fisher_diagonal(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], "given")
    for layer, values in found.items():
        weight, wanted = model.get_submodule(layer).weight, torch.zeros_like(values)
        for image, label in zip(images, labels, strict=True):
            (gradient,) = torch.autograd.grad(cross_entropy(model(image[None]), label[None]), [weight])  # type: ignore[list-item]
            wanted += gradient.square() / len(images)
        assert torch.allclose(values, wanted, rtol=1e-10, atol=1e-16), layer
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_called_twice_has_one_gradient_an_image() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(3, 3).double()
    model, images, labels = nn.Sequential(shared, nn.Tanh(), shared), torch.randn(5, 3).double(), torch.arange(5) % 3
    found, wanted = fisher_diagonal(model, [(images, labels)], "given")["0"], torch.zeros(3, 3).double()
    for image, label in zip(images, labels, strict=True):
        (gradient,) = torch.autograd.grad(cross_entropy(model(image[None]), label[None]), [shared.weight])
        wanted += gradient.square() / 5
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_gradients_of_two_positions_cancel_before_they_are_squared() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x).flatten(1)
            return torch.stack([maps[:, 0] - maps[:, 1], 0 * maps[:, 0]], dim=1)

    ones = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    assert fisher_diagonal(Difference(), [(ones, torch.tensor([0]))], "given")["conv"].item() == 0


def test_a_convolution_of_single_pixels_is_a_linear_layer(regression: nn.Sequential) -> None:
    conv = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Flatten()).double()
    conv[0].weight.data = regression[0].weight.data[:, :, None, None]
    for score in (obd, mlprune):
        plain = score(regression, [(IMAGES, LABELS)], "expected")["0"]
        pixels = score(conv, [(IMAGES[:, :, None, None], LABELS)], "expected")["0"]
        assert torch.allclose(pixels[:, :, 0, 0], plain, rtol=1e-12)


def test_worked_scores_of_given_factors() -> None:
    a = torch.tensor([[[2.0, 1], [1, 2]]], dtype=torch.float64)
    g = torch.diag(torch.tensor([1.0, 4], dtype=torch.float64))[None]
    w = torch.tensor([[1.0, 2], [3, -1]], dtype=torch.float64)
    found = kronecker_scores(w, a, g, damping=0)
    assert close(found, [[0.75, 3], [27, 3]], 1e-12)
    inverse = torch.linalg.inv(torch.kron(g[0], a[0])).diagonal().reshape(2, 2)
    assert close(found, w.square() / 2 / inverse, 1e-12)
    assert close(kronecker_scores(w, a, g, damping=0.5), [[1.575, 6.3], [42.525, 4.725]], 1e-12)


def test_mlprune_has_the_worked_scores_and_its_classifier_needs_damping(regression: nn.Sequential) -> None:
    a, g = kronecker_factors(regression, [(IMAGES, LABELS)], "expected")["0"]
    assert close(a[0], [[0.75, 0.25], [0.25, 2.16666667]])
    assert torch.linalg.eigvalsh(g[0])[0].abs() < 1e-15
    assert close(mlprune(regression, [(IMAGES, LABELS)], "expected", damping=0.01)["0"], KFAC_SCORES)
    with pytest.raises(UserError, match=r"singular: take a larger method.damping than 0"):
        kronecker_scores(torch.ones(1, 2).double(), torch.zeros(1, 2, 2).double(), torch.ones(1, 1, 1).double(), 0)


@pytest.mark.parametrize("name", NETS)
def test_images_that_come_twice_change_no_score(name: str) -> None:
    model, images, labels = net(name)
    once, twice = (mlprune(model, [(images, labels)] * number, "expected") for number in (1, 2))
    assert all(torch.allclose(once[layer], twice[layer], rtol=1e-10) for layer in once)


@pytest.mark.parametrize("name", ["conv", "grouped"])
def test_factors_are_products_of_patches_and_gradients_by_group(name: str) -> None:
    """Grosse and Martens: A sums over positions, G is their mean; the authors split the same product another way."""
    model, images, labels = net(name)
    conv = model[0]
    a, g = kronecker_factors(model, [(images, labels)], "given")["0"]
    inputs = nn.functional.unfold(images, 3, padding=conv.padding, stride=conv.stride)
    output = conv(images)
    loss = cross_entropy(model[1:](output.clone()), labels, reduction="sum")
    (back,) = torch.autograd.grad(loss, [output])
    size, positions = len(images), inputs.shape[2]
    for group, (inner, outer) in enumerate(
        zip(inputs.chunk(conv.groups, 1), back.flatten(2).chunk(conv.groups, 1), strict=True)
    ):
        ones = torch.ones(size, conv.bias is not None, positions).double()
        met = torch.cat([inner, ones], dim=1)
        wanted = (torch.einsum("bps,bqs->pq", met, met), torch.einsum("bns,bms->nm", outer, outer))
        assert torch.allclose(a[group], wanted[0] / positions**2 / size, rtol=1e-10)
        assert torch.allclose(g[group], wanted[1] * positions / size, rtol=1e-10)


def test_a_mask_and_the_mode_of_the_model_are_left_alone() -> None:
    model, images, labels = net("conv")
    dense = obd(model, [(images, labels)], "expected")
    masked = nn.Sequential(*(build(m) if isinstance(m, nn.Conv2d | nn.Linear) else m for m in model))
    found = obd(masked, [(images, labels)], "expected")
    assert all(torch.equal(found[name], dense[name]) for name in dense)


class Few:
    """Stands for a data module of three images."""

    def eval_loader(self, split: str, chunk: int, device: torch.device, images: int) -> list[tuple[Tensor, Tensor]]:
        assert split == "train"
        return list(zip(IMAGES[:images].split(chunk), LABELS[:images].split(chunk), strict=True))


def test_the_settings_of_a_saliency_and_the_stages_seed_reach_its_scores(regression: nn.Sequential) -> None:
    network, single = Network(regression, {}, (1, 1, 2)), copy.deepcopy(regression).float()
    two = [(IMAGES[:1].float(), LABELS[:1]), (IMAGES[1:2].float(), LABELS[1:2])]
    for seed in range(4):  # of which some draw other labels
        context = Context(Few(), torch.device("cpu"), seed)
        found = OBD(images=2, chunk=1).scores(network, context)
        assert torch.equal(found["0"], obd(single, two, "sampled", seed)["0"])
        by_factors = MLPrune(images=2, chunk=1, labels="given", damping=0.5).scores(network, context)
        assert torch.equal(by_factors["0"], mlprune(single, two, "given", 0.5)["0"])
    drawn = {tuple(obd(single, two, "sampled", seed)["0"].flatten().tolist()) for seed in range(4)}
    assert len(drawn) > 1 and not torch.equal(
        mlprune(single, two, "given", 0.5)["0"], mlprune(single, two, "given")["0"]
    )
    assert regression[0].weight.dtype == torch.float64  # the copy alone is cast


def test_layers_without_curvature_are_refused_in_a_line() -> None:
    local = {"family": "s", "connection": "local", "alpha": 2, "image_size": [8, 8]}
    target = "paredown.models.cifar.counterparts.counterpart"
    made: Network = blueprint.create({"_target_": target, **local}, (3, 8, 8))
    for saliency in (OBD(), MLPrune()):
        with pytest.raises(UserError, match=r"is a LocallyConnected2d; prune it by method=magnitude, snip or grasp"):
            saliency.check(made, None)


def test_a_layer_that_is_not_called_is_named() -> None:
    class Idle(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x)  # type: ignore[no-any-return]

    model = Idle(nn.Linear(2, 3), nn.Linear(3, 3)).double()
    with pytest.raises(UserError, match="1 is not called by itself"):
        obd(model, [(IMAGES, LABELS)])
    for saliency in (OBD(), MLPrune()):  # when the plan is made
        with pytest.raises(UserError, match="1 is not called by itself"):
            saliency.check(Network(model.float(), {}, (1, 1, 2)), None)


def test_the_check_of_a_network_leaves_it_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4, 2)).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    OBD().check(Network(model, {}, (3, 3, 3)), None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [layer.training for layer in model] == [True, True, False, True, True]
    assert not any(layer._forward_hooks for layer in model.modules())
