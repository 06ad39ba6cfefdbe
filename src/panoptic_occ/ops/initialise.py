"""First values of weights, as most papers of the suite choose them."""

from __future__ import annotations

from torch import nn


def relu_convolutions(module: nn.Module) -> None:
    """Kaiming's normal by fan-out for every convolution in ``module``, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            zero_biases(layer)


def zero_biases(module: nn.Module) -> None:
    """Sets every bias in ``module`` to 0."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
