from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.maps import NUM, make_map
from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.core import IOU_UNIT
from panoptic_occ.metrics.pq.metric import PanopticQuality, panoptic_counts, panoptic_quality
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

CATEGORIES = Categories.from_json([{"id": 10 * k + 10, "name": f"class{k}", "isthing": int(k < 2)} for k in range(NUM)])


CASES = [  # target, its labels (a crowd's is text), its areas, prediction, its labels, then tp, fp, fn, IoU of label 0
    ("IoU .5 is no match", [1, 1, 1, 1], {1: 0}, {}, [7, 7, 0, 0], {7: 0}, (0, 1, 1, 0)),
    ("IoU .75", [1, 1, 1, 1], {1: 0}, {}, [7, 7, 7, 0], {7: 0}, (1, 0, 0, 0.75)),
    ("void leaves the union", [1, 1, 1, 1, 0, 0, 0, 0], {1: 0}, {}, [7] * 8, {7: 0}, (1, 0, 0, 1.0)),
    ("mostly on void", [1, 0, 0, 0], {1: 1}, {}, [7] * 4, {7: 0}, (0, 0, 0, 0)),
    ("half on void", [1, 1, 0, 0], {1: 1}, {}, [7] * 4, {7: 0}, (0, 1, 0, 0)),
    ("a crowd forgives", [1, 1, 1, 2, 2, 2, 2], {1: 0, 2: "0"}, {}, [0, 0, 0, 7, 7, 7, 7], {7: 0}, (0, 0, 1, 0)),
    ("only its category", [1, 1, 1, 2, 2, 2, 2], {1: 1, 2: "1"}, {}, [0, 0, 0, 7, 7, 7, 7], {7: 0}, (0, 1, 0, 0)),
    ("a crowd is in the union", [1, 1, 1, 2, 2], {1: 0, 2: "0"}, {}, [7] * 5, {7: 0}, (1, 0, 0, 0.6)),
    ("a crowd is never missed", [2, 2, 2, 2], {2: "0"}, {}, [0] * 4, {}, (0, 0, 0, 0)),
    ("the last crowd forgives", [1, 1, 1, 0, 2], {2: "0", 1: "0"}, {}, [7, 7, 7, 0, 0], {7: 0}, (0, 0, 0, 0)),
    ("another does not", [1, 1, 1, 0, 2], {1: "0", 2: "0"}, {}, [7, 7, 7, 0, 0], {7: 0}, (0, 1, 0, 0)),
    ("the stated area counts", [1, 1, 1, 1], {1: 0}, {1: 5}, [7] * 4, {7: 0}, (1, 0, 0, 0.8)),
    ("too small an area too", [1, 1, 1, 1], {1: 0}, {1: 1}, [7, 7, 7, 0], {7: 0}, (1, 0, 0, 3.0)),
    ("unlisted ids are not void", [1, 1, 9, 9], {1: 0}, {}, [7] * 4, {7: 0}, (0, 1, 1, 0)),
    ("missed as void", [1, 1], {1: 0}, {}, [0, 0], {}, (0, 0, 1, 0)),
    ("missed as another class", [1, 1], {1: 0}, {}, [5, 5], {5: 1}, (0, 0, 1, 0)),
    ("made up of another class", [1, 1], {1: 1}, {}, [5, 5], {5: 0}, (0, 1, 0, 0)),
]


@pytest.mark.parametrize(
    ("target", "labels", "areas", "prediction", "predicted", "expected"),
    [pytest.param(*case, id=name) for name, *case in CASES],
)
def test_counts_by_hand(target, labels, areas, prediction, predicted, expected):
    """One row of pixels each."""
    crowds = {i for i, label in labels.items() if isinstance(label, str)}
    target = make_map([target], {i: int(label) for i, label in labels.items()}, crowds, areas)
    counts = panoptic_counts(make_map([prediction], predicted), target, NUM)
    tp, fp, fn, iou = expected
    assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (tp, fp, fn)
    assert counts.iou[0] / IOU_UNIT == pytest.approx(iou)


@pytest.mark.parametrize(
    ("prediction", "label_of", "scores"),
    [
        ([7, 7, 7, 7, 0, 0, 9, 9], {7: 0, 9: 1}, (0.8 / 1.5, 0.8, 1 / 1.5)),  # one is missed
        ([7, 7, 7, 7, 0, 0, 9, 8], {7: 0, 9: 1, 8: 0}, (0.8 / 2, 0.8, 0.5)),  # and one is too many
    ],
)
def test_scores_of_a_class(prediction, label_of, scores):
    target = make_map([[1, 1, 1, 1, 1, 2, 3, 3]], {1: 0, 2: 0, 3: 1})
    result = panoptic_quality([make_map([prediction], label_of)], [target], CATEGORIES).per_class[0]
    assert (result.pq, result.sq, result.rq) == pytest.approx(scores)


