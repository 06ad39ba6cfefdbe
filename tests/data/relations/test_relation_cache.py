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

from panoptic_occ.common import tensor_file
from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.source import CocoSource
from panoptic_occ.data.relations.build import build_relations, ensure_relations
from panoptic_occ.data.relations.cache import ImageRelation, RelationCache
from panoptic_occ.data.relations.statistics import relation_statistics
from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.structures.masks import MaskCrops


def random_image(rng: np.random.Generator, image_id: int, k: int) -> ImageRelation:
    masks = torch.from_numpy(rng.random((k, 5, 6)) < 0.3)
    ids = torch.from_numpy(rng.integers(0, k + 1, (5, 6)).astype(np.int32))
    relation = ground_truth_relation(MaskCrops.from_dense(masks), torch.arange(1, k + 1), ids)
    return ImageRelation(image_id, torch.arange(k) + 10 * (image_id % 9), relation)


def test_cache_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [random_image(rng, number, k) for number, k in [(900_000_000_000, 3), (7, 0), (5, 6), (8, 1)]]
    RelationCache.of(images).write(tmp_path / "r.safetensors", "abc")
    cache = RelationCache.read(tmp_path / "r.safetensors", "abc")
    assert cache.image_ids.tolist() == [5, 7, 8, 900_000_000_000]
    for image in images:
        relation = cache.get(image.image_id)
        assert relation is not None
        for name in ("area", "pan_area", "inter", "visible"):
            assert torch.equal(getattr(relation, name), getattr(image.relation, name)), name
    assert cache.get(6) is None and cache.get(10**12) is None
    assert cache.labels.tolist() == [50, 51, 52, 53, 54, 55, 80, 0, 1, 2]


def test_statistics_equal_the_relation_matrices() -> None:
    rng = np.random.default_rng(1)
    images = [random_image(rng, number, k) for number, k in enumerate((0, 6, 1, 7, 5))]
    for row in relation_statistics(RelationCache.of(images), (0.05, 0.25, 0.5)):
        pairs = occluded = decided = smaller = larger = compared = agreeing = 0
        for r in (image.relation for image in images):
            majority, delta = r.matrix(row.sig_ratio), r.matrix(row.sig_ratio, "delta")
            before = pairs
            for i, j in itertools.combinations(range(len(r)), 2):
                pairs += int(r.inter[i, j]) / max(min(int(r.area[i]), int(r.area[j])), 1) >= row.sig_ratio
                if majority[i, j] == -1:
                    continue
                top, below = (i, j) if majority[i, j] == 1 else (j, i)
                decided += 1
                smaller += int(r.area[top] < r.area[below])
                larger += int(r.area[top] > r.area[below])
                compared += int(delta[i, j] != -1)
                agreeing += int(delta[i, j] == majority[i, j])
            occluded += pairs > before
        assert (row.pairs, row.images, row.decided) == (pairs, occluded, decided)
        assert (row.smaller_on_top, row.larger_on_top) == (smaller, larger)
        assert (row.compared, row.agreeing) == (compared, agreeing)
        assert decided > smaller > 0 or row.sig_ratio == 0.5


def test_statistics_of_an_empty_cache() -> None:
    (row,) = relation_statistics(RelationCache.of([]), [0.2])
    assert (row.pairs, row.images, row.decided) == (0, 0, 0)


def spoil(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: spoil(path, 3), "cannot be read .*it is damaged"),
        (lambda path: spoil(path, -1), "is damaged, its tensors are not those that were written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be read .*it is damaged"),
        (Path.unlink, "does not exist"),
    ],
    ids=["start", "end", "cut", "gone"],
)
def test_a_cache_that_cannot_be_used_is_refused_and_built_again(
    tiny_coco: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, reason: str
) -> None:
    data, path = tiny_coco.data(), tmp_path / "r.safetensors"
    build_relations(data, path)
    content = path.read_bytes()
    damage(path)
    with pytest.raises(DataError, match=rf"r\.safetensors.*{reason}.*build it again with"):
        RelationCache.read(path, data.annotation_fingerprint)
    assert len(ensure_relations(data, path)) == 3
    assert path.read_bytes() == content  # equal content gives equal files
    assert ("it is built again now" in caplog.text) == (damage is not Path.unlink)


