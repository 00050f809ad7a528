"""What a training forward keeps for its backward, eager stock PyTorch beside pyaegpu: ``python -m
benchmarks.saved_bytes``.

Each storage counts once, that of a block's input or target too where it is saved; parameters do not count. In a model
the result of a layer, which it saves for itself or for the next layer as its input, counts once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import ours
from benchmarks.case import LAYOUTS, Case
from benchmarks.registry import SUITES
from benchmarks.report import markdown
from benchmarks.suites import conv_transpose_loss, max_unpool_shapes, norm_act_shapes
from benchmarks.suites.conv_transpose_shapes import LAST, Layer, dcgan

GIVEN = ("input", "target")  # inputs of a case that are no parameters


@dataclass(frozen=True)
class Line:
    """Bytes that autograd keeps between forward and backward."""

    name: str
    stock: int
    ours: int


def saved_bytes(call: Callable[[], object], without: Iterable[Tensor]) -> int:
    """Bytes of the storages that the call saves for a backward; those of `without` do not count."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held: an address that is freed could be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in left_out)


def of_case(suite: str, case: Case, device: str) -> Line:
    """What eager and the published candidate save in the case's step."""
    inputs = SUITES[suite].inputs(case, device, seed=0)
    parameters = [tensor for name, tensor in inputs.items() if name not in GIVEN]
    found = {one.name: one for one in SUITES[suite].candidates(case, device, compiled=False)}

    def saved(name: str) -> int:
        step = found[name].make()
        return saved_bytes(lambda: step(inputs), parameters)

    layer = dict(case.options).get("layer", "x".join(map(str, case.shape[1:])))
    kind = dict(case.options).get("kind", dict(case.options).get("indices", ""))
    return Line(f"{case.op} {layer} {kind}".rstrip(), saved("eager"), saved("pyaegpu:auto"))


def of_generator(batch: int, device: str) -> Line:
    """What the forward of DCGAN's generator saves, as an `nn.Sequential` of either side's modules."""
    noise = torch.randn(batch, 100, 1, 1, device=device)

    def saved(layer_of: Callable[[Layer], nn.Module]) -> int:
        model = nn.Sequential(*(layer_of(layer) for layer in dcgan(64))).to(device, memory_format=LAYOUTS[LAST])
        return saved_bytes(lambda: model(noise), model.parameters())

    return Line("DCGAN-64 generator", saved(_stock_layer), saved(_our_layer))


def _numbers(layer: Layer) -> tuple[int, ...]:
    return layer.channels, layer.out, layer.kernel, layer.stride, layer.padding


def _stock_layer(layer: Layer) -> nn.Module:
    convolution = nn.ConvTranspose2d(*_numbers(layer), bias=False)
    if layer.activation == "tanh":
        return nn.Sequential(convolution, nn.Tanh())
    return nn.Sequential(convolution, nn.BatchNorm2d(layer.out), nn.ReLU(inplace=True))


def _our_layer(layer: Layer) -> nn.Module:
    library = ours.library()
    assert library is not None
    if layer.activation == "tanh":
        return library.nn.ConvTranspose2d(*_numbers(layer), bias=False, activation="tanh")
    return library.nn.ConvTransposeNormAct2d(*_numbers(layer), bias=False)


def lines(batch: int, device: str) -> list[Line]:
    """Each block of DCGAN, its last layer with a loss, SegNet's first pooling, alone with either kind of index and with
    the unpooling after it, then the generator; channels_last."""
    maps = ((norm_act_shapes.MAPS["g4"], "relu"), (norm_act_shapes.DOWN_MAPS["d2"], norm_act_shapes.LEAKY))
    norms = [norm_act_shapes.norm_case((batch, *shape), activation, layout=LAST) for shape, activation in maps]
    blocks = [*norm_act_shapes.dcgan_blocks(), *norm_act_shapes.dcgan_down_blocks()]
    norms += [norm_act_shapes.block_case(block, batch, layout=LAST) for block in blocks]
    losses = [
        conv_transpose_loss.make_case(conv_transpose_loss.G5, batch, end, layout=LAST)
        for end in conv_transpose_loss.ENDS
    ]
    image = (batch, *max_unpool_shapes.SEGNET[0])
    pools = [(max_unpool_shapes.POOL, indices) for indices in max_unpool_shapes.INDEX_BYTES]
    pools.append((max_unpool_shapes.PAIR, max_unpool_shapes.CODES))
    found = [of_case("norm_act", case, device) for case in norms]
    found += [of_case("conv_transpose_loss", case, device) for case in losses]
    for op, indices in pools:
        case = max_unpool_shapes.make_case(op, image, indices=indices, layout=LAST)
        found.append(of_case("max_unpool", case, device))
    return [*found, of_generator(batch, device)]


def table(found: Sequence[Line]) -> str:
    """Markdown, in MB of 1e6 bytes."""
    header = ("block", "eager MB", "pyaegpu MB", "eager / pyaegpu")
    cells = [
        (line.name, f"{line.stock / 1e6:.2f}", f"{line.ours / 1e6:.2f}", f"{line.stock / line.ours:.2f}x")
        for line in found
    ]
    return markdown(header, cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saved_bytes", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    print(table(lines(options.batch, options.device)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
