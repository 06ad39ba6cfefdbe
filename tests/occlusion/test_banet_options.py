"""Two choices that the paper leaves open: the space of BANet's colours, and the turns of pairs of equal score."""

from itertools import pairwise, product

import pytest
import torch

from helpers.appearance import NO_DROP, ask, owners
from helpers.small_images import detections, strip
from panoptic_occ.occlusion.banet import PIXEL_MEAN, PIXEL_STD, normalized, ordered_pairs

HUES = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (150, 150, 0), (0, 150, 150))


def ring(scores):
    """Instances around a strip, each with 4 px of its own and 2 px that it shares with the next one, above which it
    lies by its colour."""
    n, single, common = len(scores), 4, 2
    step = single + common
    masks = strip(n * step, *([x % (n * step) for x in range(i * step - common, (i + 1) * step)] for i in range(n)))
    image = torch.tensor([hue for hue in HUES[:n] for _ in range(step)], dtype=torch.uint8).T[:, None, :]
    return image, detections(masks, scores)


def set_aside(scores, **options):
    """The pairs of a ring of which the answer does not stand, as (above, below)."""
    image, instances = ring(scores)
    relation = ask(image, instances, nms="none", **options)
    n = len(scores)
    assert all(relation.margin[i, (i + 1) % n] > 0 for i in range(n))
    return [(i, (i + 1) % n) for i in range(n) if not relation.valid[i, (i + 1) % n]]


class TestTieBreak:
    def test_the_last_pair_of_a_ring_of_five_is_another_one(self):
        """1 and 2 are next to each other and tie.  Below them (4, 1) has the scores .8 and .6, (2, 3) .8 and .7: by
        the lower score (4, 1) is the last pair of the ring, by rank (2, 3)."""
        places = (0, 4, 1, 2, 3)  # of the ranks around the ring
        scores = [(0.9, 0.8, 0.8, 0.7, 0.6)[rank] for rank in places]
        assert set_aside(scores) == set_aside(scores, tie_break="score") == [(1, 2)]
        assert set_aside(scores, tie_break="index") == [(3, 4)]

    def test_the_map_follows(self):
        """Whose answer does not stand loses the 2 px; the order is all of the ring, cut open at that pair."""
        image, instances = ring([0.9, 0.6, 0.8, 0.8, 0.7])
        for tie_break, last in (("score", 1), ("index", 3)):
            relation = ask(image, instances, nms="none", tie_break=tie_break)
            around = [(last + 1 + k) % 5 for k in range(5)]
            assert relation.order.tolist() == around
            assert all(relation.above()[above, below] for above, below in pairwise(around))
            owner = owners(instances, relation, NO_DROP)[0].tolist()
            expected = [i for i in range(5) for _ in range(6)]
            expected[6 * last + 4 : 6 * last + 6] = 2 * [last + 1]
            assert owner == expected

    @pytest.mark.parametrize("tie_break", ["score", "index"])
    @pytest.mark.parametrize("scores", [*product((0.9, 0.8, 0.7), repeat=3)])
    def test_in_a_ring_of_three_the_pair_without_the_best_one_is_set_aside(self, scores, tie_break):
        top = scores.index(max(scores))  # the first of equal ones is ranked best
        assert set_aside(list(scores), tie_break=tie_break) == [((top + 1) % 3, (top + 2) % 3)]

    def test_index_leaves_the_lower_score_out(self):
        selected = torch.zeros((4, 4), dtype=torch.bool)
        for i, j in ((0, 3), (1, 2), (0, 1)):
            selected[i, j] = selected[j, i] = True
        scores, nothing = [0.9, 0.9, 0.8, 0.7], torch.zeros((4, 4))
        assert ordered_pairs(nothing, selected, scores, [0, 1, 2, 3]) == [(0, 1), (1, 2), (0, 3)]
        assert ordered_pairs(nothing, selected, scores, [0, 1, 2, 3], "index") == [(0, 1), (0, 3), (1, 2)]
        assert ordered_pairs(nothing, selected, scores, [1, 0, 2, 3], "index") == [(1, 0), (1, 2), (0, 3)]


class TestColors:
    def test_no_normalized_color_is_shorter_than_black_may_be(self):
        """``unit_colors`` takes lengths below 1 for black; the integer nearest to the mean is longer than that."""
        nearest = [round(mean) for mean in PIXEL_MEAN]
        image = torch.tensor(nearest, dtype=torch.uint8)[:, None, None]
        lengths = [abs(x - mean) / std for x, mean, std in zip(nearest, PIXEL_MEAN, PIXEL_STD, strict=True)]
        assert min(lengths) > 1
        assert normalized(image).flatten().abs().tolist() == pytest.approx(lengths)
