"""What the layers with an activation share."""

from __future__ import annotations

from typing import Any

from pyaegpu.functional._conv_transpose import activation_of


class Activated:
    """A layer with an ``activation`` and the ``negative_slope`` of leaky_relu."""

    activation: str | None
    negative_slope: float

    def _set_activation(self, activation: str | None, negative_slope: float) -> None:
        activation_of(activation, negative_slope)
        self.activation, self.negative_slope = activation, negative_slope

    @property
    def _activation(self) -> dict[str, Any]:
        return {"activation": self.activation, "negative_slope": self.negative_slope}

    def extra_repr(self) -> str:
        """The arguments of the layer."""
        text = super().extra_repr()  # type: ignore[misc]
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        return text + f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else text
