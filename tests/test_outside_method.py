"""A sixth method from outside the repository: one Python file and one YAML file, nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tiny_runs import TINY, cache, read, steps
from panoptic_occ.testing import OcclusionContract

__all__ = ["cache"]

METHOD = '''
"""The instance whose box ends lower in the image lies in front, by a learned amount."""
import torch
import torch.nn.functional as F
from panoptic_occ.occlusion.base import NO_CONTEXT, OcclusionModel
from panoptic_occ.structures.relation import Relation


class LowerIsFront(OcclusionModel):
    learns_from = "annotations"

    def __init__(self, *, start=0.01, **common):
        super().__init__(**common)
        self.weight = torch.nn.Parameter(torch.tensor(float(start)))

    def forward(self, instances, stats, context=NO_CONTEXT):
        value = self.weight * instances.boxes[:, 3]
        return Relation(value[:, None] - value[None, :], self.pairs(instances, stats), value=value, transitive=True)

    def loss(self, examples, generator):
        total, count = self.weight * 0, 0
        for example in examples:
            front, back = (example.target.relation.matrix(self.sig_ratio) == 1).nonzero(as_tuple=True)
            bottom = example.target.boxes[:, 3]
            total = total + F.softplus(-self.weight * (bottom[front] - bottom[back])).sum()
            count += len(front)
        return {"loss_order": total / max(count, 1)}
'''
CONFIG = "_target_: my_method.LowerIsFront\n_partial_: true\nstart: 0.01\n"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's own."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_method.py").write_text(METHOD)
    (folder / "conf" / "occlusion").mkdir(parents=True)
    (folder / "conf" / "occlusion" / "lower.yaml").write_text(CONFIG)
    return folder


def command(folder: Path, name: str, *words: str) -> str:
    """Runs a command in the user's folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", f"panoptic_occ.{name}", "--config-dir", str(folder / "conf"), *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sixth_method_is_one_python_and_one_yaml_file(outside: Path, cache: Path) -> None:
    words = [*TINY, *steps(2, 2), "method=panoptic_fpn", f"data.source.cache_dir={cache}"]
    table = command(outside, "train", *words, "occlusion=lower", "compare=[score,area]")
    (folder,) = (outside / "runs" / "scenes_tiny").glob("panoptic_fpn_*")
    assert "lower" in table and len(list((outside / "runs").rglob("occlusion.safetensors"))) == 1
    assert list(read(folder / "metrics.json")["relations"]) == ["score", "area", "lower"]
    command(outside, "evaluate", f"run={folder}", "trusted=[my_method]", "fusion.min_visible=0.2", "fusion=ocfusion")
    # as one of several orders of another method's run, on the same base
    command(outside, "train", *words, "compare=[lower]")
    assert len(list((outside / "runs").rglob("occlusion.safetensors"))) == 1, "it was trained a second time"


class TestTheContractHoldsOutsideToo(OcclusionContract):
    @pytest.fixture(autouse=True)
    def _module(self, outside: Path) -> None:
        spec = importlib.util.spec_from_file_location("my_method", outside / "my_method.py")
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def build(self, **common):  # type: ignore[no-untyped-def]
        return self.module.LowerIsFront(**common)
