"""Scale jitter and crop of the paper's Cityscapes training: image, masks, map, boxes and relations stay in step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from helpers.tiny_cityscapes import STREET, TinyCityscapes
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.cityscapes.source import CityscapesSource
from panoptic_occ.data.loading.transforms import TrainTransform
from panoptic_occ.structures.sample import Sample

MASKS = np.stack([STREET[k].mask((24, 40)) for k in (3, 4, 7)])  # two cars and a person, each on the ones before


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The street; its picture has the instance id of every pixel as red + 251 green."""
    folder = tmp_path_factory.mktemp("scale")
    source = CityscapesSource(TinyCityscapes(folder / "data").write(), cache_dir=folder, processes=1)
    source.prepare()
    return source.split("train").load(0)


def sizes(sample: Sample, **settings: object) -> list[tuple[int, int]]:
    transform = TrainTransform(**settings)  # type: ignore[arg-type]
    return [tuple(transform(sample, seed).image.shape[1:]) for seed in range(300)]  # type: ignore[misc]


def test_factors_are_spread_evenly_between_the_limits(sample: Sample) -> None:
    found = sizes(sample, scale=[0.5, 2.0])
    assert all(abs(height / 24 - width / 40) <= 0.5 / 24 + 0.5 / 40 for height, width in found)  # one factor for both
    widths = np.array([width for _, width in found])
    assert widths.min() < 24 and widths.max() > 76 and 20 <= widths.min() <= widths.max() <= 80
    counts, _ = np.histogram(widths, bins=[20, 35, 50, 65, 81])
    assert counts.min() > 45  # 75 expected, four standard deviations are 30


def test_one_factor_alone(sample: Sample) -> None:
    assert set(sizes(sample, scale=[2, 2])) == {(48, 80)}
    assert set(sizes(sample, scale=[0.01, 0.01])) == {(1, 1)}
    assert torch.equal(TrainTransform(scale=[1, 1], flip=0)(sample, 1).image, sample.image)
    assert set(sizes(sample, scale=[0.5, 2.0], resize=False)) == {(24, 40)}


def test_a_crop_is_as_large_as_asked_or_as_the_image(sample: Sample) -> None:
    for height, width in sizes(sample, scale=[0.5, 2.0], crop=[20, 30]):
        assert height <= 20 and width <= 30 and (height == 20 or width < 36) and (width == 30 or height < 20)


@pytest.mark.parametrize("seed", range(25))
def test_everything_shows_the_same_pixels(sample: Sample, seed: int) -> None:
    out = TrainTransform(scale=[1.0, 1.0], crop=[14, 16])(sample, seed)
    assert out.target is not None
    red, green, _ = out.image.long().numpy()
    ids = red + 251 * green
    void = (ids == 3) | (ids // 1000 == 29)
    assert np.array_equal(out.target.panoptic.ids.numpy(), np.where(void, 0, ids))
    assert {s.id: s.area for s in out.target.panoptic.segments} == {
        int(k): int((ids == k).sum()) for k in np.unique(ids[~void])
    }


@pytest.mark.parametrize("seed", range(25))
def test_masks_boxes_and_relations_follow(sample: Sample, seed: int) -> None:
    """Against the hand-made masks, resized by the pixel under each centre, flipped and searched for the window."""
    assert sample.target is not None
    transform = TrainTransform(scale=[0.5, 2.0], crop=[14, 16], flip=seed % 2)
    out, whole = transform(sample, seed), TrainTransform(scale=[0.5, 2.0], flip=seed % 2)(sample, seed)
    assert out.target is not None and whole.target is not None
    height, width = whole.image.shape[1:]
    rows = np.floor((np.arange(height) + 0.5) * 24 / height).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * 40 / width).astype(int)[:: -1 if seed % 2 else 1]
    masks = MASKS[:, rows][:, :, columns]
    ids = sample.target.panoptic.ids.numpy()[rows][:, columns]
    assert np.array_equal(whole.target.masks.dense().numpy(), masks)
    high, wide = out.image.shape[1:]
    windows = [(y, x) for y in range(height - high + 1) for x in range(width - wide + 1)]
    shown = [w for w in windows if torch.equal(whole.image[:, w[0] :, w[1] :][:, :high, :wide], out.image)]
    (top, left), *others = shown
    assert not others
    masks = masks[:, top : top + high, left : left + wide]
    keep = np.flatnonzero(masks.any(axis=(1, 2)))
    target = out.target
    assert np.array_equal(target.masks.dense().numpy(), masks[keep])
    assert np.array_equal(target.panoptic.ids.numpy(), ids[top : top + high, left : left + wide])
    for box, mask in zip(target.boxes.tolist(), masks[keep], strict=True):
        ys, xs = np.nonzero(mask)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    order = target.relation.matrix(0.0).numpy()
    for a, i in enumerate(keep):
        for b, j in enumerate(keep):
            meet = i != j and (masks[i] & masks[j]).any()
            assert order[a, b] == (int(i > j) if meet else -1)


def test_lists_of_hydra_are_accepted() -> None:
    config = OmegaConf.create({"scale": [0.5, 2.0]})
    assert TrainTransform(scale=config.scale) == TrainTransform(scale=(0.5, 2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"set short_edge and max_edge, like \[800\] and 1333, or scale"),
        ({"short_edge": [20]}, "set short_edge and max_edge"),
        ({"scale": [2.0, 0.5]}, r"scale: \[2.0, 0.5\] is not usable; .* 0 < low <= high"),
        ({"scale": [0.0, 0.5]}, r"scale: \[0.0, 0.5\]"),
        ({"scale": [0.5]}, r"scale: \[0.5\]"),
        ({"scale": [0.5, float("inf")]}, r"scale: \[0.5, inf\]"),
        ({"scale": [0.5, 2.0], "short_edge": [20], "max_edge": 30}, r"together with short_edge=\[20\].*set scale=null"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainTransform(**arguments)  # type: ignore[arg-type]
