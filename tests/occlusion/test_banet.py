"""BANet's occlusion handling: the oracles B1 to B4, and a literal version over dense maps on random pictures."""

import re

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from panoptic_occ.errors import ConfigError
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.masks import MaskCrops, PairStats, meetings
from panoptic_occ.metrics.relation_accuracy import relation_counts
from panoptic_occ.occlusion.banet import AppearanceOrder, answers, common_colors, mean_colors
from panoptic_occ.occlusion.suppression import duplicates
from panoptic_occ.structures import Context, GroundTruthRelation, InstanceSet
from panoptic_occ.testing import toy_categories

COMMON = {"in_channels": 4, "categories": toy_categories()}
BANET = FusionPolicy(conf_thr=0.6, max_occluded=0.5)
NO_DROP = FusionPolicy(conf_thr=0.6)
RED, GREEN, BLUE, BLACK = (200, 0, 0), (0, 150, 0), (0, 0, 90), (0, 0, 0)
RESOLVES = ("order", "sequential", "atoms")
A, B, C = 0, 1, 2


def boxes_of(masks):
    windows = MaskCrops.from_dense(masks).windows
    top, left, height, width = windows.unbind(dim=1)
    return torch.stack([left, top, left + width, top + height], dim=1).float()


def detections(masks, scores=None, labels=None):
    n = len(masks)
    scores = torch.linspace(0.9, 0.7, n) if scores is None else torch.tensor(scores, dtype=torch.float32)
    labels = torch.arange(n) if labels is None else torch.tensor(labels)
    return InstanceSet(MaskCrops.from_dense(masks), boxes_of(masks), scores, labels)


def ask(image, instances, **options):
    stats = PairStats.of(instances.masks)
    return AppearanceOrder(**COMMON, **options)(instances, stats, Context(image=image))


def owners(instances, relation, policy=BANET):
    """The instance of every pixel, -1 where there is none."""
    panoptic = fuse(instances, PairStats.of(instances.masks), relation, None, policy)
    owner = torch.full(panoptic.ids.shape, -1)
    for segment in panoptic.segments:
        owner[panoptic.ids == segment.id] = segment.instance
    return owner


def areas(instances, relation, policy=BANET):
    owner = owners(instances, relation, policy)
    return [int((owner == i).sum()) for i in range(len(instances))]


