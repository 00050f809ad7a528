"""Where the noise comes from: its numbers, the global seed, generators, processes and recomputation."""

import functools
import subprocess
import sys

import noise
import oracle
import pytest
import torch
from draws import assert_is_noise, has_corrupt, next_draw, standard_normals
from oracle import DTYPES, latents
from torch.utils.checkpoint import checkpoint

import pyaegpu

# Less than a quad, more than a tile, more than a block of threads, and no multiple of any.
SHAPES = [(), (1,), (3,), (5, 7), (1031,), (3, 40001)]


CALLS = {
    "reparameterize": lambda m, v, g=None: pyaegpu.reparameterize(m, v, generator=g),
    "std": lambda m, v, g=None: pyaegpu.reparameterize(m, std=v, generator=g),
    "reparameterize_kl": lambda m, v, g=None: pyaegpu.reparameterize_kl(m, v, generator=g)[0],
    "dim": lambda m, v, g=None: pyaegpu.reparameterize_kl(m, v, generator=g, reduction="dim")[0],
    "gaussian": lambda m, v, g=None: pyaegpu.corrupt(m * v, "gaussian", 0.5, generator=g),
    "masking": lambda m, v, g=None: pyaegpu.corrupt(m * v, "masking", 0.5, generator=g),
    "salt_and_pepper": lambda m, v, g=None: pyaegpu.corrupt(m * v, "salt_and_pepper", 0.5, generator=g),
}


def drawing(name, device, dtype=torch.float32, shape=(5, 7)):
    """A call as a function of the generator."""
    return functools.partial(CALLS[name], *latents(shape, dtype, device))


each_function = pytest.mark.parametrize("name", CALLS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normals(kernel_device, shape, dtype):
    """The same in every function and, to rounding, in every dtype."""
    torch.manual_seed(11)
    seed = next_draw(kernel_device)
    eps = standard_normals(shape, dtype, kernel_device)
    assert_is_noise(eps, *seed)
    zeros = torch.zeros_like(eps)
    draws = [
        lambda: pyaegpu.reparameterize_kl(zeros, zeros)[0],
        lambda: pyaegpu.reparameterize(zeros, zeros, return_eps=True)[1],
        lambda: pyaegpu.corrupt(zeros, "gaussian", 1.0),
    ]
    for draw in draws if has_corrupt() else draws[:-1]:
        torch.manual_seed(11)
        assert torch.equal(draw(), eps)


def test_float32_and_float64_share_their_words(kernel_device):
    torch.manual_seed(3)
    narrow = standard_normals((1031,), torch.float32, kernel_device)
    torch.manual_seed(3)
    wide = standard_normals((1031,), torch.float64, kernel_device)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
def test_words(kernel_device, kind):
    """An element is hit where its word lies below the amount: bit by bit, at the words themselves."""
    torch.manual_seed(5)
    words = noise.words(1031, *next_draw(kernel_device))
    x = torch.full((1031,), 0.25, device=kernel_device)
    for word in (*words[:9].tolist(), *words[-3:].tolist()):
        # At the second pair the word is the bound between the two values.
        for threshold in (word, word + 1, *((2 * word, 2 * word + 2) if word < 2**31 else ())):
            torch.manual_seed(5)
            spoiled = pyaegpu.corrupt(x, kind, threshold / 2**32, low=-1.0, high=2.0).cpu()
            hit = words < threshold
            values = torch.zeros(()) if kind == "masking" else torch.where(words < threshold // 2, -1.0, 2.0)
            assert torch.equal(spoiled, torch.where(hit, values, 0.25))


@each_function
def test_manual_seed_repeats_and_calls_differ(device, name):
    draw = drawing(name, device)
    torch.manual_seed(7)
    first, second = draw(), draw()
    torch.manual_seed(7)
    assert torch.equal(draw(), first)
    assert torch.equal(draw(), second)
    assert not torch.equal(first, second)
    torch.manual_seed(8)
    assert not torch.equal(draw(), first)


@each_function
def test_a_generator_of_its_own(device, name):
    draw = drawing(name, device)
    torch.manual_seed(0)
    default = torch.get_rng_state(), next_draw(device)
    generator, twin = (torch.Generator(device).manual_seed(21) for _ in range(2))
    first, second = draw(generator), draw(generator)
    assert not torch.equal(first, second), "the generator does not move on"
    assert torch.equal(draw(twin), first)
    generator.set_state(twin.get_state())
    assert torch.equal(draw(generator), second)
    assert torch.equal(torch.get_rng_state(), default[0]) and next_draw(device) == default[1]


def test_nothing_is_drawn_where_no_noise_is_needed(device):
    torch.manual_seed(0)
    before = torch.get_rng_state(), next_draw(device)
    mu, logvar = latents((5, 7), device=device)
    pyaegpu.reparameterize(mu, logvar, training=False)
    pyaegpu.reparameterize(mu, logvar, eps=mu)
    pyaegpu.reparameterize_kl(mu, logvar, eps=mu)
    with pytest.raises(ValueError, match="logvar"):
        pyaegpu.reparameterize(mu, logvar[:2])
    assert torch.equal(torch.get_rng_state(), before[0]) and next_draw(device) == before[1]


@each_function
def test_a_generator_for_each_sample(device, name):
    """A sample's noise depends on its generator alone, whatever the batch."""
    mu, logvar = latents((4, 3, 5), device=device)

    def generators(*seeds):
        return [torch.Generator(device).manual_seed(seed) for seed in seeds]

    call = CALLS[name]
    whole = call(mu, logvar, generators(1, 2, 3, 4))
    assert torch.equal(call(mu, logvar, tuple(generators(1, 2, 3, 4))), whole)
    order = [2, 0, 3]
    assert torch.equal(call(mu[order], logvar[order], generators(3, 1, 4)), whole[order])
    assert torch.equal(call(mu[1:2], logvar[1:2], generators(2)), whole[1:2])
    # One generator in a list, as diffusers' randn_tensor has it, is one for the whole batch.
    assert torch.equal(call(mu, logvar, generators(9)), call(mu, logvar, generators(9)[0]))
    flat = call(mu[0, 0], logvar[0, 0], generators(9))
    assert torch.equal(flat, call(mu[0, 0], logvar[0, 0], generators(9)[0]))
    assert call(mu[:0], logvar[:0], []).shape == (0, 3, 5)


def test_gradients_of_samples_with_their_own_generators(device):
    inputs = latents((3, 5), device=device)

    def sample(mu, logvar):
        generators = [torch.Generator(device).manual_seed(seed) for seed in (1, 2, 3)]
        return pyaegpu.reparameterize(mu, logvar, generator=generators)

    eps = (sample(*inputs) - inputs[0]) / (0.5 * inputs[1]).exp()
    ours, stock = (oracle.run(f, inputs)[1] for f in (sample, lambda m, v: oracle.reparameterize(m, v, eps=eps)))
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_given_noise_needs_no_generator(device):
    mu, logvar = latents((3, 5), device=device)
    generators = [torch.Generator(device).manual_seed(seed) for seed in (1, 2, 3)]
    before = [g.get_state() for g in generators]
    for generator in (generators, generators[0]):
        for fn in (pyaegpu.reparameterize, pyaegpu.reparameterize_kl):
            ours, plain = fn(mu, logvar, eps=mu, generator=generator), fn(mu, logvar, eps=mu)
            assert all(map(torch.equal, oracle.as_tuple(ours), oracle.as_tuple(plain)))
    assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))


