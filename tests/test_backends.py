"""The backend setter and context manager, the environment variable, explain and info."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pyaegpu
from pyaegpu import backends

X = torch.full((3, 4), 0.5)
GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def restored():
    before = backends.selected()
    yield
    pyaegpu.backend(before)


def run_python(program, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("PYAEGPU_BACKEND", "TRITON_INTERPRET")}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=clean | environment, check=False
    )


def test_context_manager_nests_and_restores():
    pyaegpu.backend("auto")
    with pyaegpu.backend("reference"):
        assert backends.selected() == "reference"
        with pyaegpu.backend("cpu"):
            assert backends.selected() == "cpu"
        assert backends.selected() == "reference"
    assert backends.selected() == "auto"


def test_context_manager_restores_after_an_exception():
    pyaegpu.backend("cpu")
    with pytest.raises(KeyError), pyaegpu.backend("reference"):
        raise KeyError
    assert backends.selected() == "cpu"


def test_setter_lasts_and_a_context_manager_within_returns_to_it():
    pyaegpu.backend("reference")
    assert backends.selected() == "reference"
    with pyaegpu.backend("cpu"):
        pass
    assert backends.selected() == "reference"
    pyaegpu.backend("auto")
    assert backends.selected() == "auto"


def test_one_context_manager_can_be_entered_again():
    pyaegpu.backend("auto")
    manager = pyaegpu.backend("reference")
    for _ in range(2):
        with manager:
            assert backends.selected() == "reference"
        assert backends.selected() == "auto"


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None, 3])
def test_unknown_name(name):
    pyaegpu.backend("cpu")
    with pytest.raises(ValueError, match=r"auto, cuda, triton, cpu, reference"):
        pyaegpu.backend(name)
    assert backends.selected() == "cpu"


class Namespaces(TorchDispatchMode):
    """Records the namespaces of this package's ops as they are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace.startswith("pyaegpu"):
            self.seen.append(func.namespace)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name, used", [("reference", []), ("cpu", ["pyaegpu_cpu"]), ("auto", ["pyaegpu_cpu"])])
def test_a_selected_backend_serves_the_call(name, used):
    with pyaegpu.backend(name), Namespaces() as namespaces:
        pyaegpu.reconstruction_loss(X, X)
    assert namespaces.seen == used


@pytest.mark.parametrize("name", ["cuda", "triton"])
@pytest.mark.parametrize(
    "call",
    [
        pyaegpu.reconstruction_loss,
        pyaegpu.gaussian_kl,
        lambda *a: pyaegpu.vae_loss(*a, *a),
        pyaegpu.reparameterize,
        pyaegpu.reparameterize_kl,
    ],
)
def test_a_backend_that_cannot_serve_is_refused_with_the_reason(name, call):
    reason = r"CUDA tensors.*on cpu" if GPU else r"CUDA"
    with pyaegpu.backend(name), pytest.raises(RuntimeError, match=rf"'{name}' was selected but cannot run.*{reason}"):
        call(X, X)


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_corrupt_refuses_a_backend_that_cannot_serve(name):
    with pyaegpu.backend(name), pytest.raises(RuntimeError, match=rf"'{name}' was selected but cannot run corrupt"):
        pyaegpu.corrupt(X, "masking", 0.5)


@pytest.mark.gpu
def test_corrupt_on_a_gpu_is_tritons():
    reason = "no kernels of corrupt"
    assert reason in pyaegpu.explain(pyaegpu.corrupt, X.cuda(), "masking", 0.5).others["cuda"]
    with pyaegpu.backend("cuda"), pytest.raises(RuntimeError, match=reason):
        pyaegpu.corrupt(X.cuda(), "masking", 0.5)


@pytest.mark.gpu
def test_the_cpu_backend_refuses_cuda_tensors():
    with pyaegpu.backend("cpu"), pytest.raises(RuntimeError, match=r"CPU tensors.*cuda"):
        pyaegpu.reconstruction_loss(X.cuda(), X.cuda())


PRINT = "import torch, pyaegpu\nfrom pyaegpu import backends\nprint(backends.selected())\n"


def test_environment_variable():
    done = run_python(PRINT, PYAEGPU_BACKEND="reference")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reference"]


def test_environment_variable_with_an_unknown_name():
    call = "pyaegpu.reconstruction_loss(torch.rand(3), torch.rand(3))"
    done = run_python(PRINT + call, PYAEGPU_BACKEND="gpu")
    assert done.returncode != 0
    assert "PYAEGPU_BACKEND must be one of auto, cuda, triton, cpu, reference; got 'gpu'" in done.stderr