def test_changed_annotations_make_a_new_cache(tiny_coco: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.safetensors"
    build_relations(tiny_coco.data(), path)
    tiny_coco.instances.pop(0)
    data = tiny_coco.data()
    with pytest.raises(DataError, match="made from other annotations"):
        RelationCache.read(path, data.annotation_fingerprint)
    relation = ensure_relations(data, path).get(5)
    assert relation is not None and relation.area.tolist() == [32]
    assert "made from other annotations" in caplog.text


def test_a_repainted_map_is_not_read_with_the_relations_before(tiny_coco: Any, tmp_path: Path) -> None:
    """By the panoptic map alone, the dog on the cat lies under it then."""
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", tmp_path)

    def order_of_dog_and_cat() -> list[int]:
        data = source.split("val")
        assert (data.relations is None) == (not source.relations_path(data).exists())
        computed = data.target(0).relation
        cached = ensure_relations(data, source.relations_path(data)).get(5)
        assert cached is not None and torch.equal(cached.visible, computed.visible)
        return cached.visible[[0, 1], [1, 0]].tolist()  # the common pixels that belong to the cat, and to the dog

    assert order_of_dog_and_cat() == [0, 12]
    assert source.split("val").relations is not None
    tiny_coco.ids[5][1:9, 1:9] = 1
    tiny_coco.write()
    assert order_of_dog_and_cat() == [12, 0]


def test_a_good_cache_is_not_built_again(tiny_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = tiny_coco.data(), tmp_path / "r.safetensors"
    build_relations(data, path)
    monkeypatch.setattr("panoptic_occ.data.relations.build.build_relations", None)
    assert len(ensure_relations(data, path)) == 3


def test_a_cache_of_other_instances_is_noticed(tiny_coco: Any) -> None:
    data = tiny_coco.data()
    data.relations = RelationCache.of([random_image(np.random.default_rng(0), 5, 3)])
    with pytest.raises(DataError, match="image 5: the cached relations are of 3 instances, the image has 2"):
        data.load(0)
    assert len(data.target(2).relation) == 1  # an image that the cache does not hold is computed


def test_the_match_rule_reaches_training_data_and_cache(tiny_coco: Any, tmp_path: Path) -> None:
    """Validation images keep the usual rule."""
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", tmp_path, match="box")
    train, val = source.split("train"), source.split("val")
    assert (train.match, val.match) == ("box", "share")
    assert source.relations_path(train) != source.relations_path(val)
    cache = build_relations(train, source.relations_path(train))
    for index, image_id in enumerate(train.image_ids.tolist()):
        cached = cache.get(image_id)
        assert cached is not None and torch.equal(train.target(index).relation.visible, cached.visible)


KILLED = """
import os, signal, sys
from pathlib import Path
from panoptic_occ.common import tensor_file
from panoptic_occ.data.coco import dataset
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.relations import build

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(tensors, path, metadata):
    save(tensors, path, metadata=metadata)
    os.truncate(path, os.path.getsize(path) // 2)
    die()

save, match, seen = tensor_file.save_file, dataset.matched_segments, []
if sys.argv[3] == "writing":
    tensor_file.save_file = half
else:
    dataset.matched_segments = lambda *a: die() if len(seen) == 1 else (seen.append(0), match(*a))[1]
build.build_relations(dataset.CocoPanoptic(Layout.of(Path(sys.argv[1]), "val2017")), Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_a_killed_build_leaves_nothing_that_reads_as_whole(tiny_coco: Any, tmp_path: Path, moment: str) -> None:
    data, path = tiny_coco.data(), tmp_path / "cache" / "r.safetensors"
    package = Path(tensor_file.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(tiny_coco.root), str(path), moment]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not path.exists()
    assert len(ensure_relations(data, path)) == 3


def test_a_failed_build_leaves_the_old_cache(tiny_coco: Any, tmp_path: Path) -> None:
    data, path = tiny_coco.data(), tmp_path / "r.safetensors"
    build_relations(data, path)
    before = path.read_bytes()
    tiny_coco.png_path(7).unlink()
    with pytest.raises(DataError, match="check=true"):
        build_relations(data, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.safetensors", "tiny"]
