"""The parts of the measurement that only a GPU can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.runner import Runner, Settings
from benchmarks.suites.vae_loss import VaeLossSuite, make_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("graph", [False, True])
def test_a_case_is_gated_and_timed_on_the_gpu(graph: bool) -> None:
    runner = Runner(VaeLossSuite(), Settings("cuda", rounds=2, samples=2, compiled=False))
    case = replace(make_case((8, 12), "bce_logits", dtype="bfloat16", g=0.375), graph=graph)
    rows = runner.run(case)
    assert {"eager", "pyaegpu:auto"} <= {row["candidate"] for row in rows}
    for row in rows:
        assert row["status"] in ("ok", "slow", "loss"), row["reason"]
        assert row["median_us"] > 0 and 0 < row["host_us"] <= 1.01 * row["wall_us"]
        assert row["peak_mb"] >= 0 and row["cudnn"]
