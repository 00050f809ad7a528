"""Memory layouts of the input and the upstream gradient, and those of the results, which are stock PyTorch's."""

import itertools

import oracle
import pytest
import torch
from conv_cases import strides_of
from layouts import LAYOUTS
from norm_cases import ACTIVATIONS, Case, each_mode
from oracle import run

import pyaegpu

SHAPES = ((7, 5), (2, 5, 6), (3, 5, 2, 3), (2, 37, 6, 7), (2, 3, 2, 3, 5))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def channels_last(t):
    return t.to(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim(), torch.contiguous_format))


def swapped_pixels(t):
    return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() > 3 else t


EVERY = LAYOUTS | {
    "channels_last": channels_last,
    "channels_last, sliced": lambda t: LAYOUTS["sliced"](channels_last(t)),
    "channels_last, pixels swapped": lambda t: channels_last(t.transpose(-1, -2)).transpose(-1, -2),
    "pixels swapped": swapped_pixels,
    "expanded_channels": lambda t: t[:, :1].expand_as(t),
}
each_layout = pytest.mark.parametrize("change", EVERY.values(), ids=EVERY)


@each_mode
@each_layout
@each_shape
def test_any_layout_of_the_input(kernel_device, shape, change, training):
    """Two values at least of each channel, where a layout repeats them."""
    for dtype, activation in itertools.product((torch.float32, torch.bfloat16), ("none", "leaky", "tanh")):
        case = Case(shape, training)
        input, *parameters = case.tensors((dtype, torch.float32), kernel_device)
        case.check((change(input), *parameters), **ACTIVATIONS[activation])


@each_mode
@each_shape
def test_any_layout_of_the_upstream_gradient(kernel_device, shape, training):
    case = Case(shape, training)
    for memory in (lambda t: t, channels_last):
        input, *parameters = case.tensors(device=kernel_device)
        tensors = memory(input), *parameters
        upstream = oracle.upstreams([input])[0]
        for change, activation in itertools.product(EVERY.values(), ("none", "relu", "sigmoid")):
            case.check(tensors, upstream=[change(upstream)], **ACTIVATIONS[activation])
        one = torch.ones((), device=kernel_device).expand(shape)
        case.check(tensors, upstream=[one], activation="tanh")


@each_mode
@each_shape
def test_any_layout_of_the_parameters(kernel_device, shape, training):
    case = Case(shape, training)
    input, *parameters = case.tensors(device=kernel_device)
    for change in (lambda t: torch.stack([t, t], 1)[:, 0], lambda t: t[:1].expand_as(t), LAYOUTS["sliced"]):
        for activation in ("none", "tanh"):
            case.check((input, *map(change, parameters)), **ACTIVATIONS[activation])


AMBIGUOUS = (
    (4, 3), (4, 1), (2, 3, 5), (3, 3, 1), (2, 1, 4), (2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 3, 4, 5),
    (2, 3, 1, 5), (2, 3, 5, 1), (4, 1, 1, 1), (2, 3, 2, 3, 4), (2, 1, 2, 3, 4), (2, 3, 1, 1, 1), (1, 3, 2, 3, 2),
)  # fmt: skip


@each_mode
@pytest.mark.parametrize("shape", AMBIGUOUS, ids=str)
def test_strides_of_the_results_are_stocks(kernel_device, shape, training):
    """Up to those of sizes of one, which no element is found by; with pixels of one row or column stock's activations
    change the layout of its gradient."""
    for change, dtype in itertools.product(EVERY.values(), (torch.float32, torch.bfloat16)):
        case = Case(shape, training)
        input, *parameters = case.tensors((dtype, dtype), kernel_device)
        for activation in ("none", "relu", "tanh"):
            options = ACTIVATIONS[activation]
            ours, stock = (run(fn(**options), (change(input), *parameters)) for fn in (case.ours, case.stock))
            assert strides_of(ours[0], False) == strides_of(stock[0], False), (activation, change(input).stride())
            if activation == "none" or 1 not in shape[2:]:
                assert strides_of(ours[1], False) == strides_of(stock[1], False), (activation, change(input).stride())


@each_shape
def test_inputs_are_read_where_they_lie(device, shape):
    """A view at any offset of its storage, and no write beside the results."""
    case = Case(shape)
    input, *parameters = case.tensors(device=device)
    whole = torch.full((input.numel() + 14,), float("nan"), device=device)
    for offset in (0, 1, 3, 7):
        view = whole[offset : offset + input.numel()].view(shape)
        view.copy_(input)
        case.check((view, *parameters), activation="relu")
        assert torch.equal(view, input)
        whole.fill_(float("nan"))


@each_mode
def test_every_element_is_written_in_channels_last(device, training, nan_filled):
    for shape in ((3, 5, 2, 3), (2, 300, 6, 7), (2, 3, 2, 3, 5), (2, 1, 5, 3), (1030, 2, 3, 1)):
        case = Case(shape, training)
        input, *parameters = case.tensors(device=device)
        values, grads = run(case.ours(activation="tanh"), (channels_last(input), *parameters))
        assert all(t.isfinite().all() for t in (*values, *grads))


@each_mode
@pytest.mark.parametrize("channels", [1, 3, 64, 300])
def test_channels_in_channels_last(kernel_device, channels, training):
    """Pixels of which one tile of columns holds many, one, or a part."""
    for shape in ((2, channels, 3, 5), (3, channels, 17, 19)):
        case = Case(shape, training)
        input, *parameters = case.tensors(device=kernel_device)
        for activation in ("none", "leaky by -0.5", "sigmoid"):
            case.check((channels_last(input), *parameters), **ACTIVATIONS[activation])


def test_both_memory_formats_agree(device):
    case = Case((4, 33, 9, 8))
    input, *parameters = case.tensors(device=device)
    results = [run(case.ours(activation="tanh"), (t, *parameters)) for t in (input, channels_last(input))]
    for ours, other in zip(results[0][0] + results[0][1], results[1][0] + results[1][1], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_the_result_may_be_changed_in_place(device):
    """The backward reads the input alone."""
    for activation, training in itertools.product(ACTIVATIONS.values(), (True, False)):
        case = Case((3, 5, 2, 3), training)
        tensors = case.tensors(device=device)
        call = case.ours(**activation)
        if pyaegpu.explain(pyaegpu.batch_norm_act, tensors[0], None, None, training=True).backend == "reference":
            continue
        results = [run(fn, tensors) for fn in (call, lambda *t, fn=call: fn(*t).mul_(2))]
        for plain, doubled in zip(results[0][0], results[1][0], strict=True):
            assert torch.equal(2 * plain, doubled)
        for plain, doubled in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(2 * plain, doubled)