def strip(width, *pixels):
    masks = torch.zeros((len(pixels), 1, width), dtype=torch.bool)
    for mask, chosen in zip(masks, pixels, strict=True):
        mask[0, list(chosen)] = True
    return masks


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

    @pytest.mark.parametrize("top", [A, B, C])
    def test_b2_the_pair_without_the_best_object_is_set_aside(self, top):
        scores = [0.8, 0.8, 0.8]  # the other two tie
        scores[top] = 0.9
        image, instances = ring(scores)
        relation = ask(image, instances)
        others = [i for i in (A, B, C) if i != top]
        assert not relation.valid[others[0], others[1]]
        assert int(relation.valid.sum()) == 4

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
        masks = strip(6, range(4), range(2, 6))
        instances = detections(masks)
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
        scores, asked = [0.9, 0.9, 0.8, 0.7, 0.7], torch.zeros((5, 5), dtype=torch.bool)
        margin = torch.zeros((5, 5))
        for i, j in ((0, 4), (0, 3), (1, 2), (2, 3)):
            asked[i, j] = asked[j, i] = True
        margin[3, 0], margin[0, 3] = 0.1, -0.1
        assert answers(margin, asked, scores, [0, 1, 2, 3, 4]) == [(1, 2), (3, 0), (0, 4), (2, 3)]
        assert answers(margin, asked, scores, [1, 0, 2, 4, 3]) == [(1, 2), (0, 4), (3, 0), (2, 3)]


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
        own = torch.tensor([200.0, 0, 90]) / (200**2 + 90**2) ** 0.5  # px 0 and 3
        expected = (plain[B] - own) @ torch.tensor([0.5, 0, 0.5], dtype=torch.float64)
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
        found = duplicates(instances, PairStats.of(instances.masks), "box", 0.5)
        kept = nms(instances.boxes, instances.scores, 0.5).sort().values
        assert (found < 0).nonzero().flatten().tolist() == kept.tolist()
        assert len(kept) < 12
        for i, j in enumerate(found.tolist()):
            assert j < 0 or (found[j] < 0 and instances.scores[j] > instances.scores[i])

    @pytest.mark.parametrize(("threshold", "expected"), [(0.5, [-1, 0, -1]), (0.6, [-1, -1, 1])])
    def test_mask_iou_and_equality(self, threshold, expected):
        """IoU of the masks: 3/5 (A and B), 4/6 (B and C), 2/6; a suppressed instance suppresses nobody."""
        masks = strip(8, range(4), range(1, 5), [])
        masks[C, 0, 1:7] = True
        instances = detections(masks)
        assert duplicates(instances, PairStats.of(instances.masks), "mask", threshold).tolist() == expected

    @pytest.mark.parametrize("resolve", RESOLVES)
    def test_a_suppressed_instance_takes_no_part(self, resolve):
        image = row((6, RED), (4, BLUE))
        masks = strip(10, range(7), range(6), range(6, 10))
        instances = detections(masks)
        panoptic = fuse(instances, PairStats.of(instances.masks), ask(image, instances, resolve=resolve), None, BANET)
        assert [(r.status, r.final) for r in panoptic.records] == [("kept", 6), ("duplicate", 0), ("kept", 4)]
        assert panoptic.records[1].blocker == 0
        relation = ask(image, instances, resolve=resolve)
        alone = ask(image, instances[[0, 2]], resolve=resolve)
        assert relation.order.tolist()[-1] == 1 and not relation.valid[1].any()
        assert torch.equal(relation.margin[[0, 2]][:, [0, 2]], alone.margin)
        everybody = ask(image, instances, resolve=resolve, nms="none")
        assert (everybody.duplicate_of == -1).all() and everybody.valid[0, 1]


def random_masks(rng, n, size=(9, 11)):
    masks = np.zeros((n, *size), dtype=bool)
    for mask in masks:
        top, left = (int(rng.integers(0, side - 3)) for side in size)
        height, width = (int(rng.integers(3, side)) for side in size)
        mask[top : top + height, left : left + width] = True
        mask &= rng.random(size) < 0.95
    return torch.from_numpy(masks)


def picture(seed, n=10):
    """Patches of random colours that say nothing about the masks, so that answers often contradict each other."""
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, n)
    patches = rng.integers(0, 256, (3, 5, 6)).repeat(2, axis=1).repeat(2, axis=2)[:, : masks.shape[1], : masks.shape[2]]
    image = np.where(rng.random(masks.shape[1:]) < 0.05, 0, patches)
    instances = detections(masks, 0.65 + rng.permutation(n) / 40)
    return torch.from_numpy(image.astype(np.uint8)), instances


