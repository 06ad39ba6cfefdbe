from __future__ import annotations

import itertools
import socket
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from helpers.maps import NUM, infos, make_map
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


class TestScores:
    def test_pq_of_a_true_positive_and_errors(self):
        target = make_map([[1, 1, 1, 1, 1, 2, 3, 3]], {1: 0, 2: 0, 3: 1})
        missed = make_map([[7, 7, 7, 7, 0, 0, 9, 9]], {7: 0, 9: 1})
        assert panoptic_quality([missed], [target], CATEGORIES).per_class[0].pq == pytest.approx(0.8 / 1.5)
        wrong_too = make_map([[7, 7, 7, 7, 0, 0, 9, 8]], {7: 0, 9: 1, 8: 0})
        scores = panoptic_quality([wrong_too], [target], CATEGORIES).per_class[0]
        assert (scores.pq, scores.sq, scores.rq) == tuple(map(pytest.approx, (0.8 / 2, 0.8, 0.5)))

    def test_absent_categories_are_excluded_and_invented_ones_count(self):
        target = make_map([[1, 1, 0, 2]], {1: 0, 2: 2})
        perfect = panoptic_quality([target], [target], CATEGORIES)
        assert (perfect.all, perfect.things, perfect.stuff) == ((1, 1, 1, 2), (1, 1, 1, 1), (1, 1, 1, 1))
        target = make_map([[1, 1, 2, 2]], {1: 0, 2: 2})
        invented = panoptic_quality([make_map([[1, 1, 3, 3]], {1: 0, 3: 1})], [target], CATEGORIES)
        assert invented.all == pytest.approx((1 / 3, 1 / 3, 1 / 3, 3))
        assert (invented.things, invented.stuff) == ((0.5, 0.5, 0.5, 2), (0, 0, 0, 1))

    def test_nothing_at_all_is_zero_over_zero_classes(self):
        result = PanopticQuality(CATEGORIES).compute()
        assert result.all == result.things == result.stuff == (0, 0, 0, 0)


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
    assert metric.compute().all.n == 0


def random_images(n):
    rng = np.random.default_rng(7)
    images = []
    for _ in range(n):
        target_ids = rng.integers(0, 5, (3, 4)).repeat(3, 0).repeat(3, 1)
        noise = rng.random(target_ids.shape) < 0.25
        prediction_ids = np.where(noise, rng.integers(0, 5, target_ids.shape), target_ids)
        pair = []
        for ids in (prediction_ids, target_ids):
            present = [i for i in np.unique(ids).tolist() if i]
            pair.append(make_map(ids, {i: (i * 7) % NUM for i in present}))
        images.append(tuple(pair))
    return images


def metric_over(images):
    metric = PanopticQuality(CATEGORIES)
    for prediction, target in images:
        metric.update(prediction, target)
    return metric


class TestMetric:
    images = random_images(31)

    def test_equals_the_function(self):
        predictions, targets = zip(*self.images, strict=True)
        batched = PanopticQuality(CATEGORIES)
        batched.update(predictions[:10], targets[:10])
        batched.update(predictions[10:], targets[10:])
        expected = panoptic_quality(predictions, targets, CATEGORIES)
        assert 0 < expected.all.pq < 1
        assert batched.compute() == metric_over(self.images).compute() == expected

    def test_equals_brute_force_averages(self, slow_pq):
        tallies = {label: [0, 0, 0, Fraction(0)] for label in range(NUM)}
        for prediction, target in self.images:
            one = slow_pq(target.ids.numpy(), infos(target), prediction.ids.numpy(), infos(prediction))
            for label, part in one.items():
                values = (part.tp, part.fp, part.fn, part.iou)
                tallies[label] = [a + b for a, b in zip(tallies[label], values, strict=True)]
        result = metric_over(self.images).compute()
        pq = {k: float(iou / (tp + Fraction(fp + fn, 2))) for k, (tp, fp, fn, iou) in tallies.items()}
        assert result.all.pq == pytest.approx(sum(pq.values()) / NUM, abs=1e-12)
        assert result.things.pq == pytest.approx((pq[0] + pq[1]) / 2, abs=1e-12)
        assert result.stuff.pq == pytest.approx((pq[2] + pq[3]) / 2, abs=1e-12)
        sq = [float(iou / tp) for tp, _, _, iou in tallies.values()]
        assert result.all.sq == pytest.approx(sum(sq) / NUM, abs=1e-12)

    def test_any_order_and_any_split_give_the_same_bits(self):
        expected = metric_over(self.images).compute()
        rng = np.random.default_rng(3)
        for _ in range(5):
            shuffled = [self.images[k] for k in rng.permutation(len(self.images))]
            parts = [shuffled[:4], shuffled[4:5], shuffled[5:5], shuffled[5:]]
            for order in itertools.islice(itertools.permutations(parts), 0, None, 7):
                total = metric_over(order[0])
                for part in order[1:]:
                    total.merge_state(metric_over(part))
                assert total.compute() == expected

    def test_forward_and_reset(self):
        metric = PanopticQuality(CATEGORIES)
        one = metric(*self.images[0])
        assert one == metric_over(self.images[:1]).compute()
        metric(*self.images[1])
        assert metric.compute() == metric_over(self.images[:2]).compute()
        metric.reset()
        assert metric.compute().all.n == 0

    def test_as_dict_has_the_official_layout(self):
        result = metric_over(self.images).compute()
        content = result.as_dict()
        assert list(content) == ["All", "Things", "Stuff", "per_class"]
        assert content["Things"] == {
            "pq": result.things.pq, "sq": result.things.sq, "rq": result.things.rq, "n": 2
        }  # fmt: skip
        assert list(content["per_class"]) == ["10", "20", "30", "40"]
        assert content["per_class"]["30"]["pq"] == result.per_class[2].pq
        assert result.flat()["SQ_st"] == result.stuff.sq

    @pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="needs fork, spawn would import torch again")
    def test_two_processes_with_uneven_shares(self, tmp_path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.start_processes(_rank, args=(port, str(tmp_path)), nprocs=2, start_method="fork")
        expected = tuple(metric_over(self.images).compute())
        assert [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)] == [expected] * 2


def _rank(rank, port, folder):
    torch.set_num_threads(1)  # a forked child has none of its parent's OpenMP threads
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = metric_over(random_images(31)[rank::2])  # 16 and 15 images
    torch.save(tuple(metric.compute()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
