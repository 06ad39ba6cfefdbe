"""BANet's occlusion handling by hand: the oracles B1 to B4, ties, pairs and suppression."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from helpers.appearance import BANET, NO_DROP, areas, ask, owners, random_masks
from helpers.small_images import detections, fused, strip
from panoptic_occ.occlusion.banet import mean_colors, ordered_pairs
from panoptic_occ.ops.suppression import duplicates
from panoptic_occ.structures.masks import PairStats

RED, GREEN, BLUE, BLACK = (200, 0, 0), (0, 150, 0), (0, 0, 90), (0, 0, 0)
RESOLVES = ("order", "sequential", "atoms")
A, B, C = 0, 1, 2


def row(*colors):
    """An image of one row from (number of pixels, colour)."""
    pixels = [color for count, color in colors for _ in range(count)]
    return torch.tensor(pixels, dtype=torch.uint8).T[:, None, :]


def two_colors():
    """B1: A is red and takes in the first of two blue pixels, which are B."""
    return row((2, RED), (2, (0, 0, 200))), detections(strip(4, range(3), range(2, 4)))


def ring(scores):
    """B2: on a strip of 20 px, A lies above B, B above C and C above A."""
    masks = strip(20, range(8), range(6, 14), [*range(12, 20), 0, 1])
    image = row((2, BLUE), (6, RED), (6, GREEN), (6, BLUE))
    return image, detections(masks, scores)


def heap():
    """B3: the same three answers where all three share 4 px; C is hidden under A but for them and one more."""
    masks = torch.zeros((3, 4, 4), dtype=torch.bool)
    masks[A, :3, :3] = masks[B, 1:, 1:] = masks[C, 1:3, 1:3] = masks[C, 0, 2] = True
    image = torch.zeros((4, 4, 3), dtype=torch.uint8)
    for region, color in (
        (masks[A], (50, 0, 250)),
        (masks[B], (50, 50, 200)),
        (masks[A] & masks[B], (50, 0, 100)),
        (masks[C] & ~masks[B], (200, 50, 0)),
    ):
        image[region] = torch.tensor(color, dtype=torch.uint8)
    return image.permute(2, 0, 1), detections(masks)


class TestOracles:
    @pytest.mark.parametrize("resolve", RESOLVES)
    def test_b1_common_pixels_go_to_the_closer_color(self, resolve):
        image, instances = two_colors()
        relation = ask(image, instances, resolve=resolve)
        assert areas(instances, relation) == [2, 2]
        if resolve == "atoms":
            assert relation.margin[B, A] == 1  # all of the common pixels
        else:
            assert relation.margin[B, A] == pytest.approx(1 - 0.4472, abs=5e-5)

    def test_b1_mean_colors_are_unit_vectors_of_all_pixels(self):
        image, instances = two_colors()
        colors = mean_colors(image, instances.masks, [A, B], torch.tensor([True, True]))
        assert colors.tolist() == [pytest.approx([0.8944, 0, 0.4472], abs=5e-5), [0, 0, 1]]

    @pytest.mark.parametrize(
        ("scores", "options", "expected"),
        [
            ((0.9, 0.8, 0.7), {}, [6, 4, 10]),
            ((0.9, 0.8, 0.7), {"setaside": "transitive"}, [6, 4, 10]),
            ((0.9, 0.8, 0.7), {"setaside": "score"}, [6, 6, 8]),
            ((0.9, 0.8, 0.7), {"resolve": "sequential"}, [6, 6, 8]),
            ((0.9, 0.7, 0.8), {}, [6, 4, 10]),
            ((0.9, 0.7, 0.8), {"resolve": "sequential"}, [6, 4, 10]),
            ((0.9, 0.7, 0.8), {"resolve": "sequential", "setaside": "score"}, [6, 4, 10]),
            ((0.9, 0.7, 0.8), {"resolve": "sequential", "setaside": "keep"}, [6, 6, 8]),
            ((0.9, 0.7, 0.8), {"resolve": "atoms"}, [6, 6, 8]),
        ],
    )
    def test_b2_the_contradicting_pair_is_set_aside(self, scores, options, expected):
        image, instances = ring(scores)
        relation = ask(image, instances, **options)
        assert areas(instances, relation) == expected
        if options.get("resolve") is None:
            assert relation.order.tolist() == [C, A, B]
            by_score = options.get("setaside") == "score" and scores[B] > scores[C]
            assert relation.above().nonzero().tolist() == [[A, B], *([[B, C]] if by_score else []), [C, A]]

    @pytest.mark.parametrize("resolve", ["order", "sequential"])
    def test_b3_an_instance_that_loses_more_than_half_is_removed(self, resolve):
        image, instances = heap()
        relation = ask(image, instances, resolve=resolve, nms="none")
        assert (relation.margin > 0).nonzero().tolist() == [[A, B], [B, C], [C, A]]
        assert areas(instances, relation) == [0, 5, 5]
        assert areas(instances, relation, NO_DROP) == [4, 5, 5]
        if resolve == "order":
            assert relation.order.tolist() == [C, A, B]

    @pytest.mark.parametrize("resolve", RESOLVES)
    @pytest.mark.parametrize("factor", [2, 3])
    def test_b4_brightness_changes_nothing(self, resolve, factor):
        image, instances = heap()
        dark = image // 10
        first, second = (ask(i, instances, resolve=resolve, nms="none") for i in (dark, factor * dark))
        torch.testing.assert_close(first.margin, second.margin, rtol=0, atol=1e-7)
        assert torch.equal(owners(instances, first), owners(instances, second))

    @pytest.mark.parametrize("resolve", RESOLVES)
    def test_b4_black_pixels_count_as_zero(self, resolve):
        instances = detections(strip(6, range(4), range(2, 6)))
        relation = ask(row((2, RED), (1, BLACK), (1, GREEN), (2, GREEN)), instances, resolve=resolve)
        assert areas(instances, relation) == [2, 4]
        if resolve != "atoms":  # half of the 2 common pixels is black
            nu = 150 / (400**2 + 150**2) ** 0.5
            assert relation.margin[B, A] == pytest.approx((1 - nu) / 2)
        black = ask(torch.zeros((3, 1, 6), dtype=torch.uint8), instances, resolve=resolve)
        assert areas(instances, black) == [4, 2]
        if resolve != "atoms":
            assert black.score_decides[A, B]


class TestTies:
    @pytest.mark.parametrize("resolve", RESOLVES)
    @pytest.mark.parametrize(("scores", "expected"), [((0.9, 0.8), [4, 3]), ((0.8, 0.9), [3, 4])])
    def test_equal_similarity_goes_by_score(self, resolve, scores, expected):
        """Three shades of one colour: equal but for rounding."""
        image = row((3, (90, 60, 30)), (1, (60, 40, 20)), (3, (33, 22, 11)))
        instances = detections(strip(7, range(4), range(3, 7)), scores)
        relation = ask(image, instances, resolve=resolve)
        assert areas(instances, relation) == expected
        if resolve != "atoms":
            assert not relation.margin.any()

    def test_pairs_go_by_their_higher_score_then_the_lower_one_then_the_ranking(self):
        """0 and 1 tie for the best score; so do 3 and 4 for the last one."""
        scores, selected = [0.9, 0.9, 0.8, 0.7, 0.7], torch.zeros((5, 5), dtype=torch.bool)
        margin = torch.zeros((5, 5))
        for i, j in ((0, 4), (0, 3), (1, 2), (2, 3)):
            selected[i, j] = selected[j, i] = True
        margin[3, 0], margin[0, 3] = 0.1, -0.1
        assert ordered_pairs(margin, selected, scores, [0, 1, 2, 3, 4]) == [(1, 2), (3, 0), (0, 4), (2, 3)]
        assert ordered_pairs(margin, selected, scores, [1, 0, 2, 4, 3]) == [(1, 2), (0, 4), (3, 0), (2, 3)]


class TestPairs:
    def test_exactly_the_threshold_is_a_weak_overlap(self):
        image = row((4, RED), (5, GREEN))
        instances = detections(strip(9, range(5), range(4, 9)))
        assert areas(instances, ask(image, instances)) == [5, 4]
        relation = ask(image, instances, sig_ratio=0.19)
        assert areas(instances, relation) == [4, 5]

    def test_a_directional_share_is_that_of_the_lower_score(self):
        """2 common pixels are 1/2 of A and 1/5 of B."""
        image, masks = row((2, RED), (10, GREEN)), strip(12, range(4), range(2, 12))
        for scores, expected in (((0.9, 0.8), [4, 8]), ((0.8, 0.9), [2, 10])):
            instances = detections(masks, scores)
            relation = ask(image, instances, significance="directional")
            assert areas(instances, relation) == expected
            assert torch.equal(relation.valid, relation.valid.T)

    @pytest.mark.parametrize("resolve", RESOLVES)
    def test_class_switches(self, resolve):
        image, instances = two_colors()
        assert areas(instances, ask(image, instances, resolve=resolve, inter=False)) == [3, 1]
        assert areas(instances, ask(image, instances, resolve=resolve, intra=False)) == [2, 2]

    def test_mean_of_uncontested_pixels(self):
        image, instances = two_colors()
        assert ask(image, instances, mean="uncontested").margin[B, A] == 1

    def test_mean_of_a_mask_that_is_contested_everywhere(self):
        image = row((2, RED), (2, BLUE))
        instances = detections(strip(4, range(4), range(1, 3)))
        relation = ask(image, instances, mean="uncontested")
        plain = mean_colors(image, instances.masks, [A, B], torch.tensor([True, True]))
        uncontested = torch.tensor([200.0, 0, 90]) / (200**2 + 90**2) ** 0.5  # px 0 and 3
        expected = (plain[B] - uncontested) @ torch.tensor([0.5, 0, 0.5], dtype=torch.float64)
        assert relation.margin[B, A] == pytest.approx(float(expected), abs=1e-6)


class TestNoPairs:
    @pytest.mark.parametrize("resolve", RESOLVES)
    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_disjoint_masks_keep_all_their_pixels(self, resolve, count):
        masks = strip(12, *(range(4 * k, 4 * k + 4) for k in range(count)))
        instances = detections(masks)
        relation = ask(row((12, RED)), instances, resolve=resolve)
        assert not relation.valid.any()
        assert relation.order.tolist() == list(range(count)) and relation.order.dtype == torch.int64
        assert areas(instances, relation) == [4] * count
        if resolve == "order":
            assert relation.claims is None
        else:
            assert torch.equal(relation.claims.dense(), masks)


class TestSuppression:
    @pytest.mark.parametrize("seed", range(10))
    def test_boxes_as_torchvision_does(self, seed):
        rng = np.random.default_rng(seed)
        masks = random_masks(rng, 12)
        instances = detections(masks, rng.permutation(12) / 20 + 0.3)
        repeats = duplicates(instances, PairStats.of(instances.masks), "box", 0.5)
        kept = nms(instances.boxes, instances.scores, 0.5).sort().values
        assert (repeats < 0).nonzero().flatten().tolist() == kept.tolist()
        assert len(kept) < 12
        for i, j in enumerate(repeats.tolist()):
            assert j < 0 or (repeats[j] < 0 and instances.scores[j] > instances.scores[i])

    @pytest.mark.parametrize(("threshold", "expected"), [(0.5, [-1, 0, -1]), (0.6, [-1, -1, 1])])
    def test_mask_iou_and_equality(self, threshold, expected):
        """IoU of the masks: 3/5 (A and B), 4/6 (B and C), 2/6; a suppressed instance suppresses nobody."""
        instances = detections(strip(8, range(4), range(1, 5), range(1, 7)))
        assert duplicates(instances, PairStats.of(instances.masks), "mask", threshold).tolist() == expected

    @pytest.mark.parametrize("resolve", RESOLVES)
    def test_a_suppressed_instance_takes_no_part(self, resolve):
        image, instances = row((6, RED), (4, BLUE)), detections(strip(10, range(7), range(6), range(6, 10)))
        relation = ask(image, instances, resolve=resolve)
        panoptic = fused(instances, relation, BANET)
        assert [(r.status, r.final) for r in panoptic.records] == [("kept", 6), ("duplicate", 0), ("kept", 4)]
        assert panoptic.records[1].blocker == 0
        alone = ask(image, instances[[0, 2]], resolve=resolve)
        assert relation.order.tolist()[-1] == 1 and not relation.valid[1].any()
        assert torch.equal(relation.margin[[0, 2]][:, [0, 2]], alone.margin)
        everybody = ask(image, instances, resolve=resolve, nms="none")
        assert (everybody.duplicate_of == -1).all() and everybody.valid[0, 1]


@pytest.mark.parametrize("image", [None, torch.zeros((3, 2, 4), dtype=torch.uint8)])
def test_the_image_must_have_the_size_of_the_masks(image):
    with pytest.raises(ValueError, match=r"needs context.image of shape \(3, 1, 4\), got"):
        ask(image, two_colors()[1])
