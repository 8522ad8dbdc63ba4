"""Interspace convolutions: worked numbers, the plain convolution they start as, masks, counting and deployment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers import interspace, masked
from paredown.layers.interspace import InterspaceConv2d, fits
from paredown.layers.replaceable import LEFT_ALONE
from paredown.methods.sparse.interspace import interspace as edit


def worked(basis: Tensor | None = None) -> tuple[InterspaceConv2d, Tensor]:
    """Return the layer of N = M = 2 and K = 3 of the worked numbers, in a basis, and its images."""
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    conv.weight.data = ((7 * torch.arange(36) % 11 - 5).double() / 10).view(2, 2, 3, 3)
    layer = interspace.build(conv)
    if basis is not None:  # the same kernels in any basis
        layer.weight.data = (conv.weight.data.flatten(2) @ torch.linalg.inv(basis)).view_as(conv.weight)
        layer.basis.data = basis
    return layer, ((5 * torch.arange(100) % 13 - 6).double() / 6).view(2, 2, 5, 5)


def any_basis() -> Tensor:
    return torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(9)


@pytest.mark.parametrize("basis", [None, any_basis()])
def test_what_depends_on_kernels_alone_depends_on_no_basis(basis: Tensor | None) -> None:
    layer, images = worked(basis)
    loss = layer(images).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(0.7688694444, abs=1e-10)
    each = (layer.weight * layer.weight.grad).flatten(2).sum(2).flatten()
    assert each.tolist() == pytest.approx([0.19055, 0.3149222222, 0.3214944444, 0.7107722222], abs=1e-10)
    assert each.sum().item() == pytest.approx(1.5377388889, abs=1e-10)
    assert (layer.basis * layer.basis.grad).sum().item() == pytest.approx(1.5377388889, abs=1e-10)
    unsigned = (layer.weight * layer.weight.grad).abs().sum().item()
    assert (unsigned == pytest.approx(2.01025, abs=5e-6)) == (basis is None)


def test_behind_a_batch_norm_the_basis_has_no_scale() -> None:
    layer, images = worked(any_basis())
    (nn.BatchNorm2d(2).double()(layer(images)) * torch.arange(100).double().view(2, 2, 5, 5)).square().mean().backward()
    assert (layer.basis * layer.basis.grad).sum().abs() < 1e-3 * (layer.basis * layer.basis.grad).abs().sum()


def settings() -> list[dict[str, Any]]:
    return [
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (1, 3), "padding": "same", "dilation": 2, "bias": False},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ]


@pytest.mark.parametrize("more", settings())
def test_unit_kernels_compute_as_the_masked_convolution_does_bit_for_bit(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(3, 4, **more), torch.randn(2, 3, 9, 9)
    mask = torch.rand(conv.weight.shape) < 0.4
    layers = (interspace.build(conv), masked.build(conv))
    layers[0].basis.requires_grad_(False)
    for layer in layers:
        layer.set_mask(mask)
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], 0.1, 0.9)
        for _ in range(3):
            optimizer.zero_grad()
            layer(images).square().mean().backward()
            optimizer.step()
    assert torch.equal(layers[0](images), layers[1](images))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not layers[0].weight[~mask].any()


@pytest.mark.parametrize("more", settings())
def test_deployed_it_computes_the_same_and_is_counted_exactly(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = interspace.build(nn.Conv2d(3, 4, **more).double())
    layer.basis.data = torch.randn_like(layer.basis)
    layer.set_mask(torch.rand(layer.weight.shape) < 0.4)
    model = nn.Sequential(layer, nn.ReLU())
    assert prove_equal(model, deploy(model), (3, 9, 9)) < 1e-14
    cost, kernel = count(model, (3, 9, 9)), layer.basis.shape[0]  # raises where torch's counter disagrees
    places = model(torch.zeros(1, 3, 9, 9).double())[0, 0].numel()
    kept = int(layer.mask.sum())
    assert cost.weights == kept + kernel**2
    assert cost.macs == places * (kept + 3 * kernel**2)


def test_an_orthonormal_basis_gives_the_same_kernels() -> None:
    torch.manual_seed(0)
    resnet = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}
    made = blueprint.create(resnet, (3, 8, 8))
    images, names = torch.randn(2, 3, 8, 8), [n for n, layer in made.module.named_modules() if fits(layer)]
    before, weight = made.module.eval()(images), made.module.get_submodule(names[0]).weight.clone()
    edit(made, Context(None, torch.device("cpu"), 3), names, "orthonormal")
    layer = made.module.get_submodule(names[0])
    assert isinstance(layer, InterspaceConv2d)
    assert torch.allclose(layer.basis @ layer.basis.T, torch.eye(9), atol=1e-6)
    assert not torch.allclose(layer.weight, weight) and torch.allclose(layer.weight.norm(), weight.norm())
    assert torch.allclose(made.module(images), before, atol=1e-5)
    bases = [made.module.get_submodule(name).basis for name in names]
    assert not any(torch.equal(bases[0], other) for other in bases[1:])  # one of each layer
    again = Network(blueprint.create(resnet, (3, 8, 8)).module, resnet, (3, 8, 8))
    edit(again, Context(None, torch.device("cpu"), 4), names, "orthonormal")
    assert not torch.equal(again.module.get_submodule(names[0]).basis, bases[0])


def test_it_is_saved_and_read_as_plain_data(tmp_path: Any) -> None:
    made = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    edit(made, Context(None, torch.device("cpu"), 0), ["conv"], "orthonormal")
    made.module.get_submodule("conv").set_mask(torch.rand(16, 3, 3, 3) < 0.5)
    blueprint.save(made, tmp_path)
    read = blueprint.read(tmp_path)
    assert read.blueprint == {"conv": {"kind": "interspace"}}
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(read.module(images), made.module.eval()(images))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 3, groups=2), nn.Linear(2, 3), nn.Conv2d(2, 2, 3, groups=2)]
)
def test_what_it_does_not_fit_is_refused(layer: nn.Module) -> None:
    assert not fits(layer)
    with pytest.raises(UserError, match="without groups and of kernels above 1 x 1"):
        interspace.build(layer)  # type: ignore[arg-type]


def test_it_fits_what_masks_reach_alone() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight * 2, self.bias)

    plain, left, other = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), Scaled(2, 2, 3)
    setattr(left, LEFT_ALONE, "its weights are shared")
    assert [fits(layer) for layer in (plain, left, other)] == [True, False, False]
