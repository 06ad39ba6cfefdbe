"""The cache of ground-truth relations: what it holds, and what it refuses."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.relations import cache as relation_cache
from panoptic_occ.data.relations.build import build_relations, ensure_relations
from panoptic_occ.data.relations.cache import FORMAT, ImageRelation, RelationCache
from panoptic_occ.data.relations.statistics import relation_statistics
from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.relation import GroundTruthRelation


def random_relation(rng: np.random.Generator, k: int) -> GroundTruthRelation:
    masks = torch.from_numpy(rng.random((k, 5, 6)) < 0.3)
    ids = torch.from_numpy(rng.integers(0, k + 1, (5, 6)).astype(np.int32))
    return ground_truth_relation(MaskCrops.from_dense(masks), torch.arange(1, k + 1), ids)


def test_cache_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [
        ImageRelation(number, torch.arange(k) + 10 * number, torch.arange(k) + 1, random_relation(rng, k))
        for number, k in [(900_000_000_000, 3), (7, 0), (5, 6), (8, 1)]
    ]
    RelationCache.of(images).write(tmp_path / "r.safetensors", "abc")
    cache = RelationCache.read(tmp_path / "r.safetensors", "abc")
    assert cache.image_ids.tolist() == [5, 7, 8, 900_000_000_000]
    for image in images:
        found = cache.get(image.image_id)
        assert found is not None
        for name in ("area", "pan_area", "inter", "own"):
            assert torch.equal(getattr(found, name), getattr(image.relation, name)), name
    assert cache.get(6) is None
    assert cache.get(10**12) is None
    assert cache.instance_ids.tolist()[:6] == [50, 51, 52, 53, 54, 55]


def test_statistics_equal_the_relation_matrices(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    relations = [random_relation(rng, k) for k in (0, 6, 1, 7, 5)]
    empty = torch.zeros(0, dtype=torch.int64)
    cache = RelationCache.of([ImageRelation(n, empty, empty, r) for n, r in enumerate(relations)])
    for strict in (False, True):
        for found in relation_statistics(cache, (0.05, 0.25, 0.5), strict):
            pairs = images = decided = smaller = larger = compared = agreeing = 0
            for r in relations:
                majority, delta = r.matrix(found.sig_ratio, strict=strict), r.matrix(found.sig_ratio, "delta", strict)
                before = pairs
                for i, j in itertools.combinations(range(len(r)), 2):
                    ratio = int(r.inter[i, j]) / max(min(int(r.area[i]), int(r.area[j])), 1)
                    pairs += (ratio > found.sig_ratio) if strict else (ratio >= found.sig_ratio)
                    if majority[i, j] == -1:
                        continue
                    top, below = (i, j) if majority[i, j] == 1 else (j, i)
                    decided += 1
                    smaller += int(r.area[top] < r.area[below])
                    larger += int(r.area[top] > r.area[below])
                    compared += int(delta[i, j] != -1)
                    agreeing += int(delta[i, j] == majority[i, j])
                images += pairs > before
            assert (found.pairs, found.images, found.decided) == (pairs, images, decided)
            assert (found.smaller_on_top, found.larger_on_top) == (smaller, larger)
            assert (found.compared, found.agreeing) == (compared, agreeing)
            assert decided > smaller > 0 or found.sig_ratio == 0.5


def test_statistics_of_an_empty_cache() -> None:
    (found,) = relation_statistics(RelationCache.of([]), [0.2])
    assert (found.pairs, found.images, found.decided) == (0, 0, 0)


def spoil_version(path: Path) -> None:
    save_file(load_file(path), path, metadata={"format": FORMAT, "version": "0", "fingerprint": "x", "info": "{}"})


def spoil_format(path: Path) -> None:
    save_file(load_file(path), path)


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def spoil_start(path: Path) -> None:
    path.write_bytes(b"\x00" * 50)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_version, "version 0, this program reads version 1"),
        (spoil_format, "is not 'panoptic_occ.relations'"),
        (spoil_end, "not a readable relation cache"),
        (spoil_start, "not a readable relation cache"),
        (Path.unlink, "does not exist"),
    ],
)
def test_a_cache_that_cannot_be_used_is_refused_and_built_again(
    tiny_coco: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any, reason: str
) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), "val2017")
    path = tmp_path / "r.safetensors"
    whole = build_relations(data, path)
    spoil(path)
    with pytest.raises(DataError, match=reason) as error:
        RelationCache.read(path, data.fingerprint)
    assert str(path) in str(error.value)
    again = ensure_relations(data, path)
    assert path.exists()
    assert torch.equal(again.inter, whole.inter)
    assert RelationCache.read(path, data.fingerprint).image_ids.tolist() == [5, 7, 9]
    if spoil is not Path.unlink:
        assert reason in caplog.text
        assert "built again" in caplog.text


def test_changed_annotations_make_a_new_cache(tiny_coco: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.safetensors"
    build_relations(CocoPanoptic.from_root(tiny_coco.write(), "val2017"), path)
    tiny_coco.instances.pop(0)
    data = CocoPanoptic.from_root(tiny_coco.write(), "val2017")
    with pytest.raises(DataError, match="made from other annotation files"):
        RelationCache.read(path, data.fingerprint)
    found = ensure_relations(data, path).get(5)
    assert found is not None
    assert found.area.tolist() == [32]
    assert "made from other annotation files" in caplog.text


def test_a_good_cache_is_not_built_again(tiny_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), "val2017")
    path = tmp_path / "r.safetensors"
    build_relations(data, path)
    monkeypatch.setattr("panoptic_occ.data.relations.build.build_relations", None)
    assert len(ensure_relations(data, path)) == 3


def test_a_cache_of_other_instances_is_noticed(tiny_coco: Any) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), "val2017")
    rng, empty = np.random.default_rng(0), torch.zeros(0, dtype=torch.int64)
    data.relations = RelationCache.of([ImageRelation(5, empty, empty, random_relation(rng, 3))])
    with pytest.raises(DataError, match="image 5: the cached relations are of 3 instances, the image has 2"):
        data.load(0)
    assert len(data.target(2).relation) == 1  # an image that the cache does not hold is computed


KILLED = """
import os, signal, sys
from pathlib import Path
from panoptic_occ.data import relation_build, relation_cache
from panoptic_occ.data.coco import CocoPanoptic

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(tensors, path, metadata):
    whole(tensors, path, metadata=metadata)
    os.truncate(path, os.path.getsize(path) // 2)
    die()

whole = relation_cache.save_file
if sys.argv[3] == "writing":
    relation_cache.save_file = half
else:
    match, seen = relation_build.matched_segments, []
    relation_build.matched_segments = lambda *a: die() if len(seen) == 1 else (seen.append(0), match(*a))[1]
relation_build.build_relations(CocoPanoptic.from_root(sys.argv[1], "val2017"), Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_a_killed_build_leaves_nothing_that_reads_as_whole(tiny_coco: Any, tmp_path: Path, moment: str) -> None:
    root, path = tiny_coco.write(), tmp_path / "cache" / "r.safetensors"
    package = Path(relation_cache.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(root), str(path), moment]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not path.exists()
    with pytest.raises(DataError, match="does not exist"):
        RelationCache.read(path)
    assert len(ensure_relations(CocoPanoptic.from_root(root, "val2017"), path)) == 3


def test_a_failed_build_leaves_the_old_cache(tiny_coco: Any, tmp_path: Path) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), "val2017")
    path = tmp_path / "r.safetensors"
    build_relations(data, path)
    before = path.read_bytes()
    tiny_coco.png_path(7).unlink()
    with pytest.raises(DataError, match="check=true"):
        build_relations(data, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.safetensors", "tiny"]
