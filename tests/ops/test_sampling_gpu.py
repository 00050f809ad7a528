"""Drawn noise on a GPU: graphs, the generator's offset, host synchronisation and agreement of the backends."""

import noise
import oracle
import pytest
import torch
from cuda_runs import assert_never_waits, captured, on_a_side_stream
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

    graph, results = captured(step)

    def replay():
        graph.replay()
        return [t.clone() for t in results if t is not None]

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

    def step():
        for generator in (None, cpu, cuda):
            z = call(*leaves, generator)
            torch.autograd.grad(z.sum(), leaves, allow_unused=True)

    assert_never_waits(step)


@each_call
def test_on_another_stream(gpu, name):
    call, inputs = drawing(name, gpu), latents((64, 33), device="cuda")
    seeded = lambda *t: call(*t, torch.Generator("cuda").manual_seed(3))  # noqa: E731
    assert torch.equal(on_a_side_stream(seeded, inputs), seeded(*inputs))


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


def test_more_elements_than_32_bits_count(gpu, large_memory):
    """In half precision 4 GiB each: the last elements have the noise of their own quads."""
    count = 2**31 + 1031
    large_memory(26)
    generator = torch.Generator("cuda").manual_seed(5)
    zero, one = (torch.full((), value, dtype=torch.float16, device="cuda").expand(count) for value in (0.0, 1.0))
    tail = pyaegpu.reparameterize(zero, std=one, generator=generator)[-1027:]
    expected = noise.normals(1027, 5, 0, torch.float16, start=count - 1027)
    torch.testing.assert_close(tail.cpu(), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gaussian", "masking"])
def test_corrupting_more_elements_than_32_bits_count(gpu, kind, large_memory):
    if gpu == "cuda":
        pytest.skip("corrupt has no cuda kernels")
    count = 2**31 + 1031
    large_memory(26)
    x = torch.ones(count, dtype=torch.float16, device="cuda", requires_grad=True)
    value = pyaegpu.corrupt(x, kind, 0.5, generator=torch.Generator("cuda").manual_seed(5))
    tail = value[-1027:].detach().cpu()
    (grad,) = torch.autograd.grad(value, x, torch.ones_like(value))
    if kind == "gaussian":
        expected = 1 + 0.5 * noise.normals(1027, 5, 0, start=count - 1027)
        torch.testing.assert_close(tail, expected.half(), rtol=2e-3, atol=1e-3)
        assert bool((grad[-1027:] == 1).all())
    else:
        assert 0.4 < tail.mean() < 0.6 and torch.equal(grad[-1027:].cpu(), tail)


@pytest.mark.parametrize("reduction", ["sum", "sample", "none"])
def test_the_divergence_of_more_elements_than_32_bits_count(gpu, reduction, large_memory):
    """Every row but the last is standard normal: of no divergence."""
    large_memory(60)
    shape = 2**10 + 1, 2**21 + 8
    mu, logvar = (torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    mu[-1], logvar[-1] = (t.to(mu) for t in latents(shape[1:], device="cuda"))
    results = []
    for pair in ((mu, logvar), (mu[-1:].clone(), logvar[-1:].clone())):
        pair = [t.requires_grad_() for t in pair]
        divergence = pyaegpu.reparameterize_kl(*pair, reduction=reduction)[1]
        grads = torch.autograd.grad(divergence.sum(), pair)
        results.append([divergence[-1:] if reduction != "sum" else divergence, *(g[-1:] for g in grads)])
        assert all(not g[:-1].any() for g in grads)
    for ours, one in zip(*results, strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-2, atol=1e-4)


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
