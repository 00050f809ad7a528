"""The drawn noise has the distribution it should have."""

import pytest
import sampling_figures
import torch


def test_figures_keep_their_limits(kernel_device):
    torch.manual_seed(0)
    found = list(sampling_figures.figures(kernel_device))
    assert len(found) >= 25
    assert [row for row in found if not abs(row[1]) <= row[2]] == []


@pytest.mark.parametrize("fault", ["scaled", "mirrored", "tailless"])
def test_the_figures_tell_faulty_noise(fault):
    faults = {
        "scaled": lambda x: x * 1.003,
        "mirrored": lambda x: torch.cat([x[:, ::2], -x[:, ::2]], 1),
        "tailless": lambda x: x.clamp(-3.9, 3.9),
    }
    generator = torch.Generator().manual_seed(0)
    side = sampling_figures.SIDE
    rows = sampling_figures.normals(lambda: faults[fault](torch.randn(side, side, generator=generator)))
    assert any(abs(figure) > sampling_figures.ERRORS * error for _, figure, error in rows)
