"""The PQ counts against a literal loop over segments, on random maps of all kinds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.maps import NUM, infos, make_map
from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.core import IOU_UNIT, SegmentRow, listed_ids, overlap_table
from panoptic_occ.metrics.pq.metric import _overlap_table_torch, panoptic_counts
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment


@st.composite
def image_pairs(draw, max_segments=6):
    """A target with crowds, void, unlisted ids and sometimes wrong areas, and a prediction related to it."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    slots = arrays(np.int64, shape, elements=st.integers(0, max_segments))
    target_slots, other, use_other = draw(slots), draw(slots), draw(arrays(bool, shape))
    prediction_slots = np.where(use_other, other, target_slots)
    any_id = st.integers(1, 256**3 - 1)
    labels = st.lists(st.integers(0, NUM - 1), min_size=max_segments, max_size=max_segments)

    def listed(slot_map, target):
        numbers = draw(st.lists(any_id, min_size=max_segments, max_size=max_segments, unique=True))
        ids = np.array([0, *numbers])[slot_map]
        segments = []
        for number, label in zip(numbers, draw(labels), strict=True):
            area = int((ids == number).sum())
            if target and draw(st.integers(0, 9)) == 0:
                continue  # not in the JSON; or, without pixels, in the JSON only
            if target and draw(st.integers(0, 9)) == 0:
                area += draw(st.integers(1, 5))
            if target or area:
                crowd = target and draw(st.integers(0, 2)) == 0
                segments.append(Segment(number, label, label < 2, area, crowd))
        return PanopticMap(torch.from_numpy(ids.astype(np.int32)), tuple(segments))

    return listed(prediction_slots, False), listed(target_slots, True)


def assert_equals_reference(prediction, target, slow_pq):
    """The counts, and the table of overlaps as the GPU makes it, which is a histogram over pixels."""
    expected = slow_pq(target.ids.numpy(), infos(target), prediction.ids.numpy(), infos(prediction))
    counts = panoptic_counts(prediction, target, NUM)
    for label in range(NUM):
        exact = expected[label]
        assert (counts.tp[label], counts.fp[label], counts.fn[label]) == (exact.tp, exact.fp, exact.fn)
        # each pair is rounded once to a float and once to the fixed point
        assert abs(Fraction(int(counts.iou[label]), IOU_UNIT) - exact.iou) <= exact.tp * Fraction(6, 10 * 2**40)
    listed = [listed_ids([SegmentRow(s.id, s.label) for s in m.segments]) for m in (target, prediction)]
    runs = overlap_table(target.ids.numpy(), prediction.ids.numpy(), *listed, "image")
    np.testing.assert_array_equal(runs, _overlap_table_torch(target.ids, prediction.ids, *listed, "image"))
    assert runs.sum() == target.ids.numel()


@settings(max_examples=400, deadline=None)
@given(pair=image_pairs())
def test_random_pairs(pair, slow_pq):
    assert_equals_reference(*pair, slow_pq)


@pytest.mark.parametrize("segments", [100, 300])
def test_hundreds_of_segments(slow_pq, segments):
    rng = np.random.default_rng(0)
    ids = rng.choice(256**3 - 1, size=segments + 100, replace=False) + 1
    target_ids = np.kron(ids[:segments].reshape(-1, 20), np.ones((2, 2), dtype=np.int64))
    target_ids[rng.random(target_ids.shape) < 0.05] = 0
    prediction_ids = np.where(rng.random(target_ids.shape) < 0.2, rng.choice(ids, target_ids.shape), target_ids)
    label = {int(i): int(rng.integers(NUM)) for i in ids}

    def map_of(array, crowd):
        numbers = [i for i in np.unique(array).tolist() if i]
        return make_map(array, {i: label[i] for i in numbers}, {i for i in numbers if rng.random() < crowd})

    maps = map_of(prediction_ids, 0), map_of(target_ids, 0.1)
    assert min(len(m.segments) for m in maps) > 0.85 * segments
    assert_equals_reference(*maps, slow_pq)


def test_histogram_names_unlisted_ids():
    listed = listed_ids([SegmentRow(3, 0)])
    with pytest.raises(DataError, match="ids 4, 8"):
        _overlap_table_torch(torch.zeros(1, 3), torch.tensor([[8, 3, 4]]), listed, listed, "image")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    ids = np.random.default_rng(1).integers(0, 300, (120, 160)).repeat(4, 0).repeat(4, 1)
    target = make_map(ids, {i: i % NUM for i in range(1, 300)})
    prediction = PanopticMap(target.ids.roll(1, 0), target.segments)
    on_gpu = PanopticMap(prediction.ids.cuda(), target.segments)
    a, b = panoptic_counts(prediction, target, NUM), panoptic_counts(on_gpu, target, NUM)
    for name, count in vars(a).items():
        np.testing.assert_array_equal(count, getattr(b, name))
