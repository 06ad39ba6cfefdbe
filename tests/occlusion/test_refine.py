"""REFINE: equation 7, what the relation makes of it, and what the network reads."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.toy_orders import COMMON, all_pairs, built, generator, scene
from panoptic_occ.occlusion.heads.roi_head import roi_inputs
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.refine import SoftOcclusion, soft_margin
from panoptic_occ.testing import toy_categories


def build(**options):
    return built(SoftOcclusion, **options)


def soft(score, occlusion, sigma):
    """Equation 7."""
    return score * math.exp(-((occlusion - 1) ** 2) / sigma)


class TestSoftPenalisation:
    @pytest.mark.parametrize(
        ("scores", "occlusion", "soft_values", "above"),
        [
            ((0.9, 0.6), 0.3, (0.73981, 0.57878), True),
            ((0.9, 0.6), 0.0, (0.60329, 0.60000), True),
            ((0.8, 0.6), 0.2, (0.61931, 0.59048), True),
            ((0.8, 0.6), 0.1, (0.57860, 0.59760), False),
            ((0.8, 0.8), 0.51, (0.72674, 0.72095), True),
        ],
    )
    def test_e1_values_of_equation_7(self, scores, occlusion, soft_values, above):
        literal = soft(scores[0], occlusion, 2.5), soft(scores[1], 1 - occlusion, 2.5)
        assert literal == pytest.approx(soft_values, abs=6e-6)
        matrix = torch.tensor([[0.5, occlusion], [1 - occlusion, 0.5]])
        margin = soft_margin(matrix, torch.tensor(scores), 2.5)
        assert bool(margin[0, 1] > 0) == above == (literal[0] > literal[1])
        assert margin[0, 1] == -margin[1, 0]

    def test_e2_positive_exactly_when_equation_7_is_larger(self):
        """Also for O(i, j) + O(j, i) != 1; a hair's breadth around equality is left out."""
        source, checked = generator(), 0
        draws = torch.rand((10_000, 5), dtype=torch.float64, generator=source)
        for row, (s_i, s_j, p, q, x) in enumerate(draws.tolist()):
            sigma = 0.05 + 8 * x
            q = q if row % 2 else 1 - p
            scores = torch.tensor([s_i, s_j], dtype=torch.float64)
            margin = soft_margin(torch.tensor([[0.5, p], [q, 0.5]], dtype=torch.float64), scores, sigma)[0, 1].item()
            if abs(margin) >= 1e-9:
                assert (margin > 0) == (soft(s_i, p, sigma) > soft(s_j, q, sigma))
                checked += 1
            if not row % 2:  # the closed form
                assert margin == pytest.approx(p - 0.5 + sigma / 2 * math.log(s_i / s_j), abs=1e-12)
        assert checked > 9_990

    def test_e3_antisymmetric_but_not_transitive(self):
        occlusion = torch.tensor([[0.5, 0.6, 0.4], [0.4, 0.5, 0.6], [0.6, 0.4, 0.5]])
        margin = soft_margin(occlusion, torch.full((3,), 0.7), 2.5)
        assert torch.equal(margin, -margin.T)
        assert margin[0, 1] > 0 and margin[1, 2] > 0 and margin[2, 0] > 0

    def test_scores_of_zero_stay_finite(self):
        margin = soft_margin(torch.full((3, 3), 0.5), torch.tensor([0.5, 0.0, 0.0]), 2.5)
        assert margin.isfinite().all() and margin[0, 1] > 0.5 and margin[1, 2] == 0


class TestRelation:
    @pytest.mark.parametrize("sigma", [0.3, 2.0, 2.5, 4.0])
    @pytest.mark.parametrize("sym", ["avg", "raw"])
    def test_above_is_equation_7(self, sigma, sym):
        model = build(sigma=sigma, sym=sym)
        instances, stats = scene()
        torch.manual_seed(1)
        logits = 2 * torch.randn(7, 7)
        relation = model.relate(instances, stats, {"logits": logits})
        assert torch.equal(relation.valid, stats.significant(0.2)) and relation.antisymmetric
        pairs, s = relation.valid.nonzero().tolist(), instances.scores.tolist()
        for i, j in pairs:
            p, q = logits[i, j].sigmoid().item(), logits[j, i].sigmoid().item()
            if sym == "avg":
                p = ((logits[i, j] - logits[j, i]) / 2).sigmoid().item()
                q = 1 - p
            assert bool(relation.above()[i, j]) == (soft(s[i], p, sigma) > soft(s[j], q, sigma))
        assert len(pairs) > 8

    @pytest.mark.parametrize("sym", ["avg", "raw"])
    def test_score_decides_where_no_logit_could_change_the_outcome(self, sym):
        """By the two extreme logits; a ratio of scores above exp(1 / sigma)."""
        model = build(sigma=4.0, sym=sym)
        instances, stats = scene()
        extreme = 100 * (torch.ones(7, 7).triu(1) - torch.ones(7, 7).tril(-1))
        first, second = (model.relate(instances, stats, {"logits": logits}) for logits in (extreme, -extreme))
        fixed, valid, decided = first.above() == second.above(), first.valid, first.score_decides
        assert torch.equal(decided[valid], fixed[valid]) and decided[~valid].all()
        ratio = instances.scores[:, None] / instances.scores[None, :]
        expected = (ratio > math.exp(1 / 4)) | (ratio < math.exp(-1 / 4))
        assert torch.equal(decided[valid], expected[valid])
        assert 0 < expected[valid].sum() < valid.sum()

    def test_without_sigma_the_network_alone_decides(self):
        instances, stats = scene()
        torch.manual_seed(1)
        logits = torch.randn(7, 7)
        both = build(sigma=None).relate(instances, stats, {"logits": logits})
        assert torch.equal(both.above(), stats.significant(0.2) & (logits > logits.T))
        assert both.antisymmetric and torch.equal(both.margin, -both.margin.T) and both.score_decides is None
        raw = build(sigma=None, sym="raw").relate(instances, stats, {"logits": logits})
        ocfusion = OCFusion(**COMMON).relate(instances, stats, {"logits": logits})
        assert torch.equal(raw.above(), ocfusion.above()) and torch.equal(raw.valid, ocfusion.valid)
        assert not raw.antisymmetric

    def test_a_large_sigma_is_the_order_of_the_scores_and_a_small_one_the_network(self):
        instances, stats = scene()
        torch.manual_seed(1)
        outputs = {"logits": torch.randn(7, 7)}
        large, small, network = (build(sigma=s).relate(instances, stats, outputs).above() for s in (1e4, 1e-6, None))
        assert torch.equal(large, stats.significant(0.2).triu())  # scores fall
        assert torch.equal(small, network)

    def test_only_the_pairs_that_count_are_read(self):
        model = build()
        instances, stats = scene()
        assert torch.equal(~model.head_outputs(instances, stats)["logits"].isnan(), stats.significant(0.2))
        later = build(sigma=None, sym="raw").head_outputs(instances, stats)["logits"]
        assert torch.equal(~later.isnan(), stats.significant(0.2).tril())
        wide = model.head_outputs(instances, stats, wide=True)["logits"]
        assert torch.equal(~wide.isnan(), (stats.inter > 0) & ~torch.eye(7, dtype=torch.bool))
        direct, saved = model(instances, stats), model.relate(instances, stats, {"logits": wide})
        torch.testing.assert_close(direct.margin, saved.margin, rtol=1e-4, atol=1e-6)


