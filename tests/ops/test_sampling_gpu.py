"""Drawn noise on a GPU: graphs, the generator's offset, host synchronisation and agreement of the backends."""

import noise
import oracle
import pytest
import torch
from draws import assert_is_noise, standard_normals
from oracle import latents

import pyaegpu
from pyaegpu import backends

pytestmark = pytest.mark.gpu

CALLS = {
    "logvar": lambda m, s, g=None: pyaegpu.reparameterize(m, s, generator=g),
    "std": lambda m, s, g=None: pyaegpu.reparameterize(m, std=s, generator=g),
    "kl": lambda m, s, g=None: pyaegpu.reparameterize_kl(m, s, generator=g)[0],
    "gaussian": lambda m, s, g=None: pyaegpu.corrupt(m, "gaussian", 0.5, generator=g),
    "masking": lambda m, s, g=None: pyaegpu.corrupt(m, "masking", 0.5, generator=g),
}
each_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(params=["cuda", "triton"])
def gpu(request):
    reason = backends.status()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    with pyaegpu.backend(request.param):
        yield request.param


def drawing(name, gpu):
    if gpu == "cuda" and name in ("gaussian", "masking"):
        pytest.skip("corrupt has no cuda kernels")
    return CALLS[name]


@each_call
def test_the_offset_moves_on_by_four(gpu, name):
    call, inputs = drawing(name, gpu), latents((5, 7), device="cuda")
    generator = torch.Generator("cuda").manual_seed(3)
    default = torch.cuda.default_generators[torch.cuda.current_device()]
    for source in (None, generator):
        used = default if source is None else source
        before = used.get_offset()
        for count in (1, 2):
            call(*inputs, source)
            assert used.get_offset() == before + 4 * count


@each_call
def test_a_draw_moves_torchs_next(gpu, name):
    call, inputs = drawing(name, gpu), latents((5, 7), device="cuda")
    torch.manual_seed(0)
    call(*inputs)
    after = torch.randn(8, device="cuda")
    torch.manual_seed(0)
    assert not torch.equal(after, torch.randn(8, device="cuda"))


def test_a_draw_shares_no_word_with_torchs_own(gpu):
    """Torch's thread t draws the quad of counter (offset / 4, t): the noise of our quad t, were the offsets alike."""
    ours = standard_normals((4 * 256,), device="cuda", generator=torch.Generator("cuda").manual_seed(3))
    for offset in range(4, 68, 4):
        generator = torch.Generator("cuda").manual_seed(3)
        generator.set_offset(offset)
        theirs = torch.randn(4 * 256, device="cuda", generator=generator)
        together = torch.isclose(ours.abs()[:, None], theirs.abs()[None, :], rtol=1e-5, atol=0).any(1)
        assert together.float().mean() < 0.1


def test_noise_of_a_cuda_generator(gpu):
    for seed in (0, 5, 2**63 + 17, 2**64 - 1):
        generator = torch.Generator("cuda").manual_seed(seed)
        for offset in (0, 4, 8):
            assert_is_noise(standard_normals((3, 1031), device="cuda", generator=generator), seed, offset // 4)


@each_call
def test_a_cpu_generator_gives_the_noise_of_the_cpu(gpu, name):
    """And so do both GPU backends: one seed, one noise."""
    call, inputs = drawing(name, gpu), latents((5, 1031))
    ours = call(*(t.cuda() for t in inputs), torch.Generator().manual_seed(7))
    with pyaegpu.backend("cpu"):
        expected = call(*inputs, torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-5)


@each_call
def test_each_replay_draws_anew(gpu, name):
    call = drawing(name, gpu)
    leaves = [t.requires_grad_() for t in latents((64, 33), device="cuda")]
    upstream = torch.ones_like(leaves[0])

    def step():
        z = call(*leaves)
        return z, *torch.autograd.grad(z, leaves, upstream, allow_unused=True)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, d_mu, d_spread = step()

    def replay():
        graph.replay()
        return [t.clone() for t in (z, d_mu, d_spread) if t is not None]

    torch.manual_seed(1)
    first, second = replay(), replay()
    torch.manual_seed(1)
    assert all(map(torch.equal, first, replay()))
    assert not torch.equal(first[0], second[0])
    if name == "std":
        torch.testing.assert_close(leaves[0] + leaves[1] * second[2], second[0])
    if name == "masking":
        assert torch.equal(second[1] != 0, second[0] != 0)


@each_call
def test_a_cpu_generator_is_refused_while_a_graph_is_captured(gpu, name):
    call, inputs = drawing(name, gpu), latents((5, 7), device="cuda")
    call(*inputs)
    with pytest.raises(RuntimeError, match=r"generator.*CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        call(*inputs, torch.Generator())


@each_call
def test_the_host_never_waits(gpu, name):
    call = drawing(name, gpu)
    leaves = [t.requires_grad_() for t in latents((64, 33), device="cuda")]
    cpu, cuda = torch.Generator(), torch.Generator("cuda")
    torch.autograd.grad(call(*leaves).sum(), leaves, allow_unused=True)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for generator in (None, cpu, cuda):
            z = call(*leaves, generator)
            torch.autograd.grad(z.sum(), leaves, allow_unused=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_call
def test_compiled_draws_on_the_device(gpu, name):
    torch._dynamo.reset()
    call, inputs = drawing(name, gpu), latents((5, 7), device="cuda")
    fn = torch.compile(lambda *a: call(*a), fullgraph=True)
    torch.manual_seed(1)
    first, second = fn(*inputs), fn(*inputs)
    torch.manual_seed(1)
    assert torch.equal(fn(*inputs), first) and not torch.equal(first, second)


def test_compiled_with_cuda_graphs(gpu):
    torch._dynamo.reset()
    inputs = latents((5, 7), device="cuda")
    fn = torch.compile(pyaegpu.reparameterize, fullgraph=True, mode="reduce-overhead")
    drawn = [fn(*inputs).clone() for _ in range(6)]
    assert len({tuple(t.flatten().tolist()) for t in drawn}) == 6


@each_call
def test_a_generator_of_another_device(gpu, name):
    call = drawing(name, gpu)
    with pyaegpu.backend("cpu"), pytest.raises(RuntimeError, match="generator"):
        call(*latents((5, 7)), torch.Generator("cuda"))


def test_more_elements_than_32_bits_count(gpu):
    """In half precision 4 GiB each: the last elements have the noise of their own quads."""
    count = 2**31 + 1031
    if torch.cuda.mem_get_info()[0] < 6 * 2 * count:
        pytest.skip("needs 26 GB of free memory")
    generator = torch.Generator("cuda").manual_seed(5)
    zero, one = (torch.full((), value, dtype=torch.float16, device="cuda").expand(count) for value in (0.0, 1.0))
    tail = pyaegpu.reparameterize(zero, std=one, generator=generator)[-1027:]
    expected = noise.normals(1027, 5, 0, torch.float16, start=count - 1027)
    torch.testing.assert_close(tail.cpu(), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("reduction", ["sum", "sample", "none"])
def test_both_backends_agree(reduction):
    results = []
    for name in ("cuda", "triton"):
        if backends.status()[name] is not None:
            pytest.skip(f"needs both: {backends.status()[name]}")
        with pyaegpu.backend(name):
            torch.manual_seed(3)
            call = lambda m, v: pyaegpu.reparameterize_kl(m, v, reduction=reduction)  # noqa: E731
            results.append(oracle.run(call, latents((33, 1031), device="cuda")))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
