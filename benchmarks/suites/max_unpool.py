"""Max-pooling, max-unpooling and both in a row, and unpooling without indices, against stock PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import ours, stock
from benchmarks.case import LAYOUTS, Candidate, Case, Inputs, Outputs, Step, Work
from benchmarks.suites.max_unpool_shapes import (
    CODES,
    NAILS,
    NEAREST,
    PAIR,
    POOL,
    UNPOOL,
    Window,
    cpu_cases,
    cpu_window_cases,
    cuda_cases,
    cuda_window_cases,
    small_cases,
    small_window_cases,
    window_of,
)
from benchmarks.tensors import in_float64, normals

Function = Callable[..., Outputs]  # of the input, and where the op takes them the indices


def stock_function(case: Case) -> Function:
    """What users write; its indices are int64 plane indices, whatever those of the case."""
    window, size = window_of(case), case.shape[2:]

    def pool(x: Tensor) -> Outputs:
        return F.max_pool2d(x, *window, return_indices=True)  # type: ignore[no-any-return]

    def unpool(x: Tensor, indices: Tensor) -> Outputs:
        return (F.max_unpool2d(x, indices, *window, output_size=size),)

    return {POOL: pool, UNPOOL: unpool, PAIR: lambda x: unpool(*pool(x))}[case.op]


def stock_upsampling(case: Case) -> Function:
    """What users write for unpooling without indices."""
    kernel = window_of(case).kernel

    def nails(x: Tensor) -> Outputs:
        size = (*x.shape[:2], *(kernel * length for length in x.shape[2:]))
        result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=LAYOUTS[case.layout]).zero_()
        result[..., ::kernel, ::kernel] = x
        return (result,)

    return nails if case.op == NAILS else lambda x: (F.interpolate(x, scale_factor=kernel, mode="nearest"),)


def step_of(run: Function, case: Case, indices: str = "") -> Step:
    """The timed call, in "fwd+bwd" with the gradient for g; a pooling's indices come last. `indices` names the input
    that an unpooling takes."""

    def called(inputs: Inputs) -> Outputs:
        return run(inputs["input"], *((inputs[indices],) if case.op == UNPOOL else ()))

    def forward(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return called(inputs)

    def forward_backward(inputs: Inputs) -> Outputs:
        result, *places = called(inputs)
        return (result.detach(), *torch.autograd.grad(result, inputs["input"], inputs["g"]), *places)

    return forward if case.mode == "fwd" else forward_backward


def encoded(indices: Tensor, window: Window, image: tuple[int, ...]) -> Tensor:
    """Plane indices as codes, each the position in its window."""
    rows, columns = (
        torch.arange(count, device=indices.device) * window.stride - window.padding for count in indices.shape[2:]
    )
    row, column = indices // image[3] - rows[:, None], indices % image[3] - columns
    return (row * window.kernel + column).to(torch.uint8)


class MaxUnpoolSuite:
    """`pyaegpu.max_pool2d` and `pyaegpu.max_unpool2d`, by codes or plane indices, against eager and compiled stock
    PyTorch by its int64. A `CheckedSuite`: indices are integers, which the gate does not compare."""

    name = "max_unpool"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return small_cases()[::7]
        return cuda_cases() if device == "cuda" else cpu_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Normal; what is unpooled comes from a pooling, so that values with one place are equal."""
        normal, window = normals(case, device, seed), window_of(case)
        made = {"input": normal(case.shape)}
        if case.op == UNPOOL:
            made["input"], made["indices"] = F.max_pool2d(made["input"], *window, return_indices=True)
            if case.option("indices") == CODES:
                made["codes"] = encoded(made["indices"], window, case.shape)
        if case.mode != "fwd":
            made["g"] = normal(window.pooled(case.shape) if case.op == POOL else case.shape)
        made["input"].requires_grad_()
        return made

    def work(self, case: Case) -> Work:
        """The bytes that the options tell, and for each pass a comparison with every position of every window."""
        return _work(case, (2 if case.op == PAIR else 1) * window_of(case).kernel ** 2)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled, on a GPU eager in the other memory format, and the pyaegpu backends that are there, but for
        the reference: by codes it takes ten times eager's time, and most of a run's."""
        given = "codes" if case.option("indices") == CODES else "indices"
        found = _stock_candidates(case, stock_function(case), device, compiled)
        found += ours.candidates(
            device,
            self.name,
            lambda library: step_of(_pooling(library, case), case, given),
            lambda library, inputs: _served_by(library, case, inputs, given),
        )
        return [_compared_by_values(one) for one in found if one.name != "pyaegpu:reference"]

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the very values that the candidates see, without a pooling's indices."""
        return _values(step_of(stock_function(case), case, "indices")(_in_float64(inputs)))

    def check(self, case: Case, inputs: Inputs, draws: Sequence[Outputs]) -> str:
        """Indices are stock PyTorch's or their codes, and what no sum is in is equal in every bit."""
        expected = self.reference(case, inputs)
        exact = 1 if case.op != UNPOOL and window_of(case).overlaps else len(expected)
        for outputs in draws:
            for place, (output, value) in enumerate(zip(outputs[:exact], expected[:exact], strict=True)):
                if not torch.equal(output.double(), value):
                    return f"output {place} is not a copy of the right values"
            if case.op == POOL and not _are_right(outputs[-1], case, inputs):
                return "the indices are not those of stock PyTorch"
        return ""


