"""RAP: the head of code and paper, the relation of its values, and the ranking loss."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.toy_orders import COMMON, O7, built, generator, overfit, scene
from panoptic_occ.occlusion.heads.roi_head import roi_inputs
from panoptic_occ.occlusion.rap import RAP, ranking_losses
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_categories, toy_example


@pytest.fixture
def model():
    return built(RAP)


class TestHead:
    @pytest.mark.parametrize(("fcs", "size"), [(2, 15_209_729), (1, 2_375_169)])
    def test_size_of_the_code_and_of_the_paper(self, fcs, size):
        """15.21 M in the code; the paper's single layer reads the 7x7x256 map itself."""
        with torch.device("meta"):
            head = RAP(in_channels=256, categories=toy_categories(), fcs=fcs).head
        assert sum(p.numel() for p in head.parameters()) == size

    @pytest.mark.parametrize("fcs", [1, 2])
    def test_layers_against_a_literal_forward_pass(self, fcs):
        model = built(RAP, fcs=fcs)
        instances, stats = scene()
        y = torch.cat([F.max_pool2d(instances.soft[:, None], 2), instances.roi_features], dim=1)
        convs = [layer for layer in model.head.modules() if isinstance(layer, torch.nn.Conv2d)]
        assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(5, 4), (4, 4), (4, 4), (4, 4)]
        for conv, stride in zip(convs, (1, 1, 1, 2), strict=True):
            y = F.conv2d(y, conv.weight, conv.bias, stride=stride, padding=1).clamp(min=0)
        y = y.flatten(1)
        linears = [layer for layer in model.head.modules() if isinstance(layer, torch.nn.Linear)]
        assert len(linears) == fcs
        for linear in linears[:-1]:
            y = (y @ linear.weight.T + linear.bias).clamp(min=0)
        expected = (y @ linears[-1].weight.T + linears[-1].bias)[:, 0]
        torch.testing.assert_close(model.head_outputs(instances, stats)["values"], expected, rtol=1e-4, atol=1e-6)

    def test_initialisation(self):
        head = built(RAP, in_channels=32).head
        assert head.convs[0].weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
        assert head.fcs[0].weight.abs().max().item() == pytest.approx((3 / (32 * 49)) ** 0.5, rel=0.001)
        assert head.value.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))


class TestRelation:
    def test_the_smaller_value_lies_in_front_wherever_masks_overlap(self, model):
        instances, stats = scene()
        values = torch.tensor([0.5, -3.0, 2.0, 2.0, -0.5, 100.0, 0.0])
        relation = model.relate(instances, stats, {"values": values})
        overlap = (stats.inter > 0) & ~torch.eye(7, dtype=torch.bool)
        assert torch.equal(relation.valid, overlap) and (overlap & ~stats.significant(0.2)).any()
        for i, j in overlap.nonzero().tolist():
            assert bool(relation.above()[i, j]) == (values[i] < values[j]).item()
            assert relation.margin[i, j] == values[j] - values[i]
        assert relation.antisymmetric and relation.transitive
        assert torch.equal(relation.value.argsort(), (-values).argsort())  # larger = closer

    def test_a_constant_changes_nothing(self, model):
        instances, stats = scene()
        values = model.head_outputs(instances, stats)["values"]
        first, second = (model.relate(instances, stats, {"values": values + shift}) for shift in (0.0, 7.0))
        assert torch.equal(first.above(), second.above())

    def test_sig_ratio_is_a_setting_of_the_fusion(self):
        instances, stats = scene()
        assert torch.equal(RAP(sig_ratio=0.2, **COMMON)(instances, stats).valid, stats.significant(0.2))


