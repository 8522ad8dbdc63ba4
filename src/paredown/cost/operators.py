"""What the counters know of torch's operators; one that stands in neither list stops the count."""

from __future__ import annotations

# Counted by torch.utils.flop_counter, at two FLOPs a multiply-add.
COUNTED = frozenset("convolution _convolution addmm mm bmm baddbmm".split())

# No multiply-add is counted for these, in any of the papers' conventions but thop's (see cost/rules.py).
FREE = frozenset(
    """
    abs add clamp div exp hardsigmoid hardswish hardtanh leaky_relu mul neg pow relu rsqrt sigmoid silu sqrt sub tanh
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm native_layer_norm
    batch_norm _batch_norm_with_update _batch_norm_no_update
    _adaptive_avg_pool2d adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices mean sum max amax
    softmax _softmax _log_softmax dropout native_dropout
    view _unsafe_view reshape _reshape_alias expand permute transpose t unsqueeze squeeze slice select split
    split_with_sizes chunk unbind cat stack index index_select gather constant_pad_nd alias detach as_strided flatten
    clone copy _to_copy contiguous empty empty_like empty_strided zeros zeros_like new_zeros full fill zero arange
    lift_fresh set_ bernoulli
    """.split()
)
