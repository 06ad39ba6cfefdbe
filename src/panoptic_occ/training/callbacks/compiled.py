"""``torch.compile`` for the part of the network whose shapes repeat."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.training.module import PanopticModule


class CompiledBackbone(pl.Callback):
    """Compiles backbone and pyramid for the time of a fit.

    Only these: the heads see another number of regions in every image, and would be compiled again and again.  Names of
    parameters and what an evaluation computes stay as they are.  Raises ConfigError where nothing can be compiled.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces the forward pass; it is compiled when it first runs."""
        assert isinstance(pl_module, PanopticModule)
        check_compiler(pl_module.device)
        backbone = pl_module.model.backbone
        backbone.forward = torch.compile(backbone.forward)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Puts the plain forward pass back."""
        assert isinstance(pl_module, PanopticModule)
        pl_module.model.backbone.__dict__.pop("forward", None)


def check_compiler(device: torch.device) -> None:
    """Compiles a sum on ``device``: without a compiler, the network would fail with pages of output."""
    try:
        torch.compile(lambda x: x.cos() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # torch raises many kinds, and any of them means: not here
        reason = str(error).strip().splitlines()[:1]
        raise ConfigError(
            f"compile=true: torch.compile does not work here on '{device.type}' ({''.join(reason)}); install a C++ "
            "compiler (g++ or clang++) and the headers of Python, name it in the environment variable CXX, or set "
            "compile=false"
        ) from error
