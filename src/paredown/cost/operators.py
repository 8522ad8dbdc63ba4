"""What the counters know of torch's operators; one that they don't know stops the count."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker


class CostError(RuntimeError):
    """The two counters disagree, or the network does something that no counter knows."""


# Operators without a multiply-add in the convention of `cost.count`, by their names in aten without the final "_" of
# those that work in place. Some of cost/rules.py count normalisation, pooling or activations, module by module.
ELEMENTWISE = """
    abs add clamp clamp_max clamp_min cos div elu erf exp gelu hardsigmoid hardswish hardtanh leaky_relu log log1p
    maximum minimum mish mul neg pow prelu _prelu_kernel reciprocal relu rsqrt rsub sigmoid sign silu sin softplus
    sqrt square sub tanh where masked_fill eq ne gt ge lt le logical_and logical_not logical_or bitwise_and
    bitwise_not bitwise_or isnan
"""
NORMALISATION = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    miopen_batch_norm batch_norm _batch_norm_with_update _batch_norm_no_update native_layer_norm native_group_norm
    linalg_vector_norm _softmax _log_softmax softmax log_softmax dropout native_dropout bernoulli
"""
REDUCTION = """
    sum mean var std amax amin max min aminmax argmax argmin any all topk sort
    _adaptive_avg_pool2d adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices adaptive_max_pool2d
"""
MOVEMENT = """
    view _unsafe_view reshape _reshape_alias expand permute transpose t unsqueeze squeeze slice select narrow split
    split_with_sizes unsafe_split chunk unbind unfold cat stack index index_select gather scatter index_put flip roll
    repeat alias detach as_strided flatten im2col pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    constant_pad_nd reflection_pad2d replication_pad2d upsample_nearest2d clone copy _to_copy contiguous lift_fresh
    set_ empty empty_like empty_strided new_empty new_zeros new_ones new_full zeros zeros_like ones ones_like full
    sparse_compressed_tensor full_like fill zero arange linspace eye scalar_tensor _local_scalar_dense
"""
FREE = frozenset(f"{ELEMENTWISE} {NORMALISATION} {REDUCTION} {MOVEMENT}".split())


class OperatorCheck(TorchDispatchMode):
    """Raises CostError at the first operator that is neither in `FREE` nor one that torch's FLOP counter counts."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ModuleTracker()

    def __enter__(self) -> OperatorCheck:
        self.tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.tracker.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet._qualified_op_name.removeprefix("aten::")
        if packet not in flop_registry and name not in FREE and name.removesuffix("_") not in FREE:
            inside = self.tracker.parents - {"Global"}
            where = max(inside, key=len, default="Global")  # the innermost: every parent's name begins its child's
            raise CostError(f"{where}: no counter knows the operator {name!r} (cost/operators.py lists those known)")
        return func(*args, **(kwargs or {}))
