from __future__ import annotations

import itertools
import socket
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from helpers.pq_maps import NUM, infos
from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.core import IOU_UNIT
from panoptic_occ.metrics.pq.metric import PanopticQuality, panoptic_counts, panoptic_quality
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

CATEGORIES = Categories.from_json([{"id": 10 * k + 10, "name": f"class{k}", "isthing": int(k < 2)} for k in range(NUM)])


def panoptic(rows, labels, crowd=(), areas=None):
    """A map from nested lists; ``labels``: id -> label.  Areas are counted unless given."""
    ids = torch.tensor(rows, dtype=torch.int32)
    count = {i: int((ids == i).sum()) for i in labels} | (areas or {})
    return PanopticMap(ids, tuple(Segment(i, k, k < 2, count[i], i in crowd) for i, k in labels.items()))


def tally(prediction, target, label=0):
    counts = panoptic_counts(prediction, target, NUM)
    return counts.tp[label], counts.fp[label], counts.fn[label], counts.iou[label] / IOU_UNIT


class TestOracles:
    """Hand-computed cases; one row of pixels each."""

    def test_iou_of_one_half_is_no_match(self):
        target = panoptic([[1, 1, 1, 1]], {1: 0})
        assert tally(panoptic([[7, 7, 0, 0]], {7: 0}), target) == (0, 1, 1, 0)
        assert tally(panoptic([[7, 7, 7, 0]], {7: 0}), target) == (1, 0, 0, 0.75)

    def test_void_leaves_the_union(self):
        target = panoptic([[1, 1, 1, 1, 0, 0, 0, 0]], {1: 0})
        assert tally(panoptic([[7] * 8], {7: 0}), target) == (1, 0, 0, 1.0)

    @pytest.mark.parametrize(("row", "fp"), [([1, 0, 0, 0], 0), ([1, 1, 0, 0], 1)])
    def test_unmatched_prediction_mostly_on_void_is_ignored(self, row, fp):
        assert tally(panoptic([[7] * 4], {7: 0}), panoptic([row], {1: 1})) == (0, fp, 0, 0)

    def test_crowd_of_the_category_forgives_but_stays_in_the_union(self):
        target = panoptic([[1, 1, 1, 2, 2, 2, 2]], {1: 0, 2: 0}, crowd={2})
        prediction = panoptic([[0, 0, 0, 7, 7, 7, 7]], {7: 0})
        assert tally(prediction, target) == (0, 0, 1, 0)
        assert tally(panoptic([[0, 0, 0, 7, 7, 7, 7]], {7: 1}), target, label=1) == (0, 1, 0, 0)
        # 3 px on the segment, 2 on the crowd: union 5, as if the crowd were anything else
        assert tally(panoptic([[7, 7, 7, 7, 7, 0, 0]], {7: 0}), target) == (1, 0, 0, pytest.approx(0.6))

    def test_crowd_is_never_missed(self):
        target = panoptic([[2, 2, 2, 2]], {2: 0}, crowd={2})
        assert tally(panoptic([[0] * 4], {}), target) == (0, 0, 0, 0)

    def test_only_the_last_crowd_of_a_category_forgives(self):
        first_crowd = panoptic([[1, 1, 1, 0, 2]], {1: 0, 2: 0}, crowd={1, 2})
        prediction = panoptic([[7, 7, 7, 0, 0]], {7: 0})
        assert tally(prediction, first_crowd) == (0, 1, 0, 0)
        last_crowd = replace(first_crowd, segments=first_crowd.segments[::-1])
        assert tally(prediction, last_crowd) == (0, 0, 0, 0)

    def test_pq_of_a_true_positive_and_errors(self):
        target = panoptic([[1, 1, 1, 1, 1, 2, 3, 3]], {1: 0, 2: 0, 3: 1})
        missed = panoptic([[7, 7, 7, 7, 0, 0, 9, 9]], {7: 0, 9: 1})
        assert panoptic_quality([missed], [target], CATEGORIES).per_class[0].pq == pytest.approx(0.8 / 1.5)
        wrong_too = panoptic([[7, 7, 7, 7, 0, 0, 9, 8]], {7: 0, 9: 1, 8: 0})
        scores = panoptic_quality([wrong_too], [target], CATEGORIES).per_class[0]
        assert scores.pq == pytest.approx(0.8 / 2)
        assert (scores.sq, scores.rq) == (pytest.approx(0.8), pytest.approx(0.5))

    def test_missed_as_void_or_as_another_class(self):
        target = panoptic([[1, 1]], {1: 0})
        as_void = panoptic_quality([panoptic([[0, 0]], {})], [target], CATEGORIES)
        assert [(c.tp, c.fp, c.fn) for c in as_void.per_class] == [(0, 0, 1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
        as_other = panoptic_quality([panoptic([[5, 5]], {5: 1})], [target], CATEGORIES)
        assert [(c.tp, c.fp, c.fn) for c in as_other.per_class] == [(0, 0, 1), (0, 1, 0), (0, 0, 0), (0, 0, 0)]

    def test_absent_categories_are_excluded_and_invented_ones_count(self):
        target = panoptic([[1, 1, 0, 2]], {1: 0, 2: 2})
        perfect = panoptic_quality([target], [target], CATEGORIES)
        assert (perfect.all, perfect.things, perfect.stuff) == ((1, 1, 1, 2), (1, 1, 1, 1), (1, 1, 1, 1))
        target = panoptic([[1, 1, 2, 2]], {1: 0, 2: 2})
        invented = panoptic_quality([panoptic([[1, 1, 3, 3]], {1: 0, 3: 1})], [target], CATEGORIES)
        assert invented.all == pytest.approx((1 / 3, 1 / 3, 1 / 3, 3))
        assert invented.things == (0.5, 0.5, 0.5, 2)
        assert invented.stuff == (0, 0, 0, 1)

    def test_nothing_at_all_is_zero_over_zero_classes(self):
        result = PanopticQuality(CATEGORIES).compute()
        assert result.all == result.things == result.stuff == (0, 0, 0, 0)

    def test_area_of_the_annotation_is_trusted(self):
        target = panoptic([[1, 1, 1, 1]], {1: 0}, areas={1: 5})
        assert tally(panoptic([[7, 7, 7, 7]], {7: 0}), target) == (1, 0, 0, pytest.approx(0.8))
        too_small = panoptic([[1, 1, 1, 1]], {1: 0}, areas={1: 1})
        assert tally(panoptic([[7, 7, 7, 0]], {7: 0}), too_small) == (1, 0, 0, 3.0)

    def test_ids_missing_in_the_annotation_are_not_void(self):
        target = panoptic([[1, 1, 9, 9]], {1: 0})
        assert tally(panoptic([[7] * 4], {7: 0}), target) == (0, 1, 1, 0)


class TestErrors:
    target = panoptic([[1, 1]], {1: 0})

    @pytest.mark.parametrize(
        ("prediction", "words"),
        [
            (PanopticMap(torch.tensor([[3, 4]]), (Segment(3, 0, True, 1),)), "photo.*ids 4.*listed: 3"),
            (panoptic([[3, 3]], {3: 0, 6: 0}), "photo.*segments 6 have no pixel"),
            (panoptic([[3, 3]], {3: NUM}), "photo.*predicted segment 3.*label 4; allowed: 0 .. 3"),
            (panoptic([[3, 3]], {3: -1}), "photo.*predicted segment 3.*label -1"),
            (panoptic([[3, 3, 3]], {3: 0}), r"photo.*\(1, 3\).*\(1, 2\)"),
        ],
    )
    def test_contradictions(self, prediction, words):
        with pytest.raises(DataError, match=words):
            panoptic_counts(prediction, self.target, NUM, source="photo")

    def test_unknown_category_of_the_ground_truth(self):
        with pytest.raises(DataError, match=r"ground-truth segment 1.*label 9"):
            panoptic_counts(panoptic([[0, 0]], {}), panoptic([[1, 1]], {1: 9}), NUM)

    def test_area_that_empties_the_union(self):
        with pytest.raises(DataError, match="segment 1 has area 0"):
            panoptic_counts(panoptic([[3, 3]], {3: 0}), panoptic([[1, 1]], {1: 0}, areas={1: 0}), NUM)

    def test_a_faulty_batch_leaves_the_metric_as_it_was(self):
        metric = PanopticQuality(CATEGORIES)
        with pytest.raises(DataError, match="bad one"):
            metric.update([self.target, panoptic([[3, 3]], {})], [self.target] * 2, ["good one", "bad one"])
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
            pair.append(panoptic(ids.tolist(), {i: (i * 7) % NUM for i in present}))
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
