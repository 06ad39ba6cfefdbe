from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.relations import COMMON, generator, scene
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.heads import roi_head
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.testing import toy_categories


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OCFusion(**COMMON)


class TestHead:
    def test_size_of_the_paper(self):
        with torch.device("meta"):
            head = OCFusion(in_channels=256, categories=toy_categories()).head
        assert sum(p.numel() for p in head.parameters()) == 35_140_609  # 35.14 M
        assert {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")} == {
            "conv1.weight": (512, 514, 3, 3),
            "conv2.weight": (512, 512, 3, 3),
            "conv3.weight": (512, 512, 3, 3),
            "conv4.weight": (512, 512, 3, 3),
            "fc1.weight": (1024, 25088),
            "project.weight": (1, 1024),
        }

    def test_initialisation(self):
        torch.manual_seed(0)
        head = PairHead(9, 64, 128)
        assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))
        for conv in (head.conv1, head.conv2, head.conv3, head.conv4):
            assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)  # fan out, ReLU
        bound = (3 / (64 * 49)) ** 0.5  # uniform with a=1: sqrt(6 / ((1 + 1) * fan_in))
        assert head.fc1.weight.abs().max().item() == pytest.approx(bound, rel=0.001)
        assert head.project.weight.std().item() == pytest.approx(0.01, rel=0.2)

    def test_layers_against_a_literal_forward_pass(self, model):
        instances, _ = scene()
        head = model.head
        x = torch.empty(7, 5, 14, 14)
        for n in range(7):
            for row in range(14):
                for column in range(14):
                    x[n, 0, row, column] = instances.soft[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max()
        x[:, 1:] = instances.roi_features
        y = torch.cat([x[3], x[1]])[None]
        for conv, stride in ((head.conv1, 1), (head.conv2, 1), (head.conv3, 1), (head.conv4, 2)):
            y = F.conv2d(y, conv.weight, conv.bias, stride=stride, padding=1).clamp(min=0)
        assert y.shape == (1, 8, 7, 7)
        y = (y.flatten() @ head.fc1.weight.T + head.fc1.bias).clamp(min=0) @ head.project.weight.T
        torch.testing.assert_close(head(roi_inputs(instances), torch.tensor([[3, 1]])), y, rtol=1e-4, atol=1e-6)

    def test_o8_first_convolution_per_instance_equals_per_pair(self, model, monkeypatch):
        head = model.head.double()
        x = torch.randn(6, 5, 14, 14, dtype=torch.float64, generator=generator())
        pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
        above, below = head.first_halves(x, x)
        joined = head.conv1(torch.cat([x[pairs[:, 0]], x[pairs[:, 1]]], dim=1))
        assert (above[pairs[:, 0]] + below[pairs[:, 1]] - joined).abs().max() < 1e-13
        gradients = []
        for split_from in (0.0, 1e9):
            monkeypatch.setattr(roi_head, "SPLIT_FROM", split_from)
            head.zero_grad()
            logits = head(x, pairs)
            logits.square().sum().backward()
            gradients.append([logits.detach(), *(p.grad.clone() for p in head.parameters())])
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)

    def test_the_split_is_taken_only_for_many_pairs(self, model, monkeypatch):
        calls = []
        halves = model.head.first_halves

        def counted(firsts, seconds):
            calls.append((len(firsts), len(seconds)))
            return halves(firsts, seconds)

        monkeypatch.setattr(model.head, "first_halves", counted)
        x = torch.randn(10, 5, 14, 14)
        model.head(x, torch.tensor([[1, 2], [2, 1], [3, 2]]))  # 3 of 3 and 2 instances: not over 1.25 * 2.5
        assert calls == []
        model.head(x, torch.tensor([[1, 2], [1, 4], [3, 2], [3, 4]]))  # 4 of 2 and 2
        assert calls == [(2, 2)]

    def test_chunks_change_nothing(self, model, monkeypatch):
        x = torch.randn(5, 5, 14, 14)
        pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        whole = model.head(x, pairs)
        monkeypatch.setitem(roi_head.PAIRS_AT_ONCE, "cpu", 4)
        torch.testing.assert_close(model.head(x, pairs), whole, rtol=1e-4, atol=1e-6)

    def test_unused_instances_change_nothing(self, model):
        x = torch.randn(5, 5, 14, 14)
        alone = model.head(x[[1, 4]], torch.tensor([[1, 0]]))
        torch.testing.assert_close(model.head(x, torch.tensor([[4, 1]])), alone, rtol=1e-4, atol=1e-6)


