"""The parts of the measurement that only a GPU can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.case import Case
from benchmarks.registry import get_suite
from benchmarks.runner import Runner, Settings
from benchmarks.suites import corrupt, reparameterize, vae_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


CASES = [
    vae_loss.make_case((8, 12), "bce_logits", dtype="bfloat16", g=0.375),
    *(reparameterize.make_case((64, 33), op, dtype="bfloat16") for op in reparameterize.OPS),
    *(corrupt.make_case((64, 33), kind, dtype="bfloat16") for kind in corrupt.KINDS),
]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_gated_and_timed_on_the_gpu(case: Case, graph: bool) -> None:
    suite = get_suite(case.op.removesuffix("_kl"))
    runner = Runner(suite, Settings("cuda", rounds=2, samples=2, compiled=False))
    rows = runner.run(replace(case, graph=graph))
    assert {"eager", "pyaegpu:auto"} <= {row["candidate"] for row in rows}
    for row in rows:
        assert row["status"] in ("ok", "slow", "loss"), row["reason"]
        assert row["median_us"] > 0 and 0 < row["host_us"] <= 1.01 * row["wall_us"]
        assert row["peak_mb"] >= 0 and row["cudnn"]
