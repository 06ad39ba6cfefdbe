"""Train, then fine-tune: stage 1 trains the base, stage 2 freezes it and trains the occlusion module only."""

from __future__ import annotations

import hashlib
import logging

import pytorch_lightning as pl
from safetensors.torch import save
from torch import nn

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.training.module import PanopticModule

log = logging.getLogger(__name__)


def fingerprint(modules: dict[str, nn.Module]) -> str:
    """SHA-256 over names, shapes, types and bits of all parameters and buffers."""
    states = {part: module.state_dict().items() for part, module in modules.items()}
    tensors = {f"{part}.{name}": tensor.contiguous() for part, state in states.items() for name, tensor in state}
    return hashlib.sha256(save(tensors)).hexdigest()


class TwoStage(pl.Callback):
    """Freezes what the module's stage does not train: no gradients, no statistics of BatchNorm, no losses.

    Each stage is a fit of its own with a fresh optimiser (and a fresh DDP wrap), so the frozen set never changes
    during a fit and a resumed run needs no memory of it.  At the end of stage 2 the base must be bit-identical to
    what it was at the start, or CheckpointError is raised.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Sets gradients on and off before the optimiser and any DDP wrap are made."""
        assert isinstance(pl_module, PanopticModule)
        for frozen in self.frozen(pl_module):
            frozen.requires_grad_(False)
        if pl_module.stage == "occlusion":
            pl_module.model.occlusion.requires_grad_(True).train()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers the frozen base (after a checkpoint was restored)."""
        assert isinstance(pl_module, PanopticModule)
        if pl_module.stage == "occlusion":
            self._before = fingerprint(pl_module.model.base_modules())
        trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        total = sum(p.numel() for p in pl_module.parameters())
        log.info("stage '%s' trains %s of %s parameters", pl_module.stage, f"{trained:,}", f"{total:,}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Keeps the frozen parts in evaluation mode: Lightning switches all modules to training at every start, and
        leaves out the hook at the start of an epoch when it resumes."""
        assert isinstance(pl_module, PanopticModule)
        for frozen in self.frozen(pl_module):
            frozen.eval()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks that stage 2 left the base alone."""
        assert isinstance(pl_module, PanopticModule)
        if self._before is not None and fingerprint(pl_module.model.base_modules()) != self._before:
            raise CheckpointError("stage 2 changed the frozen base; a module updates its state outside the optimiser")

    @staticmethod
    def frozen(module: PanopticModule) -> list[nn.Module]:
        """The parts that the module's stage leaves alone."""
        if module.stage == "joint":
            return []
        return [module.model.occlusion] if module.stage == "base" else list(module.model.base_modules().values())