def literal(image, instances, resolve, setaside, uncontested, drop, sig_ratio=0.2):
    """Section 3.3 and the rules of 4.3 over dense maps, pair by pair; also the number of pairs set aside."""
    image = image.numpy().astype(float).transpose(1, 2, 0)
    masks, scores = instances.masks.dense().numpy(), instances.scores.tolist()
    n = len(masks)
    length = np.linalg.norm(image, axis=2, keepdims=True)
    unit = np.divide(image, length, out=np.zeros_like(image), where=length > 0)
    nu = []
    for i in range(n):
        own = masks[i] & (masks.sum(axis=0) == 1)
        mean = image[own if uncontested and own.any() else masks[i]].mean(axis=0)
        nu.append(mean / np.linalg.norm(mean))

    def similarity(i, region):
        return float(np.mean([unit[x] @ nu[i] for x in zip(*np.nonzero(region), strict=True)]))

    def weak(i, j):
        common = (masks[i] & masks[j]).sum()
        return not (common / masks[i].sum() > sig_ratio or common / masks[j].sum() > sig_ratio)

    def path(edges, start, end):
        return start == end or any(path(edges, below, end) for above, below in edges if above == start)

    by_score = sorted(range(n), key=lambda i: -scores[i])
    left = [mask.copy() for mask in masks]
    if resolve == "atoms":
        for i in by_score:
            for j in by_score[by_score.index(i) + 1 :]:
                if weak(i, j):
                    left[j] &= ~left[i]
        claimants = {x: frozenset(i for i in range(n) if left[i][x]) for x in np.ndindex(masks.shape[1:])}
        for atom in set(claimants.values()):
            region = np.zeros(masks.shape[1:], dtype=bool)
            for x, claimed_by in claimants.items():
                region[x] = claimed_by == atom
            for i in sorted(atom, key=lambda i: (round(similarity(i, region), 9), scores[i]))[:-1]:
                left[i] &= ~region
    pairs = []
    for i in range(n):
        for j in range(i):
            common = masks[i] & masks[j]
            if common.any() and not weak(i, j):
                high, low = max(scores[i], scores[j]), min(scores[i], scores[j])
                likeness = {k: (round(similarity(k, common), 9), scores[k]) for k in (i, j)}
                pairs.append((-high, -low, (i, j) if likeness[i] > likeness[j] else (j, i)))
    edges, aside = [], []
    for *_, (winner, loser) in sorted(pairs):
        contradicts = path(edges, loser, winner)
        if contradicts:
            aside.append((winner, loser))
        else:
            edges.append((winner, loser))
        if resolve == "sequential" and (not contradicts or setaside == "keep"):
            left[loser] &= ~left[winner]
    if resolve != "order":
        owner = np.full(masks.shape[1:], -1)
        for i in reversed(by_score):
            owner[left[i]] = i
        for i in range(n):
            if drop and (owner == i).sum() / masks[i].sum() < 0.5:
                owner[owner == i] = -2
        return np.where(owner == -2, -1, owner), len(aside)
    order = []
    while len(order) < n:
        free = (i for i in by_score if i not in order)
        order.append(next(i for i in free if all(above in order for above, below in edges if below == i)))
    owner = np.full(masks.shape[1:], -1)
    for i in order:
        take = masks[i] & (owner == -1)
        for winner, loser in aside:
            if setaside == "score" and winner == i and scores[winner] > scores[loser]:
                take |= masks[i] & (owner == loser)
        if take.any() and not (drop and take.sum() / masks[i].sum() < 0.5):
            owner[take] = i
    return owner, len(aside)


VARIANTS = [
    ("order", "transitive"),
    ("order", "score"),
    ("sequential", "score"),
    ("sequential", "keep"),
    ("atoms", "keep"),
]


@pytest.mark.parametrize(("resolve", "setaside"), VARIANTS)
@pytest.mark.parametrize("mean", ["mask", "uncontested"])
def test_maps_equal_the_literal_version(resolve, setaside, mean):
    set_aside = 0
    for seed in range(12):
        image, instances = picture(seed)
        relation = ask(image, instances, resolve=resolve, setaside=setaside, mean=mean, nms="none")
        for policy, drop in ((BANET, True), (NO_DROP, False)):
            expected, aside = literal(image, instances, resolve, setaside, mean == "uncontested", drop)
            assert np.array_equal(owners(instances, relation, policy).numpy(), expected), seed
        set_aside += aside
        if relation.claims is not None:
            dense = relation.claims.dense()
            assert int(dense.sum(dim=0).max()) == 1
            assert torch.equal(dense.any(dim=0), instances.masks.dense().any(dim=0))
    assert set_aside > 20