class TestNetwork:
    def test_label_embedding_against_a_literal_forward_pass(self):
        model = build(label_channels=6)
        instances, _ = scene(4)
        pairs, prior = all_pairs(4), model.label_prior
        hidden = model.head.features(roi_inputs(instances), pairs)
        labels = torch.eye(3)[instances.labels]
        e = (labels[pairs[:, 0]] @ prior.above.weight).clamp(min=0)
        e = e * (labels[pairs[:, 1]] @ prior.below.weight).clamp(min=0)
        y = (torch.cat([hidden, e], dim=1) @ prior.fc2.weight.T + prior.fc2.bias).clamp(min=0)
        expected = (y @ model.head.project.weight.T + model.head.project.bias)[:, 0]
        torch.testing.assert_close(model.logits([instances], pairs), expected, rtol=1e-4, atol=1e-6)
        other = replace(instances, labels=(instances.labels + 1) % 3)
        assert not torch.equal(model.logits([other], pairs), model.logits([instances], pairs))

    def test_label_table_is_antisymmetric_and_added_to_the_logit(self):
        model = build(label_prior="table")
        instances, _ = scene(4)
        pairs = all_pairs(4)
        plain = model.logits([instances], pairs)
        torch.testing.assert_close(plain, model.head(roi_inputs(instances), pairs))  # it starts at 0
        torch.nn.init.normal_(model.label_prior.table)
        added = (model.logits([instances], pairs) - plain).view(4, 4)
        table, (a, b) = model.label_prior.table, instances.labels[pairs].unbind(dim=1)
        torch.testing.assert_close(added.flatten(), table[a, b] - table[b, a], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(added, -added.T)

    def test_mask_and_feature_alone_are_ocfusion(self):
        """Row 2 of Table 6: the same weights by name, the same logits."""
        model, other = build(inputs=["mask", "feature"]), OCFusion(**COMMON)
        other.load_state_dict(model.state_dict())
        instances, _ = scene(4)
        assert torch.equal(model.logits([instances], all_pairs(4)), other.logits([instances], all_pairs(4)))

    @pytest.mark.parametrize(
        ("inputs", "channels", "reads"),
        [
            (["mask"], 2, {"soft"}),
            (["feature"], 8, {"roi_features"}),
            (["mask", "feature"], 10, {"soft", "roi_features"}),
            (["mask", "label"], 2, {"soft", "labels"}),
        ],
    )
    def test_inputs_of_table_6(self, inputs, channels, reads):
        model = build(inputs=inputs)
        assert model.head.conv1.in_channels == channels
        instances, _ = scene(4)
        plain = model.logits([instances], all_pairs(4))
        changes = {
            "soft": instances.soft.flip(0),
            "roi_features": instances.roi_features.flip(0),
            "labels": (instances.labels + 1) % 3,
        }
        for name, value in changes.items():
            changed = model.logits([replace(instances, **{name: value})], all_pairs(4))
            assert torch.equal(changed, plain) == (name not in reads)

    def test_size_of_the_default(self):
        """OCFusion's 35.14 M, two embeddings of 80 x 256 and a second linear layer of 1280 x 1024."""
        with torch.device("meta"):
            model = SoftOcclusion(in_channels=256, categories=toy_categories(things=80))
        assert sum(p.numel() for p in model.parameters()) == 35_140_609 + 2 * 80 * 256 + 1280 * 1024 + 1024
        with torch.device("meta"):
            table = SoftOcclusion(in_channels=256, categories=toy_categories(things=80), label_prior="table")
        assert sum(p.numel() for p in table.parameters()) == 35_140_609 + 6_400
