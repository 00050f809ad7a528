"""The launches of batch normalisation with an activation that are compiled ahead of time."""

import functools
from typing import Any

import torch
from aot_calls import DTYPES, Calls, acc_of, meta
from pyaegpu.kernels import norm_act

# Second stages, and what has one element for each channel.
NARROW = ("moments_kernel", "norm_sums_kernel", "running_kernel")
NONE, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)

# Shape, channels_last, activation. Odd: tensors that no 16-byte access can follow, or parameters of which a program of
# half precision takes one.
SHAPES = {
    "dcgan": ((128, 64, 32, 32), False, RELU),
    "small images": ((128, 512, 4, 4), False, LEAKY_RELU),
    "dcgan channels_last": ((128, 64, 32, 32), True, RELU),
    "leaky channels_last": ((128, 512, 4, 4), True, LEAKY_RELU),
    "tanh channels_last": ((128, 64, 32, 32), True, TANH),
    "sigmoid channels_last": ((128, 256, 8, 8), True, SIGMOID),
    "few channels_last": ((128, 16, 64, 64), True, NONE),
    "linear": ((128, 1024), False, RELU),
    "odd images": ((127, 20, 7, 7), False, TANH),
    "odd channels_last": ((127, 20, 7, 7), True, SIGMOID),
    "odd parameters": ((128, 64, 32, 32), False, RELU),
}
# Those called in every way; the others only train, forward and backward.
IN_FULL = {"dcgan", "dcgan channels_last", "tanh channels_last"}
# Of the shapes, all of which bfloat16 has, those of the other dtypes.
CHOSEN = {
    "f32": IN_FULL | {"linear", "odd images"},
    "f16": {"dcgan channels_last"},
    "f64": {"dcgan", "tanh channels_last", "odd channels_last"},
}


def shape_calls(label: str, dtype: torch.dtype) -> Calls:
    shape, channels_last, activation = SHAPES[label]
    acc = acc_of(dtype)
    x = meta(shape, dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    kind = acc if not channels_last and "odd" not in label else dtype
    parameters = [meta(shape[1:2], kind) for _ in range(2)]
    statistics = [meta(shape[1:2], acc) for _ in range(2)]
    numbers = (activation, 0.2, channels_last)

    def forward(training: bool) -> Any:
        known = (None, None) if training else statistics
        return norm_act.batch_norm_act_fwd(x, *parameters, *known, training, 1e-5, *numbers)

    def backward(training: bool, *needed: bool) -> Any:
        return norm_act.batch_norm_act_bwd(x, x, *parameters, *statistics, training, *numbers, *needed)

    yield label, functools.partial(forward, True)
    yield f"{label} backward", functools.partial(backward, True, True, False)
    if label in IN_FULL:
        yield f"{label} sums", functools.partial(backward, True, False, True)
        yield f"{label} eval", functools.partial(forward, False)
        yield f"{label} eval backward", functools.partial(backward, False, True, True)
        yield f"{label} eval input", functools.partial(backward, False, True, False)


def calls(name: str) -> Calls:
    for label in SHAPES:
        if label in CHOSEN.get(name, {label}):
            yield from shape_calls(label, DTYPES[name])
