"""Equal bits from run to run and for any number of threads."""

import pytest
import torch
from oracle import images, latents, run

import pyaegpu

REDUCTIONS = ("sum", "mean", "sample")


def inputs(device, dtype):
    """Shapes of several blocks; made once, since stock's sigmoid depends on the number of threads."""
    batches = [
        (*images("bce", shape, dtype, device), *latents((shape[0], 129), dtype, device))
        for shape in ((3, 100003), (2048, 67), (1, 300001))
    ]
    return batches, latents((1000, 333), dtype, device)


def everything(batches, pair):
    """Values and gradients of the family."""
    results = []
    for recon, target, mu, logvar in batches:
        for reduction in REDUCTIONS:
            options = {"recon_reduction": reduction, "kl_reduction": reduction}
            outputs, grads = run(
                lambda x, m, v, t=target, o=options: pyaegpu.vae_loss(x, t, m, v, return_parts=True, **o),
                (recon, mu, logvar),
            )
            results += outputs + grads
            results.append(pyaegpu.reconstruction_loss(recon, target, "mse", reduction=reduction))
    for reduction in ("sum", "sample", "dim", "none"):
        outputs, grads = run(lambda m, v, r=reduction: pyaegpu.gaussian_kl(m, v, reduction=r), pair)
        results += outputs + grads
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_are_equal(kernel_device, dtype):
    given = inputs(kernel_device, dtype)
    assert all(map(torch.equal, everything(*given), everything(*given)))


def test_two_runs_are_equal_under_deterministic_algorithms(kernel_device, nan_filled):
    given = inputs(kernel_device, torch.float32)
    first, second = (everything(*given) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(t.isfinite().all() for t in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    threads, given = torch.get_num_threads(), inputs("cpu", dtype)
    results = []
    with pyaegpu.backend("cpu"):
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(everything(*given))
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_calls_from_several_threads(kernel_device):
    from concurrent.futures import ThreadPoolExecutor

    recon, target = images("bce", (64, 1031), device=kernel_device)
    mu, logvar = latents((64, 20), device=kernel_device)

    def step(_):
        return run(lambda x, m, v: pyaegpu.vae_loss(x, target, m, v), (recon, mu, logvar))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(step, range(16)))
    for outputs, grads in results[1:]:
        assert all(map(torch.equal, outputs + grads, results[0][0] + results[0][1]))
