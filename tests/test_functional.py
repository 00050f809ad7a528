"""The public names and signatures, as programs outside the project are written against them."""

import inspect

import pytest
import torch

import pyaegpu
from pyaegpu import functional

EMPTY = inspect.Parameter.empty
CONV_TRANSPOSE = (
    {
        "input": EMPTY,
        "weight": EMPTY,
        "bias": None,
        "stride": 1,
        "padding": 0,
        "output_padding": 0,
        "groups": 1,
        "dilation": 1,
    },
    {"activation": None, "negative_slope": 0.01},
)
SIGNATURES = {
    "reconstruction_loss": (
        {"recon": EMPTY, "target": EMPTY, "kind": "bce"},
        {"reduction": "sum", "weight": None, "scale": 1.0, "beta": 1.0},
    ),
    "gaussian_kl": (
        {"mu": EMPTY, "logvar": None},
        {
            "std": None,
            "var": None,
            "other": None,
            "clamp": None,
            "free_bits": 0.0,
            "log_eps": 0.0,
            "reduction": "batchmean",
            "dims": None,
        },
    ),
    "vae_loss": (
        {"recon": EMPTY, "target": EMPTY, "mu": EMPTY, "logvar": EMPTY},
        {
            "kind": "bce",
            "beta": 1.0,
            "recon_reduction": "sum",
            "kl_reduction": "sum",
            "recon_scale": 1.0,
            "weight": None,
            "free_bits": 0.0,
            "clamp": None,
            "return_parts": False,
        },
    ),
    "reparameterize": (
        {"mu": EMPTY, "logvar": None},
        {
            "std": None,
            "eps": None,
            "generator": None,
            "training": True,
            "clamp": None,
            "return_eps": False,
        },
    ),
    "reparameterize_kl": (
        {"mu": EMPTY, "logvar": EMPTY},
        {"eps": None, "generator": None, "clamp": None, "reduction": "batchmean"},
    ),
    "corrupt": (
        {"input": EMPTY, "kind": EMPTY, "amount": EMPTY},
        {"generator": None, "low": 0.0, "high": 1.0},
    ),
    "sparsity_penalty": ({"code": EMPTY, "kind": "l1"}, {"target": 0.05, "reduction": "mean"}),
    "conv_transpose1d": CONV_TRANSPOSE,
    "conv_transpose2d": CONV_TRANSPOSE,
    "conv_transpose3d": CONV_TRANSPOSE,
    "upsample_conv2d": (
        {"input": EMPTY, "weight": EMPTY, "bias": None},
        {"scale": 2, "activation": None, "negative_slope": 0.01},
    ),
    "contractive_penalty": ({"hidden": EMPTY, "weight": EMPTY}, {"reduction": "mean"}),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    positional, keyword = SIGNATURES[name]
    parameters = inspect.signature(getattr(pyaegpu, name)).parameters
    kinds = {p.name: p.kind for p in parameters.values()}
    assert {n: parameters[n].default for n in kinds} == positional | keyword
    assert list(kinds) == [*positional, *keyword]
    assert all(kinds[n] == inspect.Parameter.POSITIONAL_OR_KEYWORD for n in positional)
    assert all(kinds[n] == inspect.Parameter.KEYWORD_ONLY for n in keyword)


@pytest.mark.parametrize("name", [*SIGNATURES, "explain"])
def test_functions_are_re_exported(name):
    assert getattr(pyaegpu, name) is getattr(functional, name)
    assert name in functional.__all__


def test_all_names_exist():
    for module in (pyaegpu, functional):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_docstrings_name_every_argument(name):
    function = getattr(pyaegpu, name)
    parameters = inspect.signature(function).parameters
    if name in ("conv_transpose1d", "conv_transpose3d"):
        assert ":func:`conv_transpose2d`" in function.__doc__
        function = pyaegpu.conv_transpose2d
    assert all(f"{parameter}: " in function.__doc__ for parameter in parameters)


def test_modules_take_the_keyword_arguments_of_their_functions():
    for module, function, inputs in (
        (pyaegpu.nn.ReconstructionLoss, pyaegpu.reconstruction_loss, 2),
        (pyaegpu.nn.VAELoss, pyaegpu.vae_loss, 4),
        (pyaegpu.nn.Corrupt, pyaegpu.corrupt, 1),
    ):
        ours = {n: p.default for n, p in inspect.signature(module).parameters.items()}
        theirs = {n: p.default for n, p in list(inspect.signature(function).parameters.items())[inputs:]}
        assert ours == theirs


def test_reparameterize_takes_its_options_at_init_and_its_tensors_at_the_call():
    module, function = pyaegpu.nn.Reparameterize, pyaegpu.reparameterize
    options = inspect.signature(module).parameters.keys()
    tensors = inspect.signature(module.forward).parameters.keys() - {"self"}
    # `training` is the module's own; a generator may come at either.
    assert options | tensors | {"training"} == inspect.signature(function).parameters.keys()
    assert options & tensors == {"generator"}


def test_the_example_of_the_textbook():
    """One pixel at one half, and a posterior of mean 1 and variance 1: ln 2 and one half nat."""
    half, one, zero = torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor([[0.0]])
    loss, reconstruction, kl = pyaegpu.vae_loss(half, one, one, zero, beta=4.0, return_parts=True)
    assert reconstruction.item() == pytest.approx(0.6931472)
    assert kl.item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(2.6931472)