class TestLoss:
    def test_p1_values_of_the_ranking_loss(self):
        """Front minus back: 0, -1, +1, +100."""
        losses = ranking_losses(torch.tensor([0.0, -1.0, 1.0, 100.0]), torch.zeros(4))
        assert losses.tolist() == pytest.approx([0.6931, 0.3133, 1.3133, 100.0], abs=5e-5)

    def test_p8_a_cycle_costs_log_2_at_least(self):
        """A in front of B, B of C, C of A: the minimum lies where all values are equal."""
        values = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss = ranking_losses(values, values.roll(-1)).mean()
        assert loss.item() == pytest.approx(math.log(2))
        loss.backward()
        assert values.grad.abs().max() < 1e-15
        others = torch.randn((500, 3), dtype=torch.float64, generator=generator())
        assert (ranking_losses(others, others.roll(-1, dims=1)).mean(dim=1) > math.log(2)).all()

    def test_mean_over_all_pairs_of_the_batch(self, model):
        """Equation 1, pair by pair: every proposal of an annotation with every proposal of one behind it."""
        examples = [toy_example(5), toy_example(1), toy_example(4, seed=1)]
        terms = []
        for example in examples:
            v = model.head(roi_inputs(example.instances)).tolist()
            known = example.target.relation.matrix(0.2)
            for a, match_a in enumerate(example.matches.tolist()):
                for b, match_b in enumerate(example.matches.tolist()):
                    if known[match_a, match_b] == 1:
                        assert match_a > match_b  # annotation k of the toy target lies behind annotation k + 1
                        terms.append(math.log1p(math.exp(v[a] - v[b])))
        assert len(terms) % 4 == 0 and len(terms) > 20
        loss = model.loss(examples, generator())["loss_occlusion"]
        assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)

    def test_o7_the_rule_of_the_released_script_can_say_the_opposite(self):
        """OCFusion's majority: i above j.  RAP's script: i lost 4 pixels in all, j only 2, so j above i."""
        example = toy_example(2)
        example = replace(example, target=replace(example.target, relation=O7))
        for rule, pair in (("majority", [0, 1]), ("delta", [1, 0])):
            pairs = RAP(gt_rule=rule, **COMMON).training_pairs(example, generator())
            assert example.matches[pairs].unique(dim=0).tolist() == [pair]

    def test_the_masks_need_not_overlap_unless_asked(self):
        example = toy_example(6)
        apart = replace(example)
        apart.__dict__["stats"] = PairStats(example.stats.area, example.stats.inter // 8)
        everything = RAP(**COMMON).training_pairs(example, generator())
        assert torch.equal(RAP(**COMMON).training_pairs(apart, generator()), everything) and len(everything) > 0
        strict = RAP(overlap_filter=True, **COMMON)
        assert torch.equal(strict.training_pairs(example, generator()), everything)  # toy proposals fit exactly
        assert len(strict.training_pairs(apart, generator())) == 0

    def test_limit_of_pairs(self):
        example, model = toy_example(6), RAP(pairs_per_image=5, **COMMON)
        everything = {tuple(pair) for pair in RAP(**COMMON).training_pairs(example, generator()).tolist()}
        first, second = (model.training_pairs(example, generator()) for _ in range(2))
        assert torch.equal(first, second) and len(first) == 5 < len(everything)
        assert {tuple(pair) for pair in first.tolist()} < everything

    def test_every_annotated_pair_may_count_once(self, model):
        """Two annotated pairs, with 4 and with 2 pairs of proposals: the mean of both means."""
        example = toy_example(6)
        pairs = model.training_pairs(example, generator())
        same = (example.matches[pairs] == example.matches[pairs[0]]).all(dim=1)
        chosen = torch.cat([pairs[same], pairs[~same][:1]])
        once = RAP(pair_mean="annotations", **COMMON)
        once.load_state_dict(model.state_dict())
        once.training_pairs = lambda example, generator: chosen  # type: ignore[method-assign]
        front, back = once.head(roi_inputs(example.instances))[chosen].unbind(dim=1)
        terms = (front - back).exp().log1p()
        expected = (terms[:-1].mean() + terms[-1]) / 2
        assert len(chosen) > 3
        torch.testing.assert_close(once.loss([example], generator())["loss_occlusion"], expected)

    def test_gt_sig_ratio_decides_which_annotations_have_an_order(self):
        example = toy_example(6)
        for theta in (0.05, 0.2, 0.6):
            pairs = RAP(gt_sig_ratio=theta, **COMMON).training_pairs(example, generator())
            assert len(pairs) == 4 * int((example.target.relation.matrix(theta) == 1).sum())

    def test_overfits_a_few_images(self, model):
        examples = [toy_example(5, seed) for seed in range(2)]
        overfit(model, examples)
        right = []
        for example in examples:
            front, back = model.training_pairs(example, generator()).unbind(dim=1)
            right.append(model(example.instances, example.stats).above()[front, back])
        assert torch.cat(right).float().mean() > 0.95 and len(torch.cat(right)) > 40