def test_absent_categories_are_excluded_and_invented_ones_count():
    target = make_map([[1, 1, 0, 2]], {1: 0, 2: 2})
    perfect = panoptic_quality([target], [target], CATEGORIES)
    assert (perfect.all, perfect.things, perfect.stuff) == ((1, 1, 1, 2), (1, 1, 1, 1), (1, 1, 1, 1))
    target = make_map([[1, 1, 2, 2]], {1: 0, 2: 2})
    invented = panoptic_quality([make_map([[1, 1, 3, 3]], {1: 0, 3: 1})], [target], CATEGORIES)
    assert invented.all == pytest.approx((1 / 3, 1 / 3, 1 / 3, 3))
    assert (invented.things, invented.stuff) == ((0.5, 0.5, 0.5, 2), (0, 0, 0, 1))
    nothing = PanopticQuality(CATEGORIES).result()
    assert nothing.all == nothing.things == nothing.stuff == (0, 0, 0, 0)


ONE = make_map([[1, 1]], {1: 0})


@pytest.mark.parametrize(
    ("prediction", "target", "words"),
    [
        (PanopticMap(torch.tensor([[3, 4]]), (Segment(3, 0, True, 1),)), ONE, "photo.*ids 4.*listed: 3"),
        (make_map([[3, 3]], {3: 0, 6: 0}), ONE, "photo.*segments 6 have no pixel"),
        (make_map([[3, 3]], {3: NUM}), ONE, "photo.*predicted segment 3.*label 4; allowed: 0 .. 3"),
        (make_map([[3, 3]], {3: -1}), ONE, "photo.*predicted segment 3.*label -1"),
        (make_map([[3, 3, 3]], {3: 0}), ONE, r"photo.*\(1, 3\).*\(1, 2\)"),
        (make_map([[0, 0]], {}), make_map([[1, 1]], {1: 9}), "photo.*ground-truth segment 1.*label 9"),
        (make_map([[3, 3]], {3: 0}), make_map([[1, 1]], {1: 0}, areas={1: 0}), "photo.*segment 1 has area 0"),
    ],
)
def test_contradictions(prediction, target, words):
    with pytest.raises(DataError, match=words):
        panoptic_counts(prediction, target, NUM, source="photo")


def test_a_faulty_batch_leaves_the_metric_as_it_was():
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(DataError, match="bad one"):
        metric.update([ONE, make_map([[3, 3]], {})], [ONE] * 2, ["good one", "bad one"])
    assert metric.result().all.n == 0


def random_images(n):
    rng = np.random.default_rng(7)
    for _ in range(n):
        target = rng.integers(0, 5, (3, 4)).repeat(3, 0).repeat(3, 1)
        prediction = np.where(rng.random(target.shape) < 0.25, rng.integers(0, 5, target.shape), target)
        yield tuple(
            make_map(ids, {i: (i * 7) % NUM for i in np.unique(ids).tolist() if i}) for ids in (prediction, target)
        )


def metric_over(images):
    metric = PanopticQuality(CATEGORIES)
    for prediction, target in images:
        metric.update(prediction, target)
    return metric


class TestMetric:
    images = tuple(random_images(31))

    def test_equals_the_function(self):
        predictions, targets = zip(*self.images, strict=True)
        batched = PanopticQuality(CATEGORIES)
        batched.update(predictions[:10], targets[:10])
        batched.update(predictions[10:], targets[10:])
        expected = panoptic_quality(predictions, targets, CATEGORIES)
        assert 0 < expected.all.pq < 1
        assert batched.result() == metric_over(self.images).result() == expected

    def test_any_order_and_any_split_give_the_same_bits(self):
        expected = metric_over(self.images).result()
        rng = np.random.default_rng(3)
        for _ in range(15):
            shuffled = [self.images[k] for k in rng.permutation(len(self.images))]
            total = metric_over(shuffled[:4])
            for part in (shuffled[4:5], [], shuffled[5:]):
                total.merge_state(metric_over(part))
            assert total.result() == expected

    def test_as_dict_has_the_official_layout(self):
        result = metric_over(self.images).result()
        content = result.as_dict()
        assert list(content) == ["All", "Things", "Stuff", "per_class"]
        assert content["Things"] == dict(zip(("pq", "sq", "rq", "n"), result.things, strict=True))
        assert list(content["per_class"]) == ["10", "20", "30", "40"]
        assert content["per_class"]["30"]["pq"] == result.per_class[2].pq
        assert result.flat()["SQ_st"] == result.stuff.sq
