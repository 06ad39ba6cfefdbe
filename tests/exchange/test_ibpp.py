"""IBPP on a small Mask R-CNN and Panoptic FPN head: the oracles I1 and I2, its equations, its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from helpers.projection import CATEGORIES, CHANNELS, SIZE, Base
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.exchange.base import annotated_rois
from panoptic_occ.exchange.ibpp import IterativeProjection
from panoptic_occ.exchange.roi_flatten import roi_flatten
from panoptic_occ.stuff.base import semantic_target
from panoptic_occ.stuff.ground_truth import GroundTruthStuff
from panoptic_occ.stuff.pfpn import PanopticFPNHead
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.ground_truth import GroundTruthThings
from panoptic_occ.thing.mask_head import mask_loss
from panoptic_occ.thing.mask_rcnn import MaskRCNN


def assert_same_outputs(first: tuple[Any, Any], second: tuple[Any, Any]) -> None:
    for one, other in zip(first[0], second[0], strict=True):
        assert len(one) == len(other) > 0
        for name in ("boxes", "scores", "labels", "soft", "roi_features"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert torch.equal(one.masks.pixels, other.masks.pixels)
    for one, other in zip(first[1], second[1], strict=True):
        assert torch.equal(one.labels, other.labels) and torch.equal(one.logits, other.logits)


def test_i1_no_iteration_is_no_exchange() -> None:
    base = Base(iterations=0)
    assert not list(base.exchange.parameters())
    plain, refined = base.losses(base.none()), base.losses()
    assert plain.keys() == refined.keys() and all(torch.equal(plain[name], refined[name]) for name in plain)
    assert_same_outputs(base.outputs(base.none()), base.outputs())
    for (one, matches), (other, others) in zip(base.positives(base.none()), base.positives(), strict=True):
        assert torch.equal(one.soft, other.soft) and torch.equal(matches, others)


@pytest.mark.parametrize("options", [{"iterations": 1}, {"iterations": 3, "weights": "shared"}])
def test_i2_without_semantics_the_mask_head_is_the_plain_one(options: dict[str, Any]) -> None:
    base = Base(**options)
    for parameter in (*base.exchange.align.parameters(), *base.exchange.priors.parameters()):
        torch.nn.init.zeros_(parameter)
    plain, refined = base.losses(base.none()), base.losses()
    for t in range(1, options["iterations"] + 1):
        torch.testing.assert_close(refined[f"mask_{t}"], plain["mask"])
    torch.testing.assert_close(refined["stuff_0"] * (options["iterations"] + 1), plain["stuff"])
    for one, other in zip(base.outputs(base.none())[0], base.outputs()[0], strict=True):
        torch.testing.assert_close(one.soft, other.soft)
        assert torch.equal(one.roi_features, other.roi_features)


def moved(base: Base, t: int, boxes: list[Tensor], labels: Tensor) -> list[Tensor]:
    """The boxes after the regression before iteration ``t``, by the definition of the offsets."""
    heads = base.thing.roi_heads
    pooled = heads.box_roi_pool(base.levels, boxes)
    if len(base.exchange.cascade.heads):
        fc, last = base.exchange.cascade.heads[t - 1]
        every = last(F.relu(fc.fc7(F.relu(fc.fc6(pooled.flatten(1))))))
    else:
        every = heads.box_predictor(heads.box_head(pooled))[1]
    dx, dy, dw, dh = every.view(-1, 4, 4)[torch.arange(len(labels)), labels + 1].T
    x0, y0, x1, y1 = torch.cat(boxes).T
    cx, cy = (x0 + x1) / 2 + dx / 10 * (x1 - x0), (y0 + y1) / 2 + dy / 10 * (y1 - y0)
    w, h = (x1 - x0) * (dw / 5).exp(), (y1 - y0) * (dh / 5).exp()
    after = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1).clamp(0, SIZE)
    assert (after - torch.cat(boxes)).abs().amax(dim=1).min() > 1e-4, "all boxes move"
    return list(after.split([len(b) for b in boxes]))


@pytest.mark.parametrize("boxes", ["fixed", "cascade"])
@pytest.mark.parametrize("projected", ["probs", "logits"])
@pytest.mark.parametrize(("weights", "convs"), [("separate", 0), ("shared", 0), ("separate", 2)])
def test_equations_2_to_6(boxes: str, projected: str, weights: str, convs: int) -> None:
    """Three iterations written out with joined channels, torchvision's RoIAlign and nothing shared; each reads the
    boxes that the one before it left."""
    base = Base(iterations=3, weights=weights, projected=projected, predictor_convs=convs, boxes=boxes)
    base = base.moving() if boxes == "cascade" else base
    exchange: Any = base.exchange
    rois = base.detected()
    refined = base.refine(rois)
    at, scores = [r.boxes for r in rois], torch.cat([r.scores for r in rois])
    labels = torch.cat([r.labels for r in rois])
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if boxes == "cascade" else {"rtol": 1e-4, "atol": 1e-5}
    with torch.no_grad():
        trunk = base.stuff.trunk(base.levels)
        p = base.stuff.predictor(trunk)
        for t in range(3):
            place = t if weights == "separate" else 0
            if t > 0 and boxes == "cascade":
                at = moved(base, t, at, labels)
            here = [Rois(b, r.labels, r.scores) for b, r in zip(at, rois, strict=True)]
            f = base.thing.pool(base.levels, here) + exchange.align(roi_align(trunk, at, 14, 0.25, 2, True))
            heads = base.thing.roi_heads if place == 0 else exchange.mask_heads[place - 1]
            seen = roi_align(p.softmax(dim=1) if projected == "probs" else p, at, 14, 0.25, 2, True)
            first = heads.mask_head[0][0]
            joined = torch.cat([first.weight, exchange.priors[place].weight], dim=1)
            y = F.relu(F.conv2d(torch.cat([f, seen], dim=1), joined, first.bias, padding=1))
            m = heads.mask_predictor(F.relu(heads.mask_head[1][0](y)))
            soft = m[torch.arange(len(m)), labels + 1].sigmoid()
            canvas = roi_flatten(soft * scores[:, None, None], here, 3, (16, 16))
            p = exchange.semantic_heads[place](torch.cat([canvas, trunk], dim=1))
            torch.testing.assert_close(torch.cat([r.boxes for r in refined.rois[t]]), torch.cat(at))
            torch.testing.assert_close(refined.masks[t], m, **tolerance)
            torch.testing.assert_close(refined.semantics[t + 1], p, **tolerance)
    instances, maps = base.outputs()
    torch.testing.assert_close(torch.cat([i.boxes for i in instances]), torch.cat(at))
    assert torch.equal(torch.cat([i.scores for i in instances]), scores)
    torch.testing.assert_close(torch.cat([i.soft for i in instances]), soft, **tolerance)
    raw = base.thing.pool(base.levels, refined.rois[-1])
    assert torch.equal(torch.cat([i.roi_features for i in instances]), raw), "occlusion methods see the plain features"
    full = F.interpolate(p, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.stack([s.logits for s in maps]), full, **tolerance)


OPTIONS: list[dict[str, Any]] = [
    {"iterations": 1},
    {"iterations": 1, "predictor_convs": 2},
    {"iterations": 3},
    {"iterations": 2, "weights": "shared"},
    {"iterations": 2, "projected": "logits"},
    {"iterations": 2, "detach": True},
    {"iterations": 2, "class_agnostic_masks": True},
    {"iterations": 2, "train_boxes": "proposals"},
    {"iterations": 3, "boxes": "cascade"},
    {"iterations": 3, "boxes": "cascade", "weights": "shared"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("counts", [(3, 2), (0, 2), (0, 0)])
def test_every_parameter_gets_a_gradient(options: dict[str, Any], counts: tuple[int, ...]) -> None:
    """DDP waits for each of them, also when no image has an instance; all are used when there is one."""
    base = Base(counts, **options)
    losses = base.losses()
    moves = {"box_2", "box_3"} if "boxes" in options else set()
    assert {name for name in losses if name.startswith("box_")} == moves
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in base.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if counts == (3, 2) and name.startswith("exchange"):
            assert parameter.grad.any(), name


def test_losses_by_name_and_weight() -> None:
    base = Base(iterations=2)
    losses = base.losses()
    assert losses.keys() == {
        *("rpn_cls", "rpn_box", "cls", "box", "mask_1", "mask_2"),
        *("stuff_0", "stuff_1", "stuff_2"),
    }
    torch.manual_seed(1)
    _, positive = base.thing.box_losses(base.features.thing, base.batch)
    shown = annotated_rois(base.batch.targets, base.exchange.keep)
    refined = base.refine(positive, shown)
    for t, logits in enumerate(refined.masks, start=1):
        torch.testing.assert_close(losses[f"mask_{t}"], mask_loss(logits, positive, base.batch.targets))
    for t, logits in enumerate(refined.semantics):
        expected = base.stuff.loss(logits, semantic_target(base.batch)) / 3
        torch.testing.assert_close(losses[f"stuff_{t}"], expected)


def test_predictions_carry_gradients_unless_detached() -> None:
    for detach in (False, True):
        base = Base(iterations=1, detach=detach)
        losses = base.losses()
        (to_masks,) = torch.autograd.grad(
            losses["stuff_1"], base.thing.roi_heads.mask_predictor[-1].weight, retain_graph=True, allow_unused=True
        )
        (to_semantics,) = torch.autograd.grad(losses["mask_1"], base.stuff.predictor.weight, allow_unused=True)
        for gradient in (to_masks, to_semantics):
            assert (gradient is None or not gradient.any()) == detach


def test_the_canvas_in_training_shows_what_train_boxes_says() -> None:
    """Masks of the shown regions alone reach the semantics."""
    base = Base(iterations=1)
    base.thing.train()
    torch.manual_seed(1)
    _, positive = base.thing.box_losses(base.features.thing, base.batch)
    shown = annotated_rois(base.batch.targets, base.exchange.keep)
    several, alone, other = base.refine(positive, shown), base.refine(shown), base.refine(positive)
    torch.testing.assert_close(several.semantics[1], alone.semantics[1])
    torch.testing.assert_close(several.masks[0], other.masks[0])
    assert not torch.allclose(several.semantics[1], other.semantics[1], atol=1e-5)


def test_outputs_do_not_depend_on_the_score_that_is_asked_for() -> None:
    base = Base(iterations=2)
    everything, maps = base.outputs()
    cut = float(torch.cat([i.scores for i in everything]).median())
    confident, same = base.outputs(conf_thr=cut)
    for one, other in zip(everything, confident, strict=True):
        keep = one.scores >= cut
        assert 0 < len(other) == keep.sum() < len(one)
        assert torch.equal(one.soft[keep], other.soft) and torch.equal(one.roi_features[keep], other.roi_features)
        assert torch.equal(one[keep].masks.pixels, other.masks.pixels)
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(maps, same, strict=True))


def test_logits_only_on_demand() -> None:
    base = Base(iterations=1)
    base.thing.eval()
    instances, maps = base.exchange.outputs(base.inputs, 0.0, frozenset())
    assert all(m.logits is None for m in maps) and all(i.roi_features is None for i in instances)


def test_positives_read_the_semantics_of_the_detections() -> None:
    base = Base(iterations=2)
    positives = base.positives()
    torch.manual_seed(1)
    rois = base.thing.positive_rois(base.features.thing, base.batch)
    soft = base.thing.soft_masks(base.refine(rois, base.detected()).masks[-1], rois)
    assert torch.equal(torch.cat([instances.soft for instances, _ in positives]), soft)
    for (instances, matches), r, target in zip(positives, rois, base.batch.targets, strict=True):
        assert torch.equal(matches, r.matches) and torch.equal(instances.labels, target.labels[matches])
        assert instances.masks.size == (SIZE, SIZE) and instances.roi_features.shape[1:] == (CHANNELS, 14, 14)


def test_class_agnostic_masks_are_one_for_all_classes() -> None:
    base = Base(iterations=2, class_agnostic_masks=True)
    refined = base.refine(base.detected())
    assert all((m == m[:, :1]).all() and m.std() > 0 for m in refined.masks)


def test_no_detection_is_no_error() -> None:
    base = Base(iterations=2)
    base.thing.roi_heads.score_thresh = 2.0
    instances, maps = base.outputs()
    assert all(len(i) == 0 for i in instances) and all(m.logits.isfinite().all() for m in maps)


def build(**options: Any) -> IterativeProjection:
    stuff = options.pop("stuff", None) or PanopticFPNHead(in_channels=8, categories=CATEGORIES, things="dense")
    return IterativeProjection(in_channels=CHANNELS, categories=CATEGORIES, stuff=stuff, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "seperate"}, "exchange.weights=seperate: did you mean 'separate'"),
        ({"projected": "prob"}, "exchange.projected=prob: did you mean 'probs'"),
        ({"boxes": "cascaded"}, "exchange.boxes=cascaded: did you mean 'cascade'"),
        ({"train_boxes": "proposal"}, "exchange.train_boxes=proposal: did you mean 'proposals'"),
        ({"iterations": -1}, "exchange.iterations=-1: allowed: a whole number, 0 or more"),
        ({"keep": (0.8, 0.2)}, r"exchange.keep=\[0.8, 0.2\]"),
    ],
)
def test_wrong_options_are_answered(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_branches_that_cannot_exchange_are_refused() -> None:
    for things in ("collapsed", "none"):
        collapsed = PanopticFPNHead(in_channels=8, categories=CATEGORIES, things=things)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="stuff=pfpn_dense"):
            build(stuff=collapsed)
        assert build(stuff=collapsed, iterations=0) is not None
    with pytest.raises(ConfigError, match="stuff=pfpn_dense"):
        build(stuff=GroundTruthStuff(in_channels=8, categories=CATEGORIES))
    base = Base(iterations=1)
    things = GroundTruthThings(in_channels=8, categories=CATEGORIES)
    with pytest.raises(ConfigError, match="thing=mask_rcnn"):
        base.exchange.losses(base.inputs._replace(thing=things))


def test_a_trunk_as_wide_as_the_pyramid_needs_no_projection() -> None:
    stuff = PanopticFPNHead(in_channels=32, categories=CATEGORIES, things="dense", hidden=32)
    exchange = IterativeProjection(in_channels=32, categories=CATEGORIES, stuff=stuff, iterations=1)
    assert not list(exchange.align.parameters())


def test_group_norm_stands_in_every_mask_head() -> None:
    wide: dict[str, Any] = {"in_channels": 32, "categories": CATEGORIES, "mask_norm": "group", "mask_convs": 2}
    thing = MaskRCNN(**wide)
    stuff = PanopticFPNHead(in_channels=32, categories=CATEGORIES, things="dense")
    exchange = IterativeProjection(**wide, stuff=stuff, iterations=3)
    for head in (thing.roi_heads.mask_head, *(part.mask_head for part in exchange.mask_heads)):
        kinds = [[type(layer).__name__ for layer in block] for block in head]
        assert kinds == [["Conv2d", "GroupNorm", "ReLU"]] * 2
    torch.manual_seed(0)
    enhanced, projected = torch.randn(3, 32, 14, 14), torch.randn(3, stuff.num_classes, 14, 14)
    for t in range(3):
        heads: Any = exchange.mask_heads[t - 1] if t else thing.roi_heads
        ((conv, norm, _), second), prior = heads.mask_head, exchange.priors[t]
        joined = F.conv2d(torch.cat([enhanced, projected], 1), torch.cat([conv.weight, prior.weight], 1), padding=1)
        expected = heads.mask_predictor(second(F.relu(norm(joined))))
        torch.testing.assert_close(exchange._masks(thing, t, enhanced, projected), expected, atol=1e-5, rtol=1e-4)