def test_environment_variable_with_a_backend_that_cannot_serve():
    call = "pyaegpu.reconstruction_loss(torch.rand(3), torch.rand(3))"
    done = run_python(PRINT + call, PYAEGPU_BACKEND="cuda")
    assert done.returncode != 0
    assert "'cuda' was selected but cannot run vae_loss here" in done.stderr


def test_importing_touches_no_gpu_and_patches_nothing():
    program = (
        "import torch, torch.nn.functional as F\n"
        "before = {n: getattr(F, n) for n in dir(F)}\n"
        "import pyaegpu\n"
        "assert before == {n: getattr(F, n) for n in dir(F)}\n"
        "assert not torch.cuda.is_initialized()"
    )
    done = run_python(program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "fn, args",
    [
        (pyaegpu.reconstruction_loss, (X, X)),
        (pyaegpu.gaussian_kl, (X, X)),
        (pyaegpu.vae_loss, (X, X, X, X)),
        (pyaegpu.nn.ReconstructionLoss(), (X, X)),
        (pyaegpu.nn.VAELoss(), (X, X, X, X)),
        (pyaegpu.reparameterize, (X, X)),
        (pyaegpu.reparameterize_kl, (X, X)),
        (pyaegpu.corrupt, (X, "masking", 0.5)),
        (pyaegpu.nn.Reparameterize(), (X, X)),
        (pyaegpu.nn.Corrupt("masking", 0.5), (X,)),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else "",
)
def test_explain(fn, args):
    pyaegpu.backend("auto")
    found = pyaegpu.explain(fn, *args)
    assert found.backend == "cpu" and found.algorithm
    assert set(found.others) == {"cuda", "triton", "reference"} and all(found.others.values())
    lines = str(found).splitlines()
    assert "cpu" in lines[0] and found.op in lines[0]
    assert all(any(name in line and reason in line for line in lines) for name, reason in found.others.items())


@pytest.mark.parametrize("fn", [pyaegpu.sparsity_penalty, pyaegpu.contractive_penalty])
def test_the_penalties_are_stock(fn):
    found = pyaegpu.explain(fn, X, X)
    assert found.op == fn.__name__ and found.backend == "reference" and "stock" in found.algorithm
    assert set(found.others) == {"cuda", "triton", "cpu"} and all(found.others.values())


@pytest.mark.parametrize(
    "call", [pyaegpu.reparameterize, pyaegpu.reparameterize_kl, lambda *a: pyaegpu.corrupt(a[0], "masking", 0.5)]
)
@pytest.mark.parametrize("name, used", [("reference", []), ("cpu", ["pyaegpu"]), ("auto", ["pyaegpu"])])
def test_a_selected_backend_serves_a_call_that_draws(call, name, used):
    """A dispatch mode traces: there the registered op is called, and its seed is a tensor."""
    with pyaegpu.backend(name), Namespaces() as namespaces:
        call(X, X)
    assert namespaces.seen == used


def test_explain_follows_the_selection():
    with pyaegpu.backend("reference"):
        found = pyaegpu.explain(pyaegpu.gaussian_kl, X, logvar=X)
    assert found.backend == "reference" and "stock" in found.algorithm
    assert found.others["cpu"] == "'reference' was selected"


FILTERS = {
    "small": ((2, 3, 4, 4), (3, 2, 3, 3), "one product per tile"),
    "dense": ((2, 3, 4, 4), (3, 5, 3, 3), "stock convolution, then in one pass"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_explain_of_a_transposed_convolution_depends_on_its_shapes(name):
    input, weight, algorithm = FILTERS[name]
    input, weight = torch.rand(input), torch.rand(weight)
    with pyaegpu.backend("cpu"):
        found = pyaegpu.explain(pyaegpu.conv_transpose2d, input, weight, stride=2, activation="tanh")
        assert found == pyaegpu.explain(pyaegpu.conv_transpose2d, input[0], weight, None, 2, activation="tanh")
    assert (found.op, found.backend) == ("conv_transpose2d", "cpu") and found.algorithm.startswith(algorithm)
    assert set(found.others) == {"cuda", "triton", "reference"} and all(found.others.values())
    with pyaegpu.backend("reference"):
        found = pyaegpu.explain(pyaegpu.conv_transpose2d, input, weight)
    assert found.backend == "reference" and found.others["cpu"].startswith("'reference' was selected")


def test_a_small_transposed_convolution_takes_kernels_where_they_were_measured():
    """On a CPU, from a number of products on."""
    algorithms = [
        pyaegpu.explain(pyaegpu.conv_transpose2d, torch.rand(batch, 16, 14, 14), torch.rand(16, 1, 3, 3)).algorithm
        for batch in (1, 128)
    ]
    assert algorithms[0].startswith("stock convolution") and algorithms[1].startswith("one product per tile")


def test_explain_of_upsampling():
    x, few, many = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 3, 3), torch.rand(5, 3, 3, 3)
    with pyaegpu.backend("cpu"):
        assert pyaegpu.explain(pyaegpu.upsample_conv2d, x, few).algorithm.endswith("backward likewise")
        assert "stock convolution" in pyaegpu.explain(pyaegpu.upsample_conv2d, x, many).algorithm
    with pyaegpu.backend("reference"):
        assert pyaegpu.explain(pyaegpu.upsample_conv2d, x, few).backend == "reference"


def test_explain_of_a_bad_transposed_convolution():
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(TypeError, match="stride"):
        pyaegpu.explain(pyaegpu.conv_transpose2d, x, torch.rand(3, 2, 3, 3), stride="2")
    with pytest.raises(RuntimeError, match="weight"):
        pyaegpu.explain(pyaegpu.conv_transpose2d, x, torch.rand(3, 2, 3, 3).double())
    with pytest.raises(ValueError, match="activation"):
        pyaegpu.explain(pyaegpu.conv_transpose2d, x, torch.rand(3, 2, 3, 3), activation="gelu")


@pytest.mark.parametrize("name, used", [("reference", []), ("cpu", ["pyaegpu_cpu"])])
def test_a_selected_backend_serves_transposed_convolutions(name, used):
    for outputs in (2, 5):
        with pyaegpu.backend(name), Namespaces() as namespaces:
            pyaegpu.conv_transpose2d(torch.rand(2, 3, 4, 4), torch.rand(3, outputs, 3, 3), activation="relu")
        assert namespaces.seen == used


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_transposed_convolution_refuses_a_backend_that_cannot_serve(name):
    with pyaegpu.backend(name), pytest.raises(RuntimeError, match=rf"'{name}' was selected but cannot run conv_transp"):
        pyaegpu.conv_transpose2d(torch.rand(2, 3, 4, 4), torch.rand(3, 2, 3, 3))


IMAGE = torch.rand(2, 3, 8, 8)
PLACES = torch.nn.functional.max_pool2d(IMAGE, 2, return_indices=True)[1]
GATHERED = {
    "pool": (pyaegpu.max_pool2d, (IMAGE, 2), "maxima and places in one pass; backward by gathering"),
    "unpool of codes": (
        pyaegpu.max_unpool2d,
        (IMAGE[..., :4, :4], torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 2),
        "every place of the output asks its windows",
    ),
    "unpool of plane indices": (
        pyaegpu.max_unpool2d,
        (IMAGE[..., :4, :4], PLACES, 2),
        "every place of the output asks its windows; where an index is outside its window, an ordered scatter",
    ),
    "nearest": (pyaegpu.nearest_unpool2d, (IMAGE, 2), "every cell of the result asks for its value"),
    "nails": (pyaegpu.bed_of_nails2d, (IMAGE, (2, 3)), "every cell of the result asks for its value"),
}
each_gathered = pytest.mark.parametrize("name", GATHERED)


@each_gathered
def test_explain_of_pooling_and_unpooling(name):
    fn, args, algorithm = GATHERED[name]
    with pyaegpu.backend("cpu"):
        found = pyaegpu.explain(fn, *args)
        assert (found.op, found.backend, found.algorithm) == (fn.__name__, "cpu", algorithm)
        assert found.others["reference"] == "'cpu' was selected" and set(found.others) == {
            "cuda",
            "triton",
            "reference",
        }
        assert all(found.others.values())
        integers = pyaegpu.explain(fn, args[0].long(), *args[1:])
        assert integers.backend == "reference" and "do not take torch.int64" in integers.others["cpu"]
        empty = pyaegpu.explain(fn, *(t[:0] if isinstance(t, torch.Tensor) else t for t in args))
        assert empty.backend == "reference" and empty.others["cpu"] == "nothing to compute"
    with pyaegpu.backend("reference"):
        found = pyaegpu.explain(fn, *args)
    assert found.backend == "reference" and found.others["cpu"] == "'reference' was selected"
    assert found.algorithm == "stock PyTorch functions"


def test_stock_pools_where_that_was_measured_to_be_as_fast():
    """On a CPU: few elements, channels_last and short rows, unless codes are wanted, which stock has not."""
    pyaegpu.backend("auto")
    large, codes = torch.rand(2, 16, 32, 40), {"return_indices": True, "index_dtype": torch.uint8}
    ordered = large.contiguous(memory_format=torch.channels_last)
    for args in ((IMAGE, 2), (IMAGE, 2, 2, 0, 1, False, True), (ordered, 2), (large[..., :31], 3, 2, 1)):
        found = pyaegpu.explain(pyaegpu.max_pool2d, *args)
        assert found.backend == "reference" and "stock PyTorch is as fast" in found.others["cpu"]
        with pyaegpu.backend("cpu"):
            assert pyaegpu.explain(pyaegpu.max_pool2d, *args).backend == "cpu"
    for input in (IMAGE, ordered, large):
        assert pyaegpu.explain(pyaegpu.max_pool2d, input, 2, **codes).backend == "cpu"
    assert pyaegpu.explain(pyaegpu.max_pool2d, large, 2).backend == "cpu"
    assert pyaegpu.explain(pyaegpu.max_pool3d, large[None], 2).backend == "cpu"


@each_gathered
@pytest.mark.parametrize("backend, used", [("reference", []), ("cpu", ["pyaegpu_cpu"])])
def test_a_selected_backend_pools_and_unpools(name, backend, used):
    fn, args, _ = GATHERED[name]
    with pyaegpu.backend(backend), Namespaces() as namespaces:
        fn(*args)
    assert namespaces.seen == used


@each_gathered
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_pooling_and_unpooling_refuse_a_backend_that_cannot_serve(backend, name):
    fn, args, _ = GATHERED[name]
    with pyaegpu.backend(backend):
        for call in (fn, lambda *a: pyaegpu.explain(fn, *a)):
            with pytest.raises(RuntimeError, match=rf"'{backend}' was selected but cannot run (max|nearest)_unpool"):
                call(*args)


def test_explain_of_bad_pooling_and_unpooling():
    with pytest.raises(RuntimeError, match="input"):
        pyaegpu.explain(pyaegpu.max_pool2d, IMAGE[0, 0], 2)
    with pytest.raises(ValueError, match="index_dtype"):
        pyaegpu.explain(pyaegpu.max_pool2d, IMAGE, 2, index_dtype=torch.int32)
    with pytest.raises(RuntimeError, match="indices"):
        pyaegpu.explain(pyaegpu.max_unpool2d, IMAGE, PLACES, 2)
    with pytest.raises(TypeError, match="kernel_size"):
        pyaegpu.explain(pyaegpu.nearest_unpool2d, IMAGE, "2")


def test_explain_takes_the_tensors_from_keywords():
    found = pyaegpu.explain(pyaegpu.reconstruction_loss, recon=X, target=X, kind="mse")
    assert found.op == "reconstruction_loss"


def test_explain_makes_no_call():
    assert pyaegpu.explain(pyaegpu.reconstruction_loss, X * 10, X).backend == "cpu"


def test_explain_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="fn"):
        pyaegpu.explain(torch.nn.functional.mse_loss, X, X)
    with pytest.raises(TypeError, match="tensor"):
        pyaegpu.explain(pyaegpu.gaussian_kl)
    with pyaegpu.backend("cuda"), pytest.raises(RuntimeError, match="'cuda' was selected"):
        pyaegpu.explain(pyaegpu.gaussian_kl, X, X)


def test_explain_of_a_device_without_kernels():
    meta = X.to("meta")
    found = pyaegpu.explain(pyaegpu.gaussian_kl, meta, meta)
    assert found.backend == "reference"
    assert "meta" in found.others["cpu"]


def test_info():
    facts = pyaegpu.info()
    assert facts["version"] == pyaegpu.__version__
    assert facts["torch"] == torch.__version__
    assert facts["backends"].keys() == {"cuda", "triton", "cpu", "reference"}
    assert facts["backends"]["cpu"] == {"available": True, "reason": None}
    assert facts["backends"]["reference"]["available"]
    for row in facts["backends"].values():
        assert row["available"] == (row["reason"] is None)
    assert facts["extensions"]["cpu"]["loaded"]
    json.dumps(facts)


def test_info_gives_the_reason_of_what_is_missing():
    if GPU:
        pytest.skip("a CUDA device is there")
    for name in ("cuda", "triton"):
        assert "CUDA" in pyaegpu.info()["backends"][name]["reason"]