@each_function
def test_a_generator_of_another_device(name):
    if not torch.cuda.is_available():
        pytest.skip("a generator of another device needs a CUDA device")
    with pytest.raises(RuntimeError, match=r"generator|device"):
        drawing(name, "cpu")(torch.Generator("cuda"))


PROGRAM = """
import torch, pyaegpu
torch.manual_seed(1)
mu = torch.zeros(2, 3)
print(pyaegpu.reparameterize(mu, mu).tolist(), pyaegpu.corrupt(mu, "gaussian", 1.0).tolist())
"""


def test_processes_draw_by_their_seeds():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawn, mu = [], torch.zeros(2, 3)
    for seed in (0, 1):
        torch.manual_seed(seed)
        drawn.append(f"{pyaegpu.reparameterize(mu, mu).tolist()} {pyaegpu.corrupt(mu, 'gaussian', 1.0).tolist()}")
    assert done.stdout.strip() == drawn[1] != drawn[0]


@pytest.mark.parametrize("use_reentrant", [False, True])
@each_function
def test_checkpoint_draws_the_same_noise_again(device, name, use_reentrant):
    def inner(mu, logvar):
        return CALLS[name](mu, logvar).tanh()

    results = []
    for wrap in (inner, lambda *a: checkpoint(inner, *a, use_reentrant=use_reentrant)):
        torch.manual_seed(13)
        leaves = [t.requires_grad_() for t in latents((5, 7), device=device)]
        z = wrap(*leaves)
        torch.manual_seed(99)
        pyaegpu.reparameterize(*latents((2, 2), device=device))
        (z * 3).sum().backward()
        results.append([z, *(t.grad for t in leaves)])
    assert all(map(torch.equal, *results))


def test_draws_from_several_threads_are_distinct(kernel_device):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: standard_normals((8,), device=kernel_device), range(64)))
    assert len({tuple(t.tolist()) for t in drawn}) == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_noise_does_not_depend_on_the_number_of_threads(dtype):
    threads, results = torch.get_num_threads(), []
    with pyaegpu.backend("cpu"):
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                torch.manual_seed(0)
                results.append([drawing(name, "cpu", dtype, (3, 40001))() for name in CALLS])
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_noise_far_into_a_tensor(kernel_device):
    """Past 2^24 elements, where a float's count of them would end, and at the end of an odd length."""
    count = 2**24 + 1031
    torch.manual_seed(17)
    seed = next_draw(kernel_device)
    tail = pyaegpu.corrupt(torch.zeros((), device=kernel_device).expand(count), "gaussian", 1.0)[-1027:]
    want = noise.normals(1027, *seed, start=count - 1027)
    torch.testing.assert_close(tail.cpu().double(), want, rtol=1e-5, atol=1e-5)
