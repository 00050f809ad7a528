"""Which cases a first measurement of a card takes: every op at the sizes that its targets name, and one case of each
other axis (dtype, layout, upstream gradient, CUDA graph). The others follow when there is time."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.case import Case
from benchmarks.suites import max_unpool_shapes as poolings
from benchmarks.suites import norm_act_shapes as norms
from benchmarks.suites import reparameterize, vae_loss
from benchmarks.suites.conv_transpose_shapes import BF16, LAST, TRAINING

TIERS = ("first", "rest", "all")
SIZES = (128, 1024)  # batches of a training step
MAPS = {*norms.LARGE, (128, *norms.MAPS["g2"]), *((batch, *norms.MAPS["g4"]) for batch in SIZES)}


def in_tier(tier: str, suite: str, case: Case) -> bool:
    """Whether `tier` of that suite has the case."""
    return tier == "all" or (tier == "first") == FIRST[suite](case)


def _usual(case: Case) -> bool:
    return case.dtype == BF16 and case.layout == LAST


def _loss(case: Case) -> bool:
    kind, plain = case.option("kind"), case.option("g") == 1 and case.mode == TRAINING
    if case.shape == vae_loss.LARGE or case.layout == LAST or kind in ("l1", "smooth_l1"):
        return False
    if case.dtype == BF16:
        return plain or kind == "bce_logits"
    return kind == "bce_logits" and case.shape == vae_loss.IMAGES and (plain or case.dtype == "float16")


def _sample(case: Case) -> bool:
    if case.mode != TRAINING or case.layout == LAST:
        return case.shape == reparameterize.LARGE and case.op == reparameterize.SAMPLE_KL
    return case.dtype == BF16 or case.shape == reparameterize.LARGE


def _corruption(case: Case) -> bool:
    return case.dtype == BF16 and case.mode == TRAINING and not (case.graph and case.option("kind") != "gaussian")


def _convolution(case: Case) -> bool:
    layer, large = str(case.option("layer")), case.shape[0] == SIZES[1]
    if not _usual(case):
        return layer in ("dcgan64_g4", "dcgan64_g5") and case.mode == TRAINING and large
    if case.mode != TRAINING:
        return layer.startswith("dcgan64") and large
    return layer.startswith(("dcgan64", "mnist", "conv_vae", "unet", "upsample"))


def _normalisation(case: Case) -> bool:
    if case.op == norms.NORM:
        return case.mode == TRAINING and (case.shape == norms.LARGE[0] or (_usual(case) and case.shape in MAPS))
    layer, large = str(case.option("layer")), case.shape[0] == SIZES[1]
    if not _usual(case) or case.mode != TRAINING:
        return layer == "dcgan64_g4" and large
    return layer.startswith("dcgan64_g") or layer in ("conv_vae_3", "dcgan64_d2")


def _last_layer(case: Case) -> bool:
    if not _usual(case) or case.mode != TRAINING:
        return case.shape[0] == SIZES[1] and case.option("kind") == "bce_logits"
    return case.option("kind") == "bce_logits" or case.shape[0] == SIZES[1]


def _pooling(case: Case) -> bool:
    batch, channels = case.shape[:2]
    if batch != 16 or case.dtype != BF16 or case.mode != TRAINING or case.option("kernel") != 2:
        return False
    first = channels == poolings.SEGNET[0][0]
    return first or (case.option("indices") == poolings.CODES and case.op != poolings.PAIR)


def _window(case: Case) -> bool:
    return case.dtype == BF16 and case.mode == TRAINING and case.shape[1] == poolings.SEGNET[0][0]


FIRST: dict[str, Callable[[Case], bool]] = {
    "vae_loss": _loss,
    "reparameterize": _sample,
    "corrupt": _corruption,
    "conv_transpose": _convolution,
    "norm_act": _normalisation,
    "conv_transpose_loss": _last_layer,
    "max_unpool": _pooling,
    "nearest_unpool": _window,
}
