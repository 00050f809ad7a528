"""What the launchers ask about the GPU, apart so that kernels can be compiled ahead for another one."""

import functools

import torch


@functools.cache
def architecture(device: torch.device) -> int:
    """90 for compute capability 9.0; 0 where there is no GPU, in Triton's interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
