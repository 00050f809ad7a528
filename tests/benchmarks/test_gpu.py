"""The parts of the measurement that only a GPU can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.case import Case
from benchmarks.registry import SUITES
from benchmarks.runner import Runner, Settings
from benchmarks.suites import (
    conv_transpose_loss,
    conv_transpose_shapes,
    corrupt,
    max_unpool_shapes,
    norm_act_shapes,
    reparameterize,
    vae_loss,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


CASES = [
    ("vae_loss", vae_loss.make_case((8, 12), "bce_logits", dtype="bfloat16", g=0.375)),
    *(("reparameterize", reparameterize.make_case((64, 33), op, dtype="bfloat16")) for op in reparameterize.OPS),
    *(("corrupt", corrupt.make_case((64, 33), kind, dtype="bfloat16")) for kind in corrupt.KINDS),
    *(("conv_transpose", case) for case in conv_transpose_shapes.small_cases("bfloat16") if case.mode == "fwd+bwd"),
    *(("norm_act", case) for case in norm_act_shapes.small_cases("bfloat16")),
    *(("conv_transpose_loss", case) for case in conv_transpose_loss.small_cases("bfloat16")),
    *(("max_unpool", case) for case in max_unpool_shapes.small_cases("bfloat16")[::2]),
    *(("nearest_unpool", case) for case in max_unpool_shapes.small_window_cases("bfloat16")[::2]),
]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("suite", "case"), CASES, ids=lambda value: getattr(value, "id", value))
def test_a_case_is_gated_and_timed_on_the_gpu(
    suite: str, case: Case, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # put back afterwards: the runner sets it for good
    runner = Runner(SUITES[suite], Settings("cuda", rounds=2, samples=2, compiled=False))
    rows = runner.run(replace(case, graph=graph))
    assert {"eager", "pyaegpu:auto"} <= {row["candidate"] for row in rows}
    for row in rows:
        assert row["status"] in ("ok", "slow", "loss"), row["reason"]
        assert row["median_us"] > 0 and 0 < row["host_us"] <= 1.01 * row["wall_us"]
        assert row["peak_mb"] >= 0 and row["cudnn"]