class TestInference:
    def logits(self, model, instances):
        """Logits of all ordered pairs, one by one."""
        x, n = roi_inputs(instances), len(instances)
        pairs = [[i, j] for i in range(n) for j in range(n)]
        with torch.no_grad():
            return torch.cat([model.head(x, torch.tensor([pair])) for pair in pairs]).view(n, n)

    def test_raw_asks_the_later_instance_of_significant_pairs(self, model):
        instances, stats = scene()
        relation = model(instances, stats)
        assert torch.equal(relation.valid, stats.significant(0.2).tril())
        assert relation.valid.sum() > 4
        assert not relation.antisymmetric
        expected = torch.where(relation.valid, self.logits(model, instances), 0)
        torch.testing.assert_close(relation.margin, expected, rtol=1e-4, atol=1e-6)

    def test_only_the_asked_pairs_are_computed(self, model, monkeypatch):
        instances, stats = scene()
        rows = []
        forward = model.head.forward
        monkeypatch.setattr(model.head, "forward", lambda x, pairs: rows.append(len(pairs)) or forward(x, pairs))
        model(instances, stats)
        assert rows == [int(stats.significant(0.2).tril().sum())]

    @pytest.mark.parametrize("logit_thr", [0.0, 0.5])
    def test_avg_is_antisymmetric_and_the_threshold_hinders_the_later_instance(self, logit_thr):
        torch.manual_seed(0)
        model = OCFusion(sym="avg", logit_thr=logit_thr, **COMMON)
        instances, stats = scene()
        relation = model(instances, stats)
        logits = self.logits(model, instances)
        assert torch.equal(relation.valid, stats.significant(0.2))
        assert relation.antisymmetric and torch.equal(relation.margin, -relation.margin.T)
        later = relation.valid.tril()
        expected = (logits - logits.T) / 2 - logit_thr
        torch.testing.assert_close(relation.margin[later], expected[later], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("logit", "logit_thr", "above"), [(0.3, 0.0, True), (0.3, 0.5, False), (0.0, 0.0, False), (0.51, 0.5, True)]
    )
    def test_o4_threshold_on_the_logit(self, logit, logit_thr, above):
        model = OCFusion(logit_thr=logit_thr, **COMMON)
        torch.nn.init.zeros_(model.head.project.weight)
        torch.nn.init.constant_(model.head.project.bias, logit)
        relation = model(*scene())
        assert torch.equal(relation.above(), relation.valid if above else torch.zeros_like(relation.valid))

    def test_directional_looks_at_the_share_of_the_later_instance(self, model):
        model.significance, model.sig_ratio = "directional", 0.5
        instances, stats = scene()
        relation = model(instances, stats)
        assert torch.equal(relation.valid, (stats.ratio() >= 0.5).tril())
        assert not torch.equal(relation.valid, stats.significant(0.5).tril())

    def test_class_switches(self, model):
        instances, stats = scene()
        same = instances.labels[:, None] == instances.labels[None, :]
        everything = model(instances, stats).valid
        model.intra = False
        assert torch.equal(model(instances, stats).valid, everything & ~same)
        model.intra, model.inter = True, False
        assert torch.equal(model(instances, stats).valid, everything & same)
        assert 0 < (everything & same).sum() < everything.sum()

    def test_o9_swapped_halves_are_the_swapped_question(self, model):
        x = torch.randn(2, 5, 14, 14)
        swapped = PairHead(5, 8, 16)
        swapped.load_state_dict(model.head.state_dict())
        weight = model.head.conv1.weight
        swapped.conv1.weight.data = torch.cat([weight[:, 5:], weight[:, :5]], dim=1).detach()
        question, reverse = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
        torch.testing.assert_close(swapped(x, question), model.head(x, reverse), rtol=1e-4, atol=1e-6)
        assert model.head(x, question) != model.head(x, reverse)

    def test_without_features_the_error_says_what_is_needed(self, model):
        instances, stats = scene()
        with pytest.raises(ValueError, match="roi_features"):
            model(replace(instances, roi_features=None), stats)

    @pytest.mark.parametrize(("options", "message"), [({"sym": "mean"}, "raw"), ({"pairs_per_image": 0}, "one pair")])
    def test_wrong_options(self, options, message):
        with pytest.raises(ConfigError, match=message):
            OCFusion(**options, **COMMON)
