"""PyTorch's own sample inputs for its losses, run through reconstruction_loss."""

import pytest
import torch
from oracle import assert_accurate

import pyaegpu

OPS = {
    "nn.functional.binary_cross_entropy": "bce",
    "nn.functional.binary_cross_entropy_with_logits": "bce_logits",
    "nn.functional.mse_loss": "mse",
    "nn.functional.l1_loss": "l1",
    "nn.functional.smooth_l1_loss": "smooth_l1",
}


@pytest.fixture(scope="module")
def infos(torch_tests):
    return {info.name: info for info in torch_tests("common_methods_invocations").op_db if info.name in OPS}


def mapped(sample):
    """Our arguments for a sample, or None where it has no counterpart (broadcasting, pos_weight)."""
    options = dict(sample.kwargs)
    target, *rest = sample.args
    if rest or options.keys() - {"reduction", "weight", "beta"} or target.shape != sample.input.shape:
        return None
    options.setdefault("reduction", "mean")
    return target, options


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_samples(device, infos, name, dtype):
    info, used = infos[name], 0
    if dtype not in info.supported_dtypes(device.type):
        pytest.skip(f"stock {name} does not take {dtype} on {device.type}")
    for sample in info.sample_inputs(device.type, dtype, requires_grad=True):
        arguments = mapped(sample)
        if arguments is None:
            continue
        target, options = arguments
        target = target.detach()
        ours = pyaegpu.reconstruction_loss(sample.input, target, OPS[name], **options)
        stock = info.op(sample.input, target, **sample.kwargs)
        wide = sample.input.detach().double().requires_grad_()
        kwargs = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs.items()}
        truth = info.op(wide, target.double(), **kwargs)
        assert_accurate(ours, stock, truth, "value")
        grads = (
            torch.autograd.grad(y.sum(), x)[0] for y, x in ((ours, sample.input), (stock, sample.input), (truth, wide))
        )
        assert_accurate(*grads, "gradient")
        used += 1
    assert used >= 3


@pytest.mark.parametrize("name", OPS)
def test_broadcasting_samples_are_refused(infos, name):
    for sample in infos[name].sample_inputs("cpu", torch.float32, requires_grad=False):
        if sample.args[0].shape != sample.input.shape:
            with pytest.raises(ValueError, match="target"):
                pyaegpu.reconstruction_loss(sample.input, sample.args[0], OPS[name])


def test_error_samples_are_refused(infos):
    refused = 0
    for name in (n for n in OPS if infos[n].error_inputs_func is not None):
        for case in infos[name].error_inputs("cpu"):
            sample = case.sample_input
            with pytest.raises((TypeError, ValueError, RuntimeError)):
                pyaegpu.reconstruction_loss(sample.input, *sample.args, OPS[name], **sample.kwargs)
            refused += 1
    assert refused
