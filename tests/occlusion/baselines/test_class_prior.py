import pytest
import torch

from helpers.small_images import ask, detections
from helpers.toy_orders import COMMON
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.baselines.class_prior import ClassPrior

TABLE = torch.tensor([[9, 6, 0], [2, 0, 5], [0, 5, 0]])  # class 0 before 1: 6 of 8; 1 and 2: 5 of 10; 0 and 2: never


def prior(**options):
    model = ClassPrior(**COMMON, **options)
    model.use_class_table(TABLE)
    return model


def relation_of(labels, **options):
    """Of equal masks."""
    return ask(prior(**options), detections(torch.ones((len(labels), 4, 4), dtype=torch.bool), labels=labels))


def test_the_class_that_was_in_front_more_often_is_in_front():
    """Smoothed share (6 + 1) / (8 + 2) = .7 of class 0 before class 1."""
    relation = relation_of([1, 0])
    assert relation.margin[1, 0].item() == pytest.approx(0.2)
    assert relation.above().tolist() == [[False, False], [True, False]]
    assert torch.equal(relation.margin, -relation.margin.T)
    assert relation_of([1, 0], prior_count=0.0).margin[1, 0].item() == pytest.approx(6 / 8 - 0.5)
    assert relation_of([1, 0], prior_count=10.0).margin[1, 0].item() == pytest.approx(16 / 28 - 0.5)


@pytest.mark.parametrize("labels", [[0, 0], [0, 2], [1, 2]])
@pytest.mark.parametrize("prior_count", [0.0, 1.0])
def test_one_class_unseen_pairs_and_ties_keep_the_order_of_the_scores(labels, prior_count):
    relation = relation_of(labels, prior_count=prior_count)
    assert not relation.valid.any() and not relation.margin.any()


def test_only_pairs_that_overlap_count():
    disjoint = detections(torch.eye(2, dtype=torch.bool).view(2, 1, 2), labels=[1, 0])
    assert not ask(prior(), disjoint).valid.any()


def test_the_table_moves_with_the_module_and_is_no_parameter():
    model = prior()
    assert dict(model.named_buffers())["table"] is TABLE and not model.trainable
    assert model.to("meta").table.is_meta


def test_without_counts_of_the_right_size_the_error_says_what_is_missing():
    with pytest.raises(ConfigError, match="use_class_table"):
        ask(ClassPrior(**COMMON), detections(torch.zeros((0, 4, 4), dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        ClassPrior(**COMMON).use_class_table(torch.zeros(2, 2))
