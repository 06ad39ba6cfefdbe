"""Freezing: which parts a stage trains, and that a change of the frozen base is noticed."""

from __future__ import annotations

from typing import cast

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.training.callbacks.two_stage import TwoStage, fingerprint
from panoptic_occ.training.module import PanopticModule, Stage

TRAINER = cast(pl.Trainer, None)


class Parts(PanopticFPN):
    """The five parts of the network, each small and with statistics of its own."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        for name in ("backbone", "thing", "stuff", "exchange", "occlusion"):
            setattr(self, name, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def begin(stage: Stage) -> tuple[TwoStage, PanopticModule]:
    callback, module = TwoStage(), PanopticModule(Parts(), stage, seed=0)
    module.train()
    callback.setup(TRAINER, module, "fit")
    callback.on_train_start(TRAINER, module)
    callback.on_train_batch_start(TRAINER, module, None, 0)
    return callback, module


BASE = {"backbone", "thing", "stuff", "exchange"}


@pytest.mark.parametrize(
    ("stage", "trained"), [("base", BASE), ("occlusion", {"occlusion"}), ("joint", BASE | {"occlusion"})]
)
def test_each_stage_trains_its_parts(stage: Stage, trained: set[str]) -> None:
    """And stage two after it, in one process, its own."""
    callback, module = begin(stage)
    for name in (*BASE, "occlusion"):
        part = getattr(module.model, name)
        assert all(p.requires_grad == (name in trained) for p in part.parameters())
        assert part.training == (name in trained)
    later = PanopticModule(module.model, "occlusion", seed=0)
    callback.setup(TRAINER, later, "fit")
    assert {name.split(".")[1] for name, p in later.named_parameters() if p.requires_grad} == {"occlusion"}


def test_a_changed_base_is_an_error() -> None:
    callback, module = begin("occlusion")
    callback.on_train_end(TRAINER, module)
    with torch.no_grad():
        module.model.thing[1].running_mean += 1e-6  # type: ignore[operator,union-attr]
    with pytest.raises(CheckpointError, match="changed the frozen base"):
        callback.on_train_end(TRAINER, module)


def test_batchnorm_of_the_frozen_base_keeps_its_statistics() -> None:
    _, module = begin("occlusion")
    before = fingerprint(module.model.base_modules())
    for part in module.model.base_modules().values():
        part(torch.randn(8, 2))
    assert fingerprint(module.model.base_modules()) == before


def test_fingerprint_sees_bits_names_and_types() -> None:
    a = {"m": nn.Linear(2, 2)}
    start = fingerprint(a)
    with torch.no_grad():
        a["m"].weight[0, 0] = torch.nextafter(a["m"].weight[0, 0], torch.tensor(9.0))
    assert fingerprint(a) != start
    assert fingerprint({"n": a["m"]}) != fingerprint(a)
