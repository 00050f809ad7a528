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
MAX_POOL = (
    {
        "input": EMPTY,
        "kernel_size": EMPTY,
        "stride": None,
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
        "return_indices": False,
    },
    {"index_dtype": torch.int64},
)
MAX_UNPOOL = (
    {
        "input": EMPTY,
        "indices": EMPTY,
        "kernel_size": EMPTY,
        "stride": None,
        "padding": 0,
        "output_size": None,
    },
    {"dilation": 1},
)
WINDOW_UNPOOL = ({"input": EMPTY, "kernel_size": EMPTY}, {})
# Of these the function of images tells the arguments.
BY_DIMENSIONS = ("conv_transpose", "max_pool", "max_unpool", "nearest_unpool", "bed_of_nails")
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
    **{f"max_pool{dims}d": MAX_POOL for dims in (1, 2, 3)},
    **{f"max_unpool{dims}d": MAX_UNPOOL for dims in (1, 2, 3)},
    **{f"{name}{dims}d": WINDOW_UNPOOL for name in ("nearest_unpool", "bed_of_nails") for dims in (1, 2, 3)},
    "decode_pool_codes": (
        {"codes": EMPTY, "kernel_size": EMPTY, "stride": None, "padding": 0},
        {"dilation": 1, "input_size": EMPTY},
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
    if name[:-2] in BY_DIMENSIONS and not name.endswith("2d"):
        assert f":func:`{name[:-2]}2d`" in function.__doc__
        name = f"{name[:-2]}2d"
    if name == "bed_of_nails2d":
        assert ":func:`nearest_unpool2d`" in pyaegpu.bed_of_nails2d.__doc__
        name = "nearest_unpool2d"
    function = getattr(pyaegpu, name)
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


def test_modules_of_pooling_take_stocks_arguments():
    for name in ("MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"):
        ours, stock = getattr(pyaegpu.nn, name), getattr(torch.nn, name)
        assert issubclass(ours, stock)
        call = inspect.signature(stock.forward).parameters
        assert {n: p.default for n, p in inspect.signature(ours.forward).parameters.items()} == {
            n: p.default for n, p in call.items()
        }


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
