"""A masked linear layer that ships as a sparse matrix computes, counts and travels as the dense one with zeros."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.cost import count
from paredown.cost.conventions import macs_under
from paredown.layers.masked import MaskedLinear
from paredown.layers.sparse import MaskedSparse, SparseLinear, build
from paredown.models.cifar.counterparts import three_fc


def sparse(inputs: int = 30, outputs: int = 20, density: float = 0.1, bias: bool = True) -> MaskedSparse:
    torch.manual_seed(0)
    layer = build(nn.Linear(inputs, outputs, bias=bias))
    mask = torch.rand(outputs, inputs) < density
    mask[3] = False  # a unit without a weight
    layer.set_mask(mask)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 30), (1, 30), (2, 3, 30)])
def test_it_computes_what_the_dense_layer_with_zeros_does(bias, shape) -> None:
    layer, x = sparse(bias=bias), torch.randn(*shape)
    shipped, dense = layer.deployed(), MaskedLinear(layer, layer.mask).deployed()
    assert type(shipped) is SparseLinear and type(dense) is nn.Linear
    for precision in (torch.float32, torch.float64):
        torch.testing.assert_close(shipped.to(precision)(x.to(precision)), dense.to(precision)(x.to(precision)))
    with torch.inference_mode():
        torch.testing.assert_close(copy.deepcopy(shipped).float()(x), dense.float()(x))
    assert torch.equal(shipped.weight, dense.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_in_half_precision_in_which_torch_has_no_sparse_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(7, 9), torch.randn(2, 3, 9).to(dtype)
    layer = SparseLinear(weight, torch.rand(7, 9) < 0.4, torch.randn(7)).to(dtype)
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(layer(x).double(), exact, rtol=2**-8, atol=0.02)


def test_it_holds_no_zeros_and_both_counters_agree() -> None:
    layer = sparse()
    kept = int(layer.mask.sum())
    assert sum(p.numel() for p in layer.deployed().parameters()) == kept + 20
    network = nn.Sequential(nn.Flatten(), layer)
    assert prove_equal(network, deploy(network), (5, 3, 2)) < 1e-12
    cost = count(network, (5, 3, 2))
    assert (cost.macs, cost.weights, cost.params) == (kept, kept, kept + 20)
    assert macs_under("conv_fc", network, (5, 3, 2)) == kept
    assert macs_under("thop", network, (5, 3, 2)) == 600  # counts zeros too


def test_it_travels_with_the_blueprint(tmp_path: Path) -> None:
    architecture = {"_target_": "paredown.models.cifar.counterparts.three_fc", "hidden": 20, "image_size": [4, 4]}
    network = Network(three_fc(20, image_size=(4, 4)), architecture, (3, 4, 4))
    blueprint.rewrite(network, "fc2", "sparse")
    network.module.fc2.set_mask(torch.rand(20, 20) < 0.2)
    blueprint.save(network, tmp_path)
    loaded = blueprint.load(tmp_path)
    assert isinstance(loaded.fc2, MaskedSparse) and torch.equal(loaded.fc2.mask, network.module.fc2.mask)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(deploy(loaded)(x), network.module.eval()(x), rtol=1e-4, atol=1e-5)


def test_only_linear_layers_are() -> None:
    with pytest.raises(UserError, match="kind 'sparse' replaces a Linear, not a Conv2d"):
        build(nn.Conv2d(2, 2, 3))
