"""Transposed convolution and its pointwise pass: the launchers of the family, one file for each algorithm.

A launcher has the name and arguments of the registered op it serves.
"""

from .bias_act import bias_act_, bias_act_bwd
from .conv_transpose_matmul import conv_transpose2d_matmul_fwd
from .conv_transpose_norm import conv_transpose2d_matmul_norm_fwd, conv_transpose2d_phases_norm_fwd
from .conv_transpose_phases import conv_transpose2d_phases_fwd
from .conv_transpose_small import conv_transpose2d_small_bwd, conv_transpose2d_small_fwd

__all__ = [
    "bias_act_",
    "bias_act_bwd",
    "conv_transpose2d_matmul_fwd",
    "conv_transpose2d_matmul_norm_fwd",
    "conv_transpose2d_phases_fwd",
    "conv_transpose2d_phases_norm_fwd",
    "conv_transpose2d_small_bwd",
    "conv_transpose2d_small_fwd",
]
