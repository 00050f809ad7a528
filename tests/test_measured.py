"""The table of measured kernels: which rule holds for a call, and what `auto` makes of it on a card."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from pyaegpu import backends, measured
from pyaegpu.measured import Call, Rule
from pyaegpu.ops import conv_transpose_rules
from pyaegpu.ops.conv_transpose_rules import PHASES, SMALL, STOCK, ConvArgs
from pyaegpu.reference.activations import NONE

CARD = torch.device("cuda", 0)
ARGS = ConvArgs((2, 2), (1, 1), (0, 0), 1, (1, 1), NONE, 0.0)


def call(op="vae_loss", shape=(4, 8, 10), dtype=torch.float32, **others):
    return Call(op, torch.empty(shape, dtype=dtype, device="meta"), **others)


@pytest.fixture
def card(monkeypatch):
    """card(family, *rules): a card of compute capability 9.0 for which these rules were measured; no `cuda` there."""
    monkeypatch.setattr(backends, "_capability", lambda index: (9, 0))
    monkeypatch.setattr(backends, "_is_there", lambda name: name != "cuda")

    def measure(family, *rules, capability=(9, 0)):
        monkeypatch.setitem(measured.MEASURED, capability, {family: rules})

    return measure


@pytest.mark.parametrize(
    "rule, fits, fails",
    [
        (Rule("triton"), {}, None),
        (Rule("triton", ops=("vae_loss", "gaussian_kl")), {}, {"op": "reconstruction_loss"}),
        (Rule("triton", dtypes=(torch.bfloat16,)), {"dtype": torch.bfloat16}, {"dtype": torch.float16}),
        (Rule("triton", channels_last=True), {"channels_last": True}, {"channels_last": False}),
        (Rule("triton", channels_last=False), {"channels_last": False}, {"channels_last": True}),
        (Rule("triton", elements=(320, None)), {}, {"shape": (319,)}),
        (Rule("triton", elements=(0, 320)), {}, {"shape": (321,)}),
        (Rule("triton", channels=(8, 8)), {}, {"shape": (4, 9, 10)}),
        (Rule("triton", channels=(8, 8)), {}, {"shape": (4, 7, 10)}),
        (Rule("triton", channels=(1, 1)), {"shape": (320,)}, {"shape": (4, 2)}),
        (Rule("triton", outputs=(1, 4)), {"outputs": 4}, {"outputs": 5}),
    ],
    ids=str,
)
def test_a_rule_holds_within_its_bounds(rule, fits, fails):
    assert measured.holds(rule, call(**fits))
    assert measured.holds(rule, None)
    assert fails is None or not measured.holds(rule, call(**fails))


def test_the_first_rule_that_holds_and_is_there_decides(card):
    card("vae_loss", Rule("cuda"), Rule("triton", elements=(100, None)), Rule("reference", elements=(0, 9)))
    assert backends.choose("vae_loss", CARD, call()) == "triton"
    assert backends.choose("vae_loss", CARD, call(shape=(99,))) == "reference"
    assert backends.choose("vae_loss", CARD) == "triton"
    assert backends.choose("reparameterize", CARD, call()) == "reference"


def test_a_card_of_another_capability_takes_stock(card):
    card("vae_loss", Rule("triton"), capability=(8, 0))
    assert backends.choose("vae_loss", CARD, call()) == "reference"
    reasons = backends.refusals("vae_loss", torch.device("cpu"), "reference")
    assert set(reasons) == {"cuda", "triton", "cpu"}


def test_sizes_that_are_symbols_bind_no_graph(card):
    card("vae_loss", Rule("triton", elements=(64, 4096)))

    def chosen(x):
        return x + len(backends.choose("vae_loss", CARD, Call("vae_loss", x)))

    counter = CompileCounter()
    compiled = torch.compile(chosen, backend=counter, dynamic=True, fullgraph=True)
    for size in (8, 100, 5000):
        assert (compiled(torch.zeros(size)) == len("triton")).all()
    assert counter.frame_count == 1


def test_a_rule_names_the_algorithm_of_a_transposed_convolution(card, monkeypatch):
    monkeypatch.setattr(backends, "rules", lambda family, device: measured.rules(family, (9, 0)))
    monkeypatch.setattr(backends, "choose", lambda *args: "triton")
    few = Rule("cuda", outputs=(1, 4), algorithm=SMALL)
    fused = Rule("triton", ops=("conv_transpose2d_norm_act",), algorithm=PHASES)
    card("conv_transpose", few, fused)

    def plan(outputs, op="conv_transpose", dtype=torch.bfloat16):
        input = torch.empty(2, 16, 8, 8, dtype=dtype)
        return conv_transpose_rules.plan(input, torch.empty(16, outputs, 4, 4, dtype=dtype), None, ARGS, op)

    assert plan(4)[:2] == ("cuda", SMALL)
    assert plan(5).algorithm == STOCK
    assert plan(5, "conv_transpose2d_norm_act")[:2] == ("triton", PHASES)
    # a rule may hold where the algorithm cannot run
    assert plan(5, "conv_transpose2d_norm_act", torch.float64).algorithm == STOCK


def test_every_rule_names_what_there_is():
    for families in measured.MEASURED.values():
        for family, rules in families.items():
            assert all(rule.backend in ("cuda", "triton", "reference") for rule in rules), family
            assert all(rule.algorithm for rule in rules if family == "conv_transpose")
