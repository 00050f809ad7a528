"""The public functions as functions of tensors only, one for each way they are used: for the transforms of PyTorch."""

from dataclasses import dataclass
from typing import Any

import oracle
import torch
from oracle import KINDS, images, latents

import pyaegpu


@dataclass(frozen=True)
class Call:
    """``ours`` and ``stock`` take the tensors of ``inputs(dtype, device)``; ``wanted`` are those with a gradient."""

    name: str
    ours: Any
    stock: Any
    make: Any
    wanted: tuple[int, ...]

    def inputs(self, dtype=torch.float32, device="cpu"):
        return self.make(dtype, device)

    def leaves(self, dtype=torch.float32, device="cpu"):
        """The inputs, with ``requires_grad`` where a gradient is wanted."""
        return [t.requires_grad_(i in self.wanted) for i, t in enumerate(self.inputs(dtype, device))]

    def is_scalar(self):
        """Whether the first result is one number, as ``torch.func.grad`` wants it."""
        return oracle.as_tuple(self.stock(*self.inputs()))[0].dim() == 0

    def __str__(self):
        return self.name


def _reconstruction(kind, reduction, wanted=(0,), shape=(2, 3, 2)):
    def make(dtype, device):
        weight = torch.linspace(0.5, 1.5, 3).reshape(3, 1).to(device, dtype)
        return (*images(kind, shape, dtype, device), weight)[: 3 if 2 in wanted else 2]

    def ours(x, t, w=None):
        return pyaegpu.reconstruction_loss(x, t, kind, reduction=reduction, weight=w, scale=0.7, beta=0.6)

    def stock(x, t, w=None):
        return oracle.reconstruction(x, t, kind, reduction=reduction, weight=w, scale=0.7, beta=0.6)

    return Call(f"{kind}-{reduction}" + ("-all" if len(wanted) > 1 else ""), ours, stock, make, wanted)


def _kl(form, reduction, other=False, **options):
    def make(dtype, device):
        mu, logvar = latents((3, 4), dtype, device)
        spread = logvar if form == "logvar" else (0.5 * logvar).exp()
        return (mu, spread, *latents((4,), dtype, device, seed=5))[: 4 if other else 2]

    def ours(mu, spread, *rest):
        return pyaegpu.gaussian_kl(mu, **{form: spread}, other=rest or None, reduction=reduction, **options)

    def stock(mu, spread, *rest):
        return oracle.kl(mu, **{form: spread}, other=rest or None, reduction=reduction, **options)

    name = "-".join(["kl", form, reduction, *(["other"] if other else []), *options])
    return Call(name, ours, stock, make, (0, 1, 2, 3)[: 4 if other else 2])


def _vae(kind, reduction, wanted=(0, 2, 3), parts=False, **options):
    options |= {"kind": kind, "recon_reduction": reduction, "kl_reduction": reduction}

    def make(dtype, device):
        beta = torch.tensor(0.6, dtype=dtype, device=device)
        weight = torch.linspace(0.5, 1.5, 3).reshape(3, 1).to(device, dtype)
        tensors = (*images(kind, (3, 3, 2), dtype, device), *latents((3, 2), dtype, device), beta, weight)
        return tensors[: max(wanted) + 1]

    def ours(x, t, m, v, b=0.3, w=None):
        return pyaegpu.vae_loss(x, t, m, v, beta=b, weight=w, return_parts=parts, **options)

    def stock(x, t, m, v, b=0.3, w=None):
        result = oracle.vae(x, t, m, v, beta=b, weight=w, **options)
        return result if parts else result[0]

    name = "-".join(["vae", kind, reduction, *(["parts"] if parts else []), *options.keys() - _VAE_NAMED])
    return Call(name + ("-all" if len(wanted) == 6 else "-beta" if 4 in wanted else ""), ours, stock, make, wanted)


def _reparameterize(form, reduction=None, **options):
    """Noise is given, so that every run is the same; with ``reduction``, sample and divergence."""
    name = "reparameterize" if reduction is None else "reparameterize_kl"
    options |= {} if reduction is None else {"reduction": reduction}
    ours_fn, stock_fn = getattr(pyaegpu, name), getattr(oracle, name)

    def make(dtype, device):
        mu, spread = latents((3, 4), dtype, device)
        return mu, spread, latents((3, 4), dtype, device, seed=6)[0]

    def call(fn):
        return lambda mu, spread, eps: fn(mu, **{form: spread}, eps=eps, **options)

    return Call(
        "-".join([name, form, *([reduction] if reduction else []), *options.keys() - {"reduction"}]),
        call(ours_fn),
        call(stock_fn),
        make,
        (0, 1, 2),
    )


def _convolution(name, function, shapes, wanted=(0, 1, 2), **options):
    """``shapes`` of input, weight and bias; for each number of dimensions the oracle has one function."""
    ours_fn = getattr(pyaegpu, function)
    stock_fn = oracle.upsample_conv2d if function == "upsample_conv2d" else oracle.conv_transpose

    def make(dtype, device):
        return oracle.filters(*shapes, dtype, device)

    def call(fn):
        return lambda *tensors: fn(*tensors, **options)

    activation = options.get("activation", "linear")
    return Call(f"{function}-{name}-{activation}", call(ours_fn), call(stock_fn), make, wanted)


