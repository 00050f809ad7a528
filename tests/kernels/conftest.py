"""Where the Triton kernels run: in Triton's interpreter on the CPU, or on a GPU."""

import os
import sys
from pathlib import Path

import pytest
import torch

# pytest's importlib mode leaves the helpers of these tests off the path.
sys.path.append(str(Path(__file__).parent))

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(
    params=[
        pytest.param(
            "cpu",
            marks=[
                pytest.mark.interpret,
                pytest.mark.skipif(not INTERPRETING, reason="needs TRITON_INTERPRET=1 when pytest starts"),
            ],
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
        ),
    ],
)
def device(request):
    """Tensors are made here; memory that no kernel has written is NaN."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
