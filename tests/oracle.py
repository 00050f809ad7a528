"""The textbook formulas in plain PyTorch, and the comparison of results with them.

A formula runs in the dtype of its inputs, and where the first of them is: in float64 on the CPU it is the truth, in the
tested dtype it is stock PyTorch, whose error sets the tolerance.
"""

import torch
import torch.nn.functional as F

KINDS = ("bce", "bce_logits", "mse", "l1", "smooth_l1")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WEIGHTED_MEAN = ("mse", "l1", "smooth_l1")


def elementwise(recon, target, kind, beta=1.0):
    target = target.to(recon.device)
    if kind == "bce":
        return F.binary_cross_entropy(recon, target, reduction="none")
    if kind == "bce_logits":
        return F.binary_cross_entropy_with_logits(recon, target, reduction="none")
    if kind == "mse":
        return F.mse_loss(recon, target, reduction="none")
    if kind == "l1":
        return F.l1_loss(recon, target, reduction="none")
    return F.smooth_l1_loss(recon, target, reduction="none", beta=beta)


def reduce(values, reduction):
    if reduction == "none":
        return values
    if reduction == "mean":
        return values.mean()
    if values.dim() < 2:
        return values.sum()
    if reduction == "sample":
        return values.flatten(1).sum(1)
    if reduction == "dim":
        return values.mean(0)
    return values.sum() / (len(values) if reduction == "batchmean" else 1)


def reconstruction(recon, target, kind, *, reduction="sum", weight=None, scale=1.0, beta=1.0):
    loss = elementwise(recon, target, kind, beta)
    if weight is not None:
        weight = weight.to(loss.device)
        loss = loss * weight
        if reduction == "mean" and kind in _WEIGHTED_MEAN:
            return scale * loss.sum() / weight.expand_as(loss).sum()
    return scale * reduce(loss, reduction)


def kl_terms(mu, logvar=None, *, std=None, var=None, other=None, clamp=None, log_eps=0.0):
    if logvar is not None:
        logvar = logvar if clamp is None else logvar.clamp(*clamp)
        variance = logvar.exp()
    else:
        variance = std * std if var is None else var
        logvar = torch.log(variance + log_eps)
    mu2, logvar2 = (t.to(mu.device) for t in other or (torch.zeros_like(mu), torch.zeros_like(mu)))
    return 0.5 * (logvar2 - logvar + (variance + (mu - mu2) ** 2) / logvar2.exp() - 1)


def kl(mu, logvar=None, *, reduction="batchmean", dims=None, free_bits=0.0, **options):
    terms = kl_terms(mu, logvar, **options)
    if dims is not None:
        return terms.sum(dims)
    if free_bits:
        batch = len(mu) if mu.dim() > 1 else 1
        latents = (terms.mean(0) if mu.dim() > 1 else terms).clamp(min=free_bits)
        if reduction == "dim":
            return latents
        return latents.mean() if reduction == "mean" else latents.sum() * (batch if reduction == "sum" else 1)
    if reduction == "dim" and mu.dim() < 2:
        return terms
    return reduce(terms, reduction)


def vae(
    recon,
    target,
    mu,
    logvar,
    *,
    kind="bce",
    beta=1.0,
    recon_reduction="sum",
    kl_reduction="sum",
    recon_scale=1.0,
    weight=None,
    free_bits=0.0,
    clamp=None,
):
    """(loss, reconstruction, kl)."""
    if mu.dim() < 2:
        weight = None if weight is None else weight.expand_as(recon).reshape(1, -1)
        recon, target = recon.reshape(1, -1), target.reshape(1, -1)
    part = reconstruction(recon, target, kind, reduction=recon_reduction, weight=weight, scale=recon_scale)
    divergence = kl(mu, logvar, reduction=kl_reduction, free_bits=free_bits, clamp=clamp)
    part = part.reshape(divergence.shape)
    return part + beta * divergence, part, divergence


def reparameterize(mu, logvar=None, *, std=None, eps, clamp=None):
    """``mu + sigma * eps``."""
    if logvar is not None:
        std = torch.exp(0.5 * (logvar if clamp is None else logvar.clamp(*clamp)))
    return mu + std * eps.to(mu.device)


def reparameterize_kl(mu, logvar, *, eps, clamp=None, reduction="batchmean"):
    """(z, kl), the divergence in float32 at least."""
    z = reparameterize(mu, logvar, eps=eps, clamp=clamp)
    accumulator = torch.promote_types(mu.dtype, torch.float32)
    return z, kl(mu.to(accumulator), logvar.to(accumulator), reduction=reduction, clamp=clamp)


def activate(x, activation=None, negative_slope=0.01):
    if activation is None:
        return x
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    return {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation](x)


def conv_transpose(input, weight, bias=None, *args, activation=None, negative_slope=0.01, **options):
    """Of as many dimensions as the kernel has."""
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
    return activate(convolve(input, weight, bias, *args, **options), activation, negative_slope)


