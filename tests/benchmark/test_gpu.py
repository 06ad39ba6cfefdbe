"""The GPU's script on the CPU, in small; and on a GPU where there is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from scripts.benchmark import gpu
from scripts.benchmark.checks import MismatchError
from scripts.benchmark.gpu_networks import NAMES, STAGES, Row, annotated_sample, found_boxes, network, panoptic
from scripts.benchmark.stages import StageClock

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for part in gpu.PARTS for row in part(gpu.QUICK, CPU)]


def test_everything_is_measured(rows: list[Row]) -> None:
    assert all(row.ms > 0 for row in rows if row.name not in ("pair statistics",))
    named = {part: [(r.name, r.precision) for r in rows if r.part == part] for part in ("training", "relation")}
    both = ("fp32", "bf16")
    assert named["training"] == [(stage, precision) for precision in both for stage in ("base", "occlusion")]
    measured = [(name, precision) for name in ("OCFusion", "RAP", "REFINE") for precision in both]
    assert named["relation"][:-2] == measured
    stages = [NAMES.get(stage, stage) for stage in STAGES]
    variants = ["fp32", "fp32 channels_last", "bf16", "bf16 channels_last"]
    found = [(r.precision, r.name) for r in rows if r.part == "inference"]
    assert found == [(variant, stage) for variant in variants for stage in [*stages, "all, without waiting"]]


def test_the_printed_numbers_are_those_of_the_paper(rows: list[Row]) -> None:
    printed = {row.name: row.ms for row in rows if "published" in row.name}
    assert printed == {
        "OCFusion*, published: Table 5 of RAP, NVIDIA P40": 136.7,
        "RAP, published: Table 5 of RAP, NVIDIA P40": 0.7,
    }


def test_throughput_follows_from_the_time_of_a_step(rows: list[Row]) -> None:
    for row in rows:
        if row.part == "training":
            assert row.images_per_s is not None
            assert row.images_per_s * row.ms == pytest.approx(1000 * gpu.QUICK.batch)


def test_the_tables_hold_every_number(rows: list[Row]) -> None:
    text = gpu.markdown(rows, "NVIDIA X", gpu.QUICK)
    assert "# On one NVIDIA X" in text
    assert all(f"{row.ms:.2f}" in text for row in rows)


def test_an_image_has_the_detections_that_were_asked_for() -> None:
    sample = annotated_sample(gpu.QUICK.size, 0)
    model = network(gpu.QUICK, CPU).eval()
    model.thing.use_oracle(found_boxes(7, gpu.QUICK.size, CPU))
    with torch.no_grad():
        assert len(panoptic(model, sample, "fp32", StageClock()).records) == 7


def test_the_annotations_agree_with_each_other() -> None:
    target = annotated_sample((96, 128), 1).annotations
    areas = {segment.id: segment.area for segment in target.panoptic.segments}
    ids, counts = torch.unique(target.panoptic.ids, return_counts=True)
    assert areas == dict(zip(ids.tolist(), counts.tolist(), strict=True)), "no VOID, and every area is right"
    assert torch.equal(target.relation.inter, PairStats.of(target.masks).inter)


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = gpu.fuse

    def wrong(instances: object, *arguments: object) -> PanopticMap:
        found = fuse(instances, *arguments)  # type: ignore[arg-type]
        calls.append(found)
        return found if len(calls) > 1 else dataclasses.replace(found, ids=found.ids + 1)

    calls: list[PanopticMap] = []
    monkeypatch.setattr(gpu, "fuse", wrong)
    with pytest.raises(MismatchError, match="panoptic map"):
        gpu.fusions(gpu.QUICK, CPU)


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device and torch sees none"):
        gpu.run(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    gpu.run(tmp_path, quick=True)
    assert torch.cuda.get_device_name() in (tmp_path / "gpu.md").read_text()
