"""Batch normalisation with its activation, alone and after a transposed convolution, as modules."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyaegpu import functional
from pyaegpu.functional._conv_transpose import activation_of
from pyaegpu.nn._activated import Activated


class BatchNormAct2d(Activated, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` with an ``activation``: None, ``"relu"``, ``"leaky_relu"`` (of
    ``negative_slope``), ``"tanh"`` or ``"sigmoid"`` (see :func:`pyaegpu.functional.batch_norm_act`).

    It takes the arguments of :class:`torch.nn.BatchNorm2d` in their order, and loads its state_dict; ``activation`` and
    ``negative_slope`` are given by name. What replaces batch normalisations by their class knows nothing of the
    activation: ``nn.SyncBatchNorm.convert_sync_batchnorm``, and a fusion into the convolution before it, drop it.
    """

    explained_as = "batch_norm_act"

    def __init__(self, *args: Any, activation: str | None = None, negative_slope: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, of the shape of ``input`` [N, C, H, W]."""
        self._check_input_dim(input)
        momentum = _momentum(self)
        _count_batch(self)
        args, kwargs = self.explained_call(input)
        return functional.batch_norm_act(*args, **{**kwargs, "momentum": momentum})

    def explained_call(self, input: Tensor) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        mean, var, training = _statistics(self)
        numbers = {"training": training, "eps": self.eps}
        return (input, mean, var, self.weight, self.bias), {**numbers, **self._activation}


_ACTIVATIONS = {None: nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
_NAMES = {layer: name for name, layer in _ACTIVATIONS.items()}


class ConvTransposeNormAct2d(nn.Sequential):
    """:class:`torch.nn.ConvTranspose2d`, :class:`torch.nn.BatchNorm2d` and an activation, run as one op (see
    :func:`pyaegpu.functional.conv_transpose2d_norm_act`).

    The three layers are its children ``0``, ``1`` and ``2``, so that parameters and buffers have the names that they
    have in a stock ``nn.Sequential``; what is set on them (eps, momentum, evaluation mode) is read at every call. A
    child that was replaced by another kind of layer, such as ``nn.SyncBatchNorm``, or that has hooks, is called itself:
    then the three run one after another.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as of :class:`torch.nn.ConvTranspose2d`, like those that follow up to ``padding_mode``.
        stride: distance of the input's pixels in the output.
        padding: rows and columns cut off each side of the output.
        output_padding: rows and columns added to the bottom and the right.
        groups: number of independent parts of the channels.
        bias: whether the convolution adds a bias; the normalisation takes it away again.
        dilation: distance of the kernel's taps in the output.
        padding_mode: ``"zeros"``.
        eps: as of :class:`torch.nn.BatchNorm2d`, like those that follow up to ``track_running_stats``.
        momentum: share of a batch in the running statistics; None for their plain average.
        affine: whether the normalisation has a weight and a bias.
        track_running_stats: whether it keeps running statistics.
        activation: ``None``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or ``"sigmoid"``.
        negative_slope: slope of leaky_relu below 0.
        device: of the parameters.
        dtype: of the parameters.
    """

    explained_as = "conv_transpose2d_norm_act"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: Literal["zeros"] = "zeros",
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        activation_of(activation, negative_slope)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, **where,
        )  # fmt: skip
        norm = nn.BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, **where)
        leaky = activation == "leaky_relu"
        super().__init__(conv, norm, nn.LeakyReLU(negative_slope) if leaky else _ACTIVATIONS[activation]())

    @property
    def weight(self) -> Tensor:
        """The convolution's, for initialisations that find it by the class's name."""
        return self[0].weight  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        """The convolution's."""
        return self[0].bias  # type: ignore[no-any-return]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The activated output; ``output_size`` is that of :class:`torch.nn.ConvTranspose2d`."""
        if not self._is_plain():
            conv, *others = self
            y = conv(input, output_size)
            for layer in others:
                y = layer(y)
            return y  # type: ignore[no-any-return]
        args, kwargs = self._call(input, output_size)
        out = functional.conv_transpose2d_norm_act(*args, **{**kwargs, "momentum": _momentum(self[1])})
        _count_batch(self[1])
        return out

    def explained_call(self, input: Tensor, output_size: list[int] | None = None) -> tuple[Any, dict[str, Any]]:
        """The arguments of the function that the layer calls."""
        if not self._is_plain():
            raise TypeError("no single op serves this module: its layers are not those it was made of, or have hooks")
        return self._call(input, output_size)

    def _call(self, input: Tensor, output_size: list[int] | None) -> tuple[Any, dict[str, Any]]:
        conv: Any
        norm: Any
        conv, norm, activation = self
        extra = conv.output_padding
        if output_size is not None:
            sizes = (conv.stride, conv.padding, conv.kernel_size, 2, conv.dilation)
            extra = conv._output_padding(input, output_size, *sizes)
        mean, var, training = _statistics(norm)
        args = (input, conv.weight, conv.bias, conv.stride, conv.padding, extra, conv.groups, conv.dilation)
        kwargs = {
            "running_mean": mean,
            "running_var": var,
            "norm_weight": norm.weight,
            "norm_bias": norm.bias,
            "training": training,
            "eps": norm.eps,
        }
        if isinstance(activation, nn.LeakyReLU):
            return args, {**kwargs, "activation": "leaky_relu", "negative_slope": activation.negative_slope}
        return args, {**kwargs, "activation": _NAMES[type(activation)]}

    def __getitem__(self, index: Any) -> Any:
        """A child, or a plain ``nn.Sequential`` of several."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def _is_plain(self) -> bool:
        kinds = [type(child) for child in self]
        return (
            len(kinds) == 3
            and issubclass(kinds[0], nn.ConvTranspose2d)
            and issubclass(kinds[1], nn.BatchNorm2d)
            and (kinds[2] in _NAMES or kinds[2] is nn.LeakyReLU)
            and not any(_is_special(child) for child in self)
        )


def _is_special(layer: nn.Module) -> bool:
    """Whether calling the layer does more than its class says: hooks, a forward of its own, a lazy one's first call."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks) or "forward" in vars(layer) or nn.modules.module._has_any_global_hook():
        return True
    plain = (nn.ConvTranspose2d, nn.BatchNorm2d)
    return any(isinstance(layer, kind) and type(layer).forward is not kind.forward for kind in plain)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None, bool]:
    """The running statistics that a call reads or updates, and whether it normalises by the batch's own."""
    mean, var = norm.running_mean, norm.running_var
    training = norm.training or (mean is None and var is None)
    if norm.training and not norm.track_running_stats:
        return None, None, training
    return mean, var, training


def _is_counting(norm: nn.BatchNorm2d) -> bool:
    return norm.training and norm.track_running_stats and norm.num_batches_tracked is not None


def _momentum(norm: nn.BatchNorm2d) -> float:
    """Share of the batch to come in the running statistics."""
    if norm.momentum is not None:
        return norm.momentum
    return 1.0 / (float(norm.num_batches_tracked) + 1.0) if _is_counting(norm) else 0.0  # type: ignore[arg-type]


def _count_batch(norm: nn.BatchNorm2d) -> None:
    if _is_counting(norm):
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
