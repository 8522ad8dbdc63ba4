"""The kind `sparse`: a masked linear layer that is deployed as a sparse matrix, where that product is faster."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.errors import UserError
from paredown.layers.masked import MaskedLinear

CPU_PRODUCTS = (torch.float32, torch.float64)  # dtypes in which torch multiplies by a CSR matrix on a CPU


class SparseLinear(nn.Linear):
    """A linear layer with a CSR weight: the entries of `weight` (N, M) where `mask` is true. For inference only."""

    rows: Tensor
    columns: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
        nn.Module.__init__(self)  # Linear.__init__ would allocate a dense weight
        self.out_features, self.in_features = weight.shape
        counts = mask.sum(dim=1).cumsum(0)
        self.register_buffer("rows", torch.cat([counts.new_zeros(1), counts]))
        self.register_buffer("columns", mask.nonzero()[:, 1].contiguous())
        self.values = nn.Parameter(weight.detach()[mask])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dense weight (N, M), with its zeros."""
        return self._matrix().to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., M) to (..., N)."""
        if x.device.type == "cpu" and x.dtype not in CPU_PRODUCTS:
            return functional.linear(x, self.weight, self.bias)
        product = torch.mm(self._matrix(), x.flatten(0, -2).T).T.unflatten(0, x.shape[:-1])
        return product if self.bias is None else product + self.bias

    def _matrix(self) -> Tensor:
        size = (self.out_features, self.in_features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(self.rows, self.columns, self.values, size, check_invariants=False)


class MaskedSparse(MaskedLinear):
    """A `MaskedLinear` that is deployed as a `SparseLinear`."""

    def deployed(self) -> SparseLinear:
        """Return the sparse layer of the weights that the mask keeps."""
        return SparseLinear(self.weight, self.mask, self.bias).train(self.training)

    def budget(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry of a sparse layer with as many weights, wherever they are."""
        return {"kind": "sparse", "weights": self.active_weights()}


def build(dense: nn.Module) -> MaskedSparse:
    """Build the kind `sparse`, with all weights active until `set_mask`. Raise UserError if `dense` is not a Linear."""
    if not isinstance(dense, nn.Linear):
        raise UserError(f"kind 'sparse' replaces a Linear, not a {type(dense).__name__}")
    return MaskedSparse(dense, torch.ones_like(dense.weight, dtype=torch.bool))