@pytest.mark.parametrize(("resolve", "setaside"), VARIANTS[:4])
def test_the_relation_says_what_the_map_shows(resolve, setaside):
    """Of every pair, the instance that the relation accuracy takes for the front one owns what only the two claim."""
    checked = 0
    for seed in range(12):
        image, instances = picture(seed, n=4)
        relation = ask(image, instances, resolve=resolve, setaside=setaside, nms="none")
        owner, masks = owners(instances, relation, NO_DROP), instances.masks.dense()
        for i in range(4):
            for j in range(i):
                only = masks[i] & masks[j] & (masks.sum(dim=0) == 2)
                if not only.any():
                    continue
                front = owner[only].unique()
                assert len(front) == 1
                one, other = torch.zeros(4, 4, dtype=torch.int64), torch.full((4,), 100)
                one[int(front), i + j - int(front)] = 1
                truth = GroundTruthRelation(other, other, 50 * (one + one.T), one)
                stats = PairStats.of(instances.masks)
                counts = relation_counts(instances, stats, relation, torch.arange(4), truth, 0.2)
                assert (counts.pairs, counts.correct) == (1, 1), (seed, i, j)
                checked += 1
    assert checked > 20


def test_the_order_leaves_no_contradiction():
    for seed in range(12):
        image, instances = picture(seed)
        relation = ask(image, instances, nms="none")
        painted = relation.above()[relation.order][:, relation.order]
        assert painted.any() and not painted.tril().any()  # nobody lies above an instance that is painted earlier


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolve": "sequentail"}, "occlusion.resolve='sequentail' is unknown; did you mean 'sequential'?"),
        ({"mean": "median"}, "occlusion.mean='median' is unknown; allowed: mask, uncontested"),
        ({"nms": "boxes"}, "occlusion.nms='boxes' is unknown; did you mean 'box'?"),
        ({"nms_thr": 50}, "occlusion.nms_thr=50: must be an IoU between 0 and 1"),
        ({"setaside": "keep"}, "occlusion.setaside='keep' does not go with resolve=order; allowed: null, score, trans"),
        ({"resolve": "atoms", "setaside": "score"}, "occlusion.setaside='score' does not go with resolve=atoms"),
    ],
)
def test_choices_that_do_not_exist_or_do_not_go_together(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        AppearanceOrder(**COMMON, **options)


@pytest.mark.parametrize("image", [None, torch.zeros((3, 2, 4), dtype=torch.uint8)])
def test_the_image_must_have_the_size_of_the_masks(image):
    with pytest.raises(ValueError, match=r"needs context.image of shape \(3, 1, 4\), got"):
        ask(image, two_colors()[1])


@pytest.mark.parametrize("seed", range(20))
def test_common_colors_against_a_visit_to_every_pixel(seed):
    """Random masks with holes, of one pixel and of whole rows, at the border of the picture and inside."""
    rng = np.random.default_rng(seed)
    n, height, width = int(rng.integers(0, 7)), int(rng.integers(1, 12)), int(rng.integers(1, 12))
    dense = np.zeros((n, height, width), dtype=bool)
    for mask in dense:
        top, left = rng.integers(height), rng.integers(width)
        part = mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)]
        part[:] = rng.random(part.shape) < rng.choice([0.3, 0.8, 1.0])
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    image[:, rng.random((height, width)) < 0.2] = 0
    masks = MaskCrops.from_dense(torch.from_numpy(dense))
    common = torch.from_numpy((dense[:, None] & dense[None]).any(axis=(2, 3))).triu(diagonal=1)
    found = meetings(masks, masks, common)
    colors = common_colors(torch.from_numpy(image), masks, found)
    assert colors.shape == (int(common.sum()), 3)
    for color, i, j in zip(colors.numpy(), found.first, found.second, strict=True):
        units = []
        for y, x in np.argwhere(dense[i] & dense[j]):
            rgb = image[:, y, x].astype(np.float64)
            units.append(rgb / np.linalg.norm(rgb) if rgb.any() else rgb)
        assert np.abs(color - np.mean(units, axis=0)).max() < 1e-12
