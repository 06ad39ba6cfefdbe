"""Images a second: the generated data set is a whole one, and every kind of work has its row."""

from __future__ import annotations

import json
from pathlib import Path

from panoptic_occ.config.compose import compose
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.runs.build import build_data
from scripts.benchmark import throughput


def test_the_generated_data_set_has_no_faults(tmp_path: Path) -> None:
    throughput.write_data_set(tmp_path, 3)
    data = build_data(compose(["data=coco", f"data.root={tmp_path}", f"data.source.cache_dir={tmp_path}/cache"]))
    for split in (data.train_data, data.eval_data):
        assert not [problem for problem in check(split, 1) if problem.fatal] and len(split) == 3
    targets = [data.eval_data.target(k) for k in range(3)]
    assert [len(target.labels) for target in targets] == [throughput.THINGS] * 3
    overlaps = [int(target.relation.inter.count_nonzero()) - throughput.THINGS for target in targets]
    assert min(overlaps) > 0 and sum(overlaps) > throughput.THINGS  # each pair counts twice


def test_every_work_has_a_speed(tmp_path: Path) -> None:
    throughput.run(tmp_path, quick=True)
    found = json.loads((tmp_path / "throughput.json").read_text())
    assert [work["images"] > 0 and work["seconds"] > 0 for work in found["work"]] == [True] * 4
    assert 1 < found["kilobytes_an_image"] < 150
    assert (tmp_path / "throughput.md").read_text().count("\n| ") == 5
