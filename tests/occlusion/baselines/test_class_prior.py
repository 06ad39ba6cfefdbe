import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.baselines.class_prior import ClassPrior
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.testing import toy_categories

COMMON = {"in_channels": 4, "categories": toy_categories()}
TABLE = torch.tensor([[9, 6, 0], [2, 0, 5], [0, 5, 0]])  # class 0 before 1: 6 of 8; 1 and 2: 5 of 10; 0 and 2: never


def ask(labels, **options):
    masks = torch.zeros((len(labels), 4, 4), dtype=torch.bool)
    masks[:, :2] = True
    instances = InstanceSet(
        MaskCrops.from_dense(masks),
        torch.zeros(len(labels), 4),
        torch.linspace(0.9, 0.6, len(labels)),
        torch.tensor(labels),
    )
    model = ClassPrior(**COMMON, **options)
    model.use_class_table(TABLE)
    return model(instances, PairStats.of(instances.masks))


def test_the_class_that_was_in_front_more_often_is_in_front():
    """Smoothed share (6 + 1) / (8 + 2) = .7 of class 0 before class 1."""
    relation = ask([1, 0])
    assert relation.margin[1, 0].item() == pytest.approx(0.2)
    assert relation.above().tolist() == [[False, False], [True, False]]
    assert torch.equal(relation.margin, -relation.margin.T)
    assert ask([1, 0], prior_count=0.0).margin[1, 0].item() == pytest.approx(6 / 8 - 0.5)
    assert ask([1, 0], prior_count=10.0).margin[1, 0].item() == pytest.approx(16 / 28 - 0.5)


@pytest.mark.parametrize("labels", [[0, 0], [0, 2], [1, 2]])
@pytest.mark.parametrize("prior_count", [0.0, 1.0])
def test_one_class_unseen_pairs_and_ties_keep_the_order_of_the_scores(labels, prior_count):
    relation = ask(labels, prior_count=prior_count)
    assert not relation.valid.any() and not relation.margin.any()


def test_only_pairs_that_overlap_count():
    masks = torch.eye(2, dtype=torch.bool).view(2, 1, 2)
    instances = InstanceSet(
        MaskCrops.from_dense(masks), torch.zeros(2, 4), torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    )
    model = ClassPrior(**COMMON)
    model.use_class_table(TABLE)
    assert not model(instances, PairStats.of(instances.masks)).valid.any()


def test_the_table_moves_with_the_module_and_is_no_parameter():
    model = ClassPrior(**COMMON)
    model.use_class_table(TABLE)
    assert dict(model.named_buffers())["table"] is TABLE and not model.trainable
    assert model.to("meta").table.is_meta


def test_without_counts_the_error_says_what_is_missing():
    instances = InstanceSet(MaskCrops.empty((4, 4)), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    with pytest.raises(ConfigError, match="use_class_table"):
        ClassPrior(**COMMON)(instances, PairStats.of(instances.masks))


def test_wrong_values():
    with pytest.raises(ConfigError, match="prior_count=-1"):
        ClassPrior(prior_count=-1, **COMMON)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        ClassPrior(**COMMON).use_class_table(torch.zeros(2, 2))