class NearestUnpoolSuite:
    """`pyaegpu.nearest_unpool2d` and `pyaegpu.bed_of_nails2d` against eager and compiled stock PyTorch."""

    name = "nearest_unpool"

    def cases(self, device: str, size: str) -> list[Case]:
        """See `Suite.cases`."""
        if size == "tiny":
            return small_window_cases()[::3]
        return cuda_window_cases() if device == "cuda" else cpu_window_cases()

    def inputs(self, case: Case, device: str, seed: int) -> Inputs:
        """Normal."""
        normal = normals(case, device, seed)
        made = {"input": normal(window_of(case).pooled(case.shape)).requires_grad_()}
        return made | ({} if case.mode == "fwd" else {"g": normal(case.shape)})

    def work(self, case: Case) -> Work:
        """The bytes that the options tell, and an operation for each element of the image."""
        return _work(case, window_of(case).kernel ** 2)

    def candidates(self, case: Case, device: str, compiled: bool) -> list[Candidate]:
        """eager, compiled, on a GPU eager in the other memory format, and every pyaegpu backend that is there."""
        kernel = window_of(case).kernel

        def upsampling(library: ModuleType) -> Function:
            call = getattr(library, case.op)
            return lambda x: (call(x, kernel),)

        return _stock_candidates(case, stock_upsampling(case), device, compiled) + ours.candidates(
            device,
            self.name,
            lambda library: step_of(upsampling(library), case),
            lambda library, inputs: str(library.explain(getattr(library, case.op), inputs["input"], kernel).backend),
        )

    def reference(self, case: Case, inputs: Inputs) -> Outputs:
        """Stock PyTorch in float64, on the very values that the candidates see; `F.interpolate` rounds places."""
        kernel = window_of(case).kernel

        def repeated(x: Tensor) -> Outputs:
            return (x.repeat_interleave(kernel, 2).repeat_interleave(kernel, 3),)

        run = repeated if case.op == NEAREST else stock_upsampling(case)
        return step_of(run, case)(in_float64(inputs))


def _work(case: Case, operations: int) -> Work:
    pooled, passes = math.prod(window_of(case).pooled(case.shape)), 1 if case.mode == "fwd" else 2
    return Work(float(pooled * operations * passes), float(case.option("bytes")) * pooled)


def _stock_candidates(case: Case, run: Function, device: str, compiled: bool) -> list[Candidate]:
    found = stock.candidates(run, lambda form: step_of(form, case, "indices"), device, compiled)
    return [*found, stock.other_layout(case, lambda: step_of(run, case, "indices"))] if device == "cuda" else found


def _compared_by_values(candidate: Candidate) -> Candidate:
    """The candidate, of whose one step the gate compares the values: indices are `check`'s."""
    make = cache(candidate.make)

    def given() -> Step:
        step, prepare = make(), candidate.prepare
        return lambda inputs: _values(step(inputs if prepare is None else prepare(inputs)))

    return replace(candidate, make=make, given=given)


def _values(outputs: Outputs) -> Outputs:
    return tuple(output for output in outputs if output.is_floating_point())


def _in_float64(inputs: Inputs) -> Inputs:
    places = {name: tensor for name, tensor in inputs.items() if not tensor.is_floating_point()}
    return in_float64({name: tensor for name, tensor in inputs.items() if name not in places}) | places


def _are_right(indices: Tensor, case: Case, inputs: Inputs) -> bool:
    window = window_of(case)
    _, expected = F.max_pool2d(inputs["input"].detach().double(), *window, return_indices=True)
    return torch.equal(indices, encoded(expected, window, case.shape) if indices.dtype == torch.uint8 else expected)


def _index_dtype(case: Case) -> torch.dtype:
    return torch.uint8 if case.option("indices") == CODES else torch.int64


def _pooling(library: ModuleType, case: Case) -> Function:
    window, size, index_dtype = window_of(case), case.shape[2:], _index_dtype(case)

    def pool(x: Tensor) -> Outputs:
        return library.max_pool2d(x, *window, return_indices=True, index_dtype=index_dtype)  # type: ignore[no-any-return]

    def unpool(x: Tensor, indices: Tensor) -> Outputs:
        return (library.max_unpool2d(x, indices, *window, output_size=size),)

    return {POOL: pool, UNPOOL: unpool, PAIR: lambda x: unpool(*pool(x))}[case.op]


def _served_by(library: ModuleType, case: Case, inputs: Inputs, given: str) -> str:
    """The backend of both where both are called."""
    window, x, indices = window_of(case), inputs["input"].detach(), inputs.get(given)
    asked = []
    if case.op != UNPOOL:
        arguments = {"return_indices": True, "index_dtype": _index_dtype(case)}
        asked.append(library.explain(library.max_pool2d, x, *window, **arguments))
        x, indices = library.max_pool2d(x, *window, **arguments)
    if case.op != POOL:
        asked.append(library.explain(library.max_unpool2d, x, indices, *window, case.shape[2:]))
    return ", ".join(dict.fromkeys(str(found.backend) for found in asked))
