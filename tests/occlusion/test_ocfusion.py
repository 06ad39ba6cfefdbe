"""OCFusion: the head of the paper, and what its logits mean; ``heads/test_pairs`` has the head's fast forms."""

from dataclasses import replace

import pytest
import torch

from helpers.toy_orders import COMMON, all_pairs, built, scene
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.testing import toy_categories


@pytest.fixture
def model():
    return built(OCFusion)


def logits_of(model, instances):
    """Logits of all ordered pairs, one by one."""
    n = len(instances)
    with torch.no_grad():
        return torch.cat([model.head(roi_inputs(instances), pair[None]) for pair in all_pairs(n)]).view(n, n)


def test_size_of_the_paper():
    with torch.device("meta"):
        head = OCFusion(in_channels=256, categories=toy_categories()).head
    assert sum(p.numel() for p in head.parameters()) == 35_140_609  # 35.14 M
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (512, 514, 3, 3),
        **{f"conv{k}.weight": (512, 512, 3, 3) for k in (2, 3, 4)},
        "fc1.weight": (1024, 25088),
        "project.weight": (1, 1024),
    }


def test_raw_reads_the_later_instance_of_significant_pairs(model):
    instances, stats = scene()
    relation = model(instances, stats)
    assert torch.equal(relation.valid, stats.significant(0.2).tril())
    assert relation.valid.sum() > 4
    assert not relation.antisymmetric
    expected = torch.where(relation.valid, logits_of(model, instances), 0)
    torch.testing.assert_close(relation.margin, expected, rtol=1e-4, atol=1e-6)


def test_only_the_selected_pairs_are_computed(model, monkeypatch):
    instances, stats = scene()
    rows = []
    forward = model.head.forward
    monkeypatch.setattr(model.head, "forward", lambda x, pairs: rows.append(len(pairs)) or forward(x, pairs))
    model(instances, stats)
    assert rows == [int(stats.significant(0.2).tril().sum())]


@pytest.mark.parametrize("logit_thr", [0.0, 0.5])
def test_avg_is_antisymmetric_and_the_threshold_hinders_the_later_instance(logit_thr):
    model = built(OCFusion, sym="avg", logit_thr=logit_thr)
    instances, stats = scene()
    relation = model(instances, stats)
    logits = logits_of(model, instances)
    assert torch.equal(relation.valid, stats.significant(0.2))
    assert relation.antisymmetric and torch.equal(relation.margin, -relation.margin.T)
    later = relation.valid.tril()
    expected = (logits - logits.T) / 2 - logit_thr
    torch.testing.assert_close(relation.margin[later], expected[later], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("logit", "logit_thr", "above"), [(0.3, 0.0, True), (0.3, 0.5, False), (0.0, 0.0, False), (0.51, 0.5, True)]
)
def test_o4_threshold_on_the_logit(logit, logit_thr, above):
    model = OCFusion(logit_thr=logit_thr, **COMMON)
    torch.nn.init.zeros_(model.head.project.weight)
    torch.nn.init.constant_(model.head.project.bias, logit)
    relation = model(*scene())
    assert torch.equal(relation.above(), relation.valid if above else torch.zeros_like(relation.valid))


def test_directional_looks_at_the_share_of_the_later_instance(model):
    model.significance, model.sig_ratio = "directional", 0.5
    instances, stats = scene()
    relation = model(instances, stats)
    assert torch.equal(relation.valid, (stats.ratio() >= 0.5).tril())
    assert not torch.equal(relation.valid, stats.significant(0.5).tril())


def test_o9_swapped_halves_are_the_swapped_question(model):
    x = torch.randn(2, 5, 14, 14)
    swapped = PairHead(5, 8, 16)
    swapped.load_state_dict(model.head.state_dict())
    weight = model.head.conv1.weight
    swapped.conv1.weight.data = torch.cat([weight[:, 5:], weight[:, :5]], dim=1).detach()
    question, reverse = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    torch.testing.assert_close(swapped(x, question), model.head(x, reverse), rtol=1e-4, atol=1e-6)
    assert model.head(x, question) != model.head(x, reverse)


def test_without_features_the_error_says_what_is_needed(model):
    instances, stats = scene()
    with pytest.raises(ValueError, match="roi_features"):
        model(replace(instances, roi_features=None), stats)
