"""Mixed precision: which dtype the forward pass and the loss run in."""

import torch

# The weights, Adam's state and the reported losses are float32 with each of them.
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# PyTorch starts at 2**16, for losses that are means; ours are sums over the batch, which would overflow for many steps.
_FIRST_SCALE = 2.0**8


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision with `dtype`; none for float32."""
    mixed = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if mixed else None, enabled=mixed)


def loss_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Keeps float16 gradients from underflow; for other dtypes it does nothing."""
    return torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=dtype == torch.float16)
