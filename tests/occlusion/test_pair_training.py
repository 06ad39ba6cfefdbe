"""Which pairs train OCFusion and REFINE, with which targets, and that both learn."""

from dataclasses import replace

import pytest
import torch

from helpers.toy_orders import built, generator, overfit
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.refine import SoftOcclusion
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_example

ORDERS = (OCFusion, SoftOcclusion)


def training_pairs(example, source=None, **options):
    model = built(OCFusion, **{"pairs_per_image": 1000, **options})
    return model.training_pairs(example, source or generator())


def by_pair(pairs, targets):
    return dict(zip(map(tuple, pairs.tolist()), targets.tolist(), strict=True))


def losing(example):
    """Annotation k loses k pixels, so by the delta rule k lies in front of k + 1: the opposite of the majority."""
    relation = example.target.relation
    relation = replace(relation, pan_area=relation.area - torch.arange(len(relation)))
    return replace(example, target=replace(example.target, relation=relation))


@pytest.mark.parametrize("rule", ["majority", "delta"])
def test_pairs_against_a_literal_enumeration(rule):
    for seed in range(8):
        example = losing(toy_example(6, seed))
        relation = example.target.relation
        significant = PairStats(relation.area, relation.inter).significant(0.2)
        expected = {}
        area, inter = example.stats.area.tolist(), example.stats.inter.tolist()
        for a in range(12):
            for b in range(12):
                first, second = int(example.matches[a]), int(example.matches[b])
                lead = first - second  # annotation k of the toy target lies behind k + 1, if anybody owns common pixels
                if rule == "majority" and relation.visible[first, second] == relation.visible[second, first]:
                    lead = 0
                share = inter[a][b] / min(area[a], area[b])
                if lead != 0 and share >= 0.2 and significant[first, second]:
                    expected[a, b] = float(lead > 0 if rule == "majority" else lead < 0)
        pairs, targets = training_pairs(example, gt_rule=rule)
        assert by_pair(pairs, targets) == expected and len(pairs) == len(expected) > 0


def test_o9_both_directions_with_opposite_targets():
    pairs, targets = training_pairs(toy_example(6))
    half = len(pairs) // 2
    assert torch.equal(pairs[:half].flip(1), pairs[half:])
    assert torch.equal(targets[:half] + targets[half:], torch.ones(half))


def test_predicted_masks_must_overlap_as_much_as_the_annotations():
    example = toy_example(6)
    apart = replace(example)
    apart.__dict__["stats"] = PairStats(example.stats.area, example.stats.inter // 8)  # no pair shares 0.2 any more
    assert len(training_pairs(example)[0]) > 0
    assert len(training_pairs(apart)[0]) == 0
    assert len(training_pairs(apart, sig_ratio=0.02)[0]) > 0


def test_sampling_is_limited_uniform_and_a_function_of_the_generator():
    example = toy_example(6)
    source, counts = generator(), dict.fromkeys(by_pair(*training_pairs(example)), 0)
    for _ in range(400):
        pairs, _ = training_pairs(example, source, pairs_per_image=8)
        assert len(pairs) == 16 and len(set(map(tuple, pairs.tolist()))) == 16
        for pair in pairs.tolist():
            counts[tuple(pair)] += 1
    expected = 400 * 16 / len(counts)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
    first, second = (training_pairs(example, pairs_per_image=8)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", ["majority", "delta"])
def test_loss_is_the_mean_over_all_pairs_of_the_batch(order, rule):
    model = built(order, gt_rule=rule)
    examples = [losing(example) for example in (toy_example(5), toy_example(1), toy_example(4, seed=1))]
    logits, labels = [], []
    for example in examples:
        pairs, targets = training_pairs(example, gt_rule=rule)
        logits.append(model.logits([example.instances], pairs))
        labels.append(targets)
    p, y = torch.cat(logits).sigmoid(), torch.cat(labels)
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(model.loss(examples, generator())["loss_occlusion"], expected, rtol=1e-4, atol=1e-6)


def test_a_head_that_knows_nothing_has_loss_log_2():
    model = built(OCFusion)
    torch.nn.init.zeros_(model.head.project.weight)
    loss = model.loss([toy_example(5)], generator())["loss_occlusion"]
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_huge_logits_under_reduced_precision_stay_finite():
    model = built(OCFusion)
    torch.nn.init.constant_(model.head.project.bias, 300.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss([toy_example(4)], generator())["loss_occlusion"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(150, rel=0.01)  # half of the targets are 0


@pytest.mark.parametrize(
    ("order", "options"),
    [
        (OCFusion, {}),
        (SoftOcclusion, {"label_prior": "embedding", "sigma": None}),
        (SoftOcclusion, {"label_prior": "table", "sigma": None}),
    ],
)
def test_a_few_images_are_overfitted(order, options):
    model, examples = built(order, **options), [toy_example(5, seed) for seed in range(2)]
    assert overfit(model, examples, 40) < 0.05
    for example in examples:
        pairs, targets = training_pairs(example)
        with torch.no_grad():
            assert torch.equal((model.logits([example.instances], pairs) > 0).float(), targets)
