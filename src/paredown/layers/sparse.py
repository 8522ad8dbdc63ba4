"""The kind `sparse`: a masked linear layer that ships as a sparse matrix, for where that is the faster product."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from paredown.errors import UserError
from paredown.layers.masked import MaskedLinear


class SparseLinear(nn.Linear):
    """The linear layer of a weight (N, M) of which the entries under `mask` (N, M) are kept, by rows. Only to run."""

    rows: Tensor
    columns: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
        nn.Module.__init__(self)  # a Linear's own makes a dense weight
        self.out_features, self.in_features = weight.shape
        counts = mask.sum(dim=1).cumsum(0)
        self.register_buffer("rows", torch.cat([counts.new_zeros(1), counts]))
        self.register_buffer("columns", mask.nonzero()[:, 1].contiguous())
        self.values = nn.Parameter(weight.detach()[mask])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight (N, M), zeros in place."""
        return self._matrix().to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """(..., M) to (..., N)."""
        product = torch.mm(self._matrix(), x.flatten(0, -2).T).T.unflatten(0, x.shape[:-1])
        return product if self.bias is None else product + self.bias

    def _matrix(self) -> Tensor:
        size = (self.out_features, self.in_features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(self.rows, self.columns, self.values, size, check_invariants=False)


class MaskedSparse(MaskedLinear):
    """A `MaskedLinear` that ships as a `SparseLinear`."""

    def deployed(self) -> SparseLinear:
        """The weights under the mask, and no zeros."""
        return SparseLinear(self.weight, self.mask, self.bias).train(self.training)


def build(dense: nn.Module) -> MaskedSparse:
    """The kind `sparse`: all weights active until `set_mask`. Raises UserError where `dense` is no Linear."""
    if not isinstance(dense, nn.Linear):
        raise UserError(f"kind 'sparse' replaces a Linear, not a {type(dense).__name__}")
    return MaskedSparse(dense, torch.ones_like(dense.weight, dtype=torch.bool))