def _slope(slope):
    return {"activation": "leaky_relu", "negative_slope": slope}


_VAE_NAMED = {"kind", "recon_reduction", "kl_reduction"}

RECONSTRUCTION = [
    *(_reconstruction(kind, "sum") for kind in KINDS),
    *(_reconstruction("bce", reduction) for reduction in ("none", "mean", "batchmean", "sample")),
    *(_reconstruction(kind, "none", (0, 1, 2)) for kind in KINDS),
    _reconstruction("mse", "mean", (0, 1, 2)),
    _reconstruction("bce", "sample", (0, 1, 2)),
]
KL = [
    *(_kl("logvar", reduction) for reduction in ("none", "sum", "mean", "batchmean", "sample", "dim")),
    _kl("std", "sum", log_eps=0.01),
    _kl("var", "batchmean", log_eps=0.01),
    _kl("logvar", "sum", clamp=(-0.5, 0.5)),
    _kl("logvar", "sample", other=True),
    _kl("std", "none", other=True),
    _kl("logvar", "sum", free_bits=0.4),
    _kl("logvar", "sample", other=True, dims=(0,)),
]
VAE = [
    *(_vae(kind, "sum") for kind in KINDS),
    _vae("bce", "sample"),
    _vae("bce_logits", "batchmean", (0, 2, 3, 4), parts=True),
    _vae("mse", "sample", (0, 1, 2, 3, 4, 5), parts=True, clamp=(-0.5, 0.5)),
    _vae("mse", "mean", (0, 1, 2, 3, 4, 5)),
    _vae("mse", "mean", (0, 2, 3, 4), free_bits=0.4),
]
SAMPLE = [
    _reparameterize("logvar"),
    _reparameterize("std"),
    _reparameterize("logvar", clamp=(-0.5, 0.5)),
    _reparameterize("logvar", "sum", clamp=(-0.5, 0.5)),
    _reparameterize("logvar", "batchmean"),
    _reparameterize("logvar", "sample"),
    _reparameterize("logvar", "none"),
    _reparameterize("logvar", "dim"),
]
_SMALL = ((1, 2, 2, 2), (2, 1, 3, 2), (1,))
_PIXEL = ((2, 2, 1, 1), (2, 2, 2, 1), (2,))
_DENSE = ((1, 1, 2, 1), (1, 5, 2, 2), (5,))
_UPSAMPLE = ((1, 2, 2, 1), (1, 2, 3, 3), (1,))
CONVOLUTION = [
    _convolution("small", "conv_transpose2d", _SMALL, stride=2, padding=1, output_padding=(1, 0), activation="relu"),
    _convolution("small", "conv_transpose2d", (*_SMALL[:2], None), (0, 1), stride=(1, 2), padding=1),
    _convolution("pixel", "conv_transpose2d", _PIXEL, **_slope(0.2)),
    _convolution("negative", "conv_transpose2d", _PIXEL, **_slope(-0.3)),
    _convolution("unbatched", "conv_transpose2d", ((2, 1, 2), *_PIXEL[1:]), stride=2, activation="tanh"),
    _convolution("pixel", "conv_transpose2d", _PIXEL, activation="sigmoid"),
    _convolution("dense", "conv_transpose2d", _DENSE, stride=2, activation="relu"),
    _convolution("dense", "conv_transpose2d", _DENSE, stride=(1, 2), padding=(1, 0)),
    _convolution("dilated", "conv_transpose2d", _DENSE, padding=(1, 0), dilation=2, **_slope(0.2)),
    _convolution("dense", "conv_transpose2d", ((5, 1, 1), (5, 5, 1, 2), (5,)), activation="tanh"),
    _convolution("groups", "conv_transpose2d", ((2, 4, 1, 1), (4, 1, 2, 2), (2,)), groups=2, activation="sigmoid"),
    _convolution("line", "conv_transpose1d", ((2, 2, 3), (2, 2, 2), (2,)), stride=2, activation="relu"),
    _convolution("volume", "conv_transpose3d", ((1, 2, 1, 2, 1), (2, 1, 2, 1, 2), (1,)), activation="tanh"),
    _convolution("small", "upsample_conv2d", _UPSAMPLE, activation="sigmoid"),
    _convolution("dense", "upsample_conv2d", ((1, 1, 1), (5, 1, 3, 3), (5,)), activation="relu"),
]
CALLS = [*RECONSTRUCTION, *KL, *VAE, *SAMPLE, *CONVOLUTION]
# One of each function and shape of result, where a check is slow.
FEW = [
    RECONSTRUCTION[0],
    RECONSTRUCTION[8],
    RECONSTRUCTION[11],
    KL[1],
    KL[9],
    VAE[1],
    VAE[5],
    VAE[6],
    SAMPLE[1],
    SAMPLE[2],
    SAMPLE[5],
    CONVOLUTION[0],
    CONVOLUTION[4],
    CONVOLUTION[13],
]
