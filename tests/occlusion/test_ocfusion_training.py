"""Which pairs train the pairwise head, with which targets, and that it learns."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.relations import COMMON, generator, overfit
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.heads.roi_head import roi_inputs
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_example


def training_pairs(example, sig_ratio, limit, source, rule="majority"):
    model = OCFusion(sig_ratio=sig_ratio, pairs_per_image=limit, gt_rule=rule, **COMMON)
    return model.training_pairs(example, source)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OCFusion(**COMMON)


class TestTraining:
    def test_pairs_against_a_literal_enumeration(self):
        for seed in range(8):
            example = toy_example(6, seed)
            known = example.target.relation.matrix(0.2)
            expected = {}
            area, inter = example.stats.area.tolist(), example.stats.inter.tolist()
            for a in range(12):
                for b in range(12):
                    order = int(known[example.matches[a], example.matches[b]])
                    share = inter[a][b] / min(area[a], area[b])
                    if example.matches[a] != example.matches[b] and share >= 0.2 and order >= 0:
                        expected[a, b] = order
            pairs, targets = training_pairs(example, 0.2, 1000, generator())
            found = dict(zip(map(tuple, pairs.tolist()), targets.tolist(), strict=True))
            assert found == expected and len(pairs) == len(expected) > 0

    def test_o9_both_directions_with_opposite_targets(self):
        pairs, targets = training_pairs(toy_example(6), 0.2, 1000, generator())
        half = len(pairs) // 2
        assert torch.equal(pairs[:half].flip(1), pairs[half:])
        assert torch.equal(targets[:half] + targets[half:], torch.ones(half))

    def test_predicted_masks_must_overlap_as_much_as_the_annotations(self):
        example = toy_example(6)
        area, inter = example.stats.area, example.stats.inter
        apart = replace(example)
        apart.__dict__["stats"] = PairStats(area, inter // 8)  # no predicted pair shares 0.2 any more
        assert len(training_pairs(example, 0.2, 1000, generator())[0]) > 0
        assert len(training_pairs(apart, 0.2, 1000, generator())[0]) == 0
        assert len(training_pairs(apart, 0.02, 1000, generator())[0]) > 0

    def test_targets_know_who_is_in_front(self):
        """Annotation k of the toy target lies behind annotation k + 1."""
        example = toy_example(6)
        pairs, targets = training_pairs(example, 0.2, 1000, generator())
        front = example.matches[pairs[:, 0]] > example.matches[pairs[:, 1]]
        assert torch.equal(front.float(), targets)

    def test_delta_rule_teaches_who_lost_fewer_pixels(self):
        """With annotation k losing k pixels, k lies in front of k + 1: the opposite of who owns the common pixels."""
        example = toy_example(6)
        relation = example.target.relation
        relation = replace(relation, pan_area=relation.area - torch.arange(6))
        example = replace(example, target=replace(example.target, relation=relation))
        found = {}
        for rule in ("majority", "delta"):
            pairs, targets = training_pairs(example, 0.2, 1000, generator(), rule)
            found[rule] = dict(zip(map(tuple, pairs.tolist()), targets.tolist(), strict=True))
        assert found["majority"] and found["majority"].keys() < found["delta"].keys()  # nobody may own common pixels
        assert all(found["delta"][pair] == 1 - above for pair, above in found["majority"].items())
        torch.manual_seed(0)
        model = OCFusion(**COMMON, gt_rule="delta")
        pairs, targets = training_pairs(example, 0.2, 1000, generator(), "delta")
        logits = model.head(roi_inputs(example.instances), pairs)
        expected = F.binary_cross_entropy_with_logits(logits, targets)
        torch.testing.assert_close(model.loss([example], generator())["loss_occlusion"], expected)
        with pytest.raises(ConfigError, match="gt_rule='detla' is unknown; did you mean 'delta'"):
            OCFusion(**COMMON, gt_rule="detla")

    def test_sampling_is_limited_uniform_and_a_function_of_the_generator(self):
        example = toy_example(6)
        everything = {tuple(pair) for pair in training_pairs(example, 0.2, 1000, generator())[0].tolist()}
        source, counts = generator(), dict.fromkeys(everything, 0)
        for _ in range(400):
            pairs, _ = training_pairs(example, 0.2, 8, source)
            assert len(pairs) == 16 and len(set(map(tuple, pairs.tolist()))) == 16
            for pair in pairs.tolist():
                counts[tuple(pair)] += 1
        expected = 400 * 16 / len(everything)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
        first, second = (training_pairs(example, 0.2, 8, generator())[0] for _ in range(2))
        assert torch.equal(first, second)

    def test_loss_is_the_mean_over_all_pairs_of_the_batch(self, model):
        examples = [toy_example(5), toy_example(1), toy_example(4, seed=1)]
        logits, targets = [], []
        for example in examples:
            pairs, wanted = training_pairs(example, 0.2, 128, generator())
            logits.append(model.head(roi_inputs(example.instances), pairs))
            targets.append(wanted)
        p, y = torch.cat(logits).sigmoid(), torch.cat(targets)
        expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        torch.testing.assert_close(model.loss(examples, generator())["loss_occlusion"], expected, rtol=1e-4, atol=1e-6)

    def test_a_head_that_knows_nothing_has_loss_log_2(self, model):
        torch.nn.init.zeros_(model.head.project.weight)
        loss = model.loss([toy_example(5)], generator())["loss_occlusion"]
        assert loss.item() == pytest.approx(0.693147, abs=1e-6)

    def test_huge_logits_under_reduced_precision_stay_finite(self, model):
        torch.nn.init.constant_(model.head.project.bias, 300.0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss([toy_example(4)], generator())["loss_occlusion"]
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(150, rel=0.01)  # half of the targets are 0

    def test_no_annotation_at_all(self, model):
        loss = model.loss([toy_example(0), toy_example(0)], generator())["loss_occlusion"]
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

    def test_overfits_a_few_images(self, model):
        examples = [toy_example(5, seed) for seed in range(2)]
        assert overfit(model, examples, 40) < 0.05
        for example in examples:
            pairs, targets = training_pairs(example, 0.2, 1000, generator())
            with torch.no_grad():
                answers = model.head(roi_inputs(example.instances), pairs) > 0
            assert torch.equal(answers.float(), targets)
