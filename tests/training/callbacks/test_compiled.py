"""Compiling the backbone: what is replaced and put back, and what is said where nothing can be compiled."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.training.callbacks.compiled import CompiledBackbone, check_compiler
from panoptic_occ.training.module import PanopticModule

TRAINER = cast(pl.Trainer, None)


class OnlyBackbone(PanopticFPN):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_compiled_while_it_fits_and_plain_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    module = PanopticModule(OnlyBackbone(), "base", seed=0)
    names, image = list(module.state_dict()), torch.randn(1, 3, 8, 8)
    plain = module.model.backbone(image)
    callback = CompiledBackbone()
    callback.on_fit_start(TRAINER, module)
    checked = len(graphs)  # of the trial
    compiled = module.model.backbone(image)
    assert len(graphs) == checked + 1
    torch.testing.assert_close(compiled, plain)
    assert list(module.state_dict()) == names
    callback.teardown(TRAINER, module, "fit")
    module.model.backbone(torch.randn(2, 3, 9, 9))  # another shape, which would be compiled
    assert len(graphs) == checked + 1


def test_a_machine_that_cannot_compile_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> Any:
        raise RuntimeError("No working C++ compiler found\nand pages of output")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    with pytest.raises(ConfigError, match=r"compile=true.*'cpu' \(No working C\+\+ compiler found\).*compile=false"):
        CompiledBackbone().on_fit_start(TRAINER, PanopticModule(OnlyBackbone(), "base", seed=0))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here")
def test_a_compiler_is_found_where_there_is_one() -> None:
    check_compiler(torch.device("cpu"))