def upsample_conv2d(input, weight, bias=None, *, activation=None, negative_slope=0.01):
    batch = input if input.dim() == 4 else input[None]
    out = F.conv2d(F.interpolate(batch, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return activate(out if input.dim() == 4 else out[0], activation, negative_slope)


def images(kind, shape, dtype=torch.float32, device="cpu", seed=0):
    """A reconstruction and a target that suit ``kind``."""
    generator = torch.Generator().manual_seed(seed)
    recon = torch.randn(shape, generator=generator)
    target = torch.rand(shape, generator=generator)
    if kind == "bce":
        recon = recon.sigmoid().clamp(0.02, 0.98)
    return recon.to(device, dtype), target.to(device, dtype)


def latents(shape, dtype=torch.float32, device="cpu", seed=1):
    """A mean and a log variance."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, *shape, generator=generator)
    return both[0].to(device, dtype), both[1].to(device, dtype)


def filters(input, weight, bias, dtype=torch.float32, device="cpu", seed=3):
    """Random tensors of the given shapes, the weights scaled for outputs of about 1; ``bias`` None for none."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator) for shape in (input, weight)]
    tensors[1] *= max(1, weight[0]) ** -0.5
    if bias is not None:
        tensors.append(torch.randn(bias, generator=generator))
    return tuple(t.to(device, dtype) for t in tensors)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def run(fn, inputs, wanted=None, upstream=None):
    """The outputs of ``fn(*inputs)`` and the gradients at ``wanted`` (default all), upstream gradients being random.

    Gradients with respect to leaves that share the inputs' memory and layout.
    """
    leaves = [t.detach().requires_grad_(wanted is None or i in wanted) for i, t in enumerate(inputs)]
    outputs = as_tuple(fn(*leaves))
    if upstream is None:
        upstream = upstreams(outputs)
    pairs = [(o, g.to(o.dtype)) for o, g in zip(outputs, upstream, strict=True) if o.requires_grad]
    grads = torch.autograd.grad([o for o, _ in pairs], [t for t in leaves if t.requires_grad], [g for _, g in pairs])
    return [o.detach() for o in outputs], list(grads)


def upstreams(outputs, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=generator).to(o.device, o.dtype) for o in outputs]


def assert_accurate(ours, stock, truth, name="result", slack=0.0):
    """The error is at most twice that of stock PyTorch in the same dtype, plus a small floor and ``slack``."""
    assert ours.shape == truth.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(truth.shape)}"
    if not ours.numel():
        return
    ours_, stock_, truth = ours.double(), stock.double(), truth.to(ours.device)
    finite = truth.isfinite() & stock_.isfinite()
    same = (ours_ == stock_) | (ours_.isnan() & stock_.isnan())
    assert (finite | same).all(), f"{name}: NaN or Inf where stock has none, or the other way round"
    ours_, stock_, truth = ours_[finite], stock_[finite], truth[finite]
    if not truth.numel():
        return
    error, allowed = (ours_ - truth).abs(), 2 * (stock_ - truth).abs().amax()
    # In float64 stock is the truth itself, and both round.
    ulps = 32 if ours.dtype == torch.float64 else 3
    floor = ulps * torch.finfo(ours.dtype).eps * truth.abs().amax() + torch.finfo(ours.dtype).tiny
    floor = floor + slack
    worst = error.amax().item()
    assert worst <= allowed + floor, f"{name}: error {worst:.3e}, allowed {allowed + floor:.3e}"


def check(ours, oracle, inputs, wanted=None, upstream=None, slack=None):
    """Values and gradients of ``ours(*inputs)`` against the oracle's, which is exact on the CPU.

    ``slack`` gives, from inputs and upstream gradients, what each value and each gradient may be off besides.
    """
    results = run(ours, inputs, wanted, upstream)
    if upstream is None:
        upstream = upstreams(results[0])
    stock = run(oracle, inputs, wanted, upstream)
    truth = run(oracle, [t.double().cpu() for t in inputs], wanted, [g.cpu() for g in upstream])
    slacks = [[0.0] * len(r) for r in results] if slack is None else slack(inputs, upstream, wanted)
    for what, *columns in zip(("value", "gradient"), results, stock, truth, slacks, strict=True):
        for index, (a, b, c, d) in enumerate(zip(*columns, strict=True)):
            assert_accurate(a, b, c, f"{what} {index}", d)
    for grad, wanted_input in zip(results[1], _wanted(inputs, wanted), strict=True):
        assert grad.dtype == wanted_input.dtype
    return results


def rounding_of(linear):
    """The slack of sums of products: an eps of the sum of the magnitudes, which does not cancel as the sum may. In half
    precision a derivative is taken at a rounded output: an eps in each product, which add up as noise does."""

    def slack(inputs, upstream, wanted):
        eps = torch.finfo(torch.promote_types(inputs[0].dtype, torch.float32)).eps
        both = []
        for power in (1, 2) if inputs[0].dtype.itemsize == 2 else (1,):
            powers = [[t.double().abs() ** power for t in tensors] for tensors in (inputs, upstream)]
            sums = run(linear, powers[0], wanted, powers[1])
            factor = eps if power == 1 else torch.finfo(inputs[0].dtype).eps
            both.append([[factor * t.amax() ** (1 / power) if t.numel() else 0.0 for t in row] for row in sums])
        return [[sum(each) for each in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]

    return slack


def _wanted(inputs, wanted):
    return [t for i, t in enumerate(inputs) if wanted is None or i in wanted]
