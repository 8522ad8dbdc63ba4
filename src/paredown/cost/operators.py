"""The operators of a forward pass: matrix products are counted, others must be known to be free of multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from paredown.core.errors import UserError
from paredown.cost.products import Product, known, name_of, product


class CostError(RuntimeError):
    """The two counters disagree, or the network uses an operator that neither knows."""


class UnknownOperator(CostError, UserError):
    """A network that uses an operator that neither counter knows."""


# aten names of operators without multiply-adds by the convention of `cost.count`, without the final "_" of in-place
# variants, beside those that torch tags as pointwise. Some conventions in cost/conventions.py count normalisation,
# pooling or activations, per module.
ELEMENTWISE = """
    abs add clamp clamp_max clamp_min cos div elu erf exp gelu hardsigmoid hardswish hardtanh leaky_relu log log1p
    maximum minimum mish mul neg pow prelu _prelu_kernel reciprocal relu rsqrt rsub sigmoid sign silu sin softplus
    sqrt square sub tanh where masked_fill eq ne gt ge lt le logical_and logical_not logical_or bitwise_and
    bitwise_not bitwise_or isnan
"""
NORMALISATION = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    miopen_batch_norm batch_norm _batch_norm_with_update _batch_norm_no_update native_layer_norm native_group_norm
    linalg_vector_norm renorm _weight_norm_interface _softmax _safe_softmax _log_softmax softmax log_softmax dropout
    native_dropout
"""
RANDOM = """
    bernoulli exponential fractional_max_pool2d multinomial normal normal_functional rand rand_like randint randint_like
    randn randn_like random randperm rrelu_with_noise uniform
"""
REDUCTION = """
    sum nansum mean var std var_mean std_mean amax amin max min aminmax argmax argmin any all topk sort prod median
    nanmedian mode kthvalue logsumexp count_nonzero nonzero bincount histc _unique2 unique_dim unique_consecutive trace
    cumsum cumprod cummax cummin _cummax_helper _cummin_helper logcumsumexp mse_loss
    _adaptive_avg_pool2d adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices adaptive_max_pool2d
    _adaptive_avg_pool3d adaptive_avg_pool3d avg_pool3d max_pool3d_with_indices adaptive_max_pool3d
"""
MOVEMENT = """
    view _unsafe_view reshape _reshape_alias expand permute transpose t unsqueeze squeeze slice select narrow split
    split_with_sizes unsafe_split chunk unbind unfold cat stack index index_select gather scatter index_put flip roll
    repeat alias detach as_strided flatten tril triu im2col pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle glu log_sigmoid_forward
    scatter_add scatter_reduce index_add index_copy index_fill masked_select masked_scatter take put embedding bucketize
    searchsorted col2im rot90 diag_embed diagonal max_unpool2d logspace
    constant_pad_nd reflection_pad2d replication_pad2d upsample_nearest2d clone copy _to_copy contiguous lift_fresh
    set_ empty empty_like empty_strided new_empty new_zeros new_ones new_full zeros zeros_like ones ones_like full
    sparse_compressed_tensor full_like fill zero arange linspace eye scalar_tensor _local_scalar_dense
"""
FREE = frozenset(f"{ELEMENTWISE} {NORMALISATION} {RANDOM} {REDUCTION} {MOVEMENT}".split())


class ProductCounter(TorchDispatchMode):
    """Dispatch mode that lists the matrix `products` of a forward pass of `network`, each in the innermost module that
    is called. It raises CostError at the first operator that is neither in `FREE` nor known to a counter.

    Attention runs as plain products, for which both counters have a formula, not as a kernel of its own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.products: list[Product] = []
        self._root = type(network).__name__
        self._names = {module: name for name, module in network.named_modules()}
        self._inside: list[str] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """List what runs inside the context."""
        fast = torch.backends.mha.get_fastpath_enabled()
        begins = register_module_forward_pre_hook(self._begin)
        ends = register_module_forward_hook(self._end, always_call=True)
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            with sdpa_kernel(SDPBackend.MATH), self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            begins.remove()
            ends.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, given = func._overloadpacket, kwargs or {}
        where = self._inside[-1] if self._inside else ""
        if not known(packet) and not _is_free(func):
            with self:  # what an operator of several consists of
                result = func.decompose(*args, **given)
            if result is NotImplemented:
                inside = f"{self._root}.{where}".removesuffix(".")
                name = packet._qualified_op_name.removeprefix("aten::")
                raise UnknownOperator(
                    f"{inside}: no counter knows the operator {name!r} (cost/operators.py lists those known)"
                )
            return result
        result = func(*args, **given)
        if known(packet):
            self.found(product(where, packet, args, given, result), args)
        return result

    def found(self, product: Product, args: Any) -> None:
        """Note a product, of the arguments `args`."""
        self.products.append(product)

    def _begin(self, module: nn.Module, _: Any) -> None:
        outer = self._inside[-1] if self._inside else ""
        self._inside.append(self._names.get(module, outer))

    def _end(self, module: nn.Module, *_: Any) -> None:
        self._inside.pop()


def _is_free(operator: Any) -> bool:
    """Tell whether an overload of an `operator` is free of multiply-adds by the convention."""
    return name_of(operator._overloadpacket) in FREE or torch.Tag.pointwise in operator.tags
