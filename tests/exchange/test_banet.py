"""BANet's exchange: S2I and I2S against the paper's figures written out with dense maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from helpers.aggregation import CATEGORIES, CHANNELS, SIZE, branches, dense_inlay, exchange, inputs, plain, pyramids
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.exchange.banet import FeatureAggregation, InstanceToSemantic, LayoutContext
from panoptic_occ.stuff.concat import ConcatHead
from panoptic_occ.stuff.ground_truth import GroundTruthStuff
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.ground_truth import GroundTruthThings

FEATURES = frozenset({"soft", "roi_features"})


def set_to(layer: nn.Module, value: float) -> None:
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]


def boxes_of(*images: list[list[float]]) -> list[Rois]:
    zeros = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in images]
    return [Rois(torch.tensor(b).reshape(-1, 4), z, torch.ones(len(b))) for b, z in zip(images, zeros, strict=True)]


def test_everything_off_is_the_plain_base() -> None:
    thing, stuff = branches()
    off = exchange(stuff, s2i=False, sim=False, ocm=False)
    assert not list(off.parameters())
    results = []
    for each in (off, plain(stuff)):
        torch.manual_seed(3)
        losses = each.losses(inputs(thing.train(), stuff))
        examples = each.positives(inputs(thing.eval(), stuff), FEATURES)
        results.append((losses, examples, *each.outputs(inputs(thing, stuff), 0.1, FEATURES)))
    (a, b) = results
    assert all(torch.equal(a[0].thing[k], b[0].thing[k]) for k in b[0].thing) and a[0].thing.keys() == b[0].thing.keys()
    assert torch.equal(a[0].stuff["stuff"], b[0].stuff["stuff"]) and set(a[0].stuff) == {"stuff"}
    for (one, matches), (other, others) in zip(a[1], b[1], strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(matches, others)
        assert torch.equal(one.roi_features, other.roi_features)  # type: ignore[arg-type]
    assert sum(map(len, a[2])) > 0
    for one, other in zip(a[2], b[2], strict=True):
        assert torch.equal(one.scores, other.scores) and torch.equal(one.masks.pixels, other.masks.pixels)
    assert all(torch.equal(one.labels, other.labels) for one, other in zip(a[3], b[3], strict=True))


def test_a_projection_of_zeros_leaves_the_base_as_it_is() -> None:
    """S2I and I2S on: with phi = 0 things are the plain base's, and the first semantic loss is too."""
    thing, stuff = branches()
    both = exchange(stuff)
    assert both.phi is not None
    set_to(both.phi, 0.0)
    torch.manual_seed(3)
    expected = plain(stuff).losses(inputs(thing.train(), stuff))
    torch.manual_seed(3)
    losses = both.losses(inputs(thing, stuff))
    assert all(torch.equal(losses.thing[k], expected.thing[k]) for k in expected.thing)
    assert torch.equal(losses.stuff["stuff"], expected.stuff["stuff"])
    assert set(losses.stuff) == {"stuff", "i2s"}
    (a, _), (b, _) = (e.outputs(inputs(thing.eval(), stuff), 0.1, FEATURES) for e in (both, plain(stuff)))
    assert sum(map(len, b)) > 0
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.scores, other.scores) and torch.equal(one.masks.pixels, other.masks.pixels)


@pytest.mark.parametrize("sim", [True, False])
def test_no_second_classifier_without_sim(sim: bool) -> None:
    thing, stuff = branches()
    module = exchange(stuff, sim=sim, ocm=sim)
    losses = module.losses(inputs(thing.train(), stuff, (2, 0)))
    assert set(losses.stuff) == ({"stuff", "i2s"} if sim else {"stuff"})
    assert (module.i2s is not None) == sim


def test_eq1_every_crop_gets_phi_of_the_semantic_crop() -> None:
    thing, stuff = branches()
    module = exchange(stuff, sim=False, ocm=False)
    assert module.phi is not None
    nn.init.normal_(module.phi.bias)  # type: ignore[arg-type]
    features, semantic = pyramids(1), torch.randn(1, stuff.width, 16, 16)
    rois = boxes_of([[4.0, 4.0, 40.0, 30.0], [10.0, 20.0, 60.0, 62.0]])
    seen = module.with_semantics(features.thing, semantic)
    boxes = [F.pad(rois[0].boxes, (1, 0))]
    for size, pool in ((7, thing.roi_heads.box_roi_pool), (14, thing.roi_heads.mask_roi_pool)):
        crop = roi_align(semantic, torch.cat(boxes), size, spatial_scale=0.25, sampling_ratio=2, aligned=True)
        expected = pool(features.thing, [rois[0].boxes]) + module.phi(crop)
        assert torch.allclose(pool(seen, [rois[0].boxes]), expected, atol=1e-5)


def test_positives_of_stage_two_see_the_semantic_features() -> None:
    thing, stuff = branches()
    module = exchange(stuff)
    assert module.phi is not None
    set_to(module.phi, 1.0)
    positives = []
    for each in (module, plain(stuff)):
        torch.manual_seed(3)
        positives.append(each.positives(inputs(thing.eval(), stuff), FEATURES))
    for (one, _), (other, _) in zip(*positives, strict=True):
        assert one.roi_features is not None and other.roi_features is not None
        assert len(one) == len(other) > 0
        assert torch.allclose(one.roi_features, other.roi_features + 1, atol=1e-5)


@pytest.mark.parametrize("ocm", [False, True])
def test_figure_4_with_dense_maps(ocm: bool) -> None:
    """SIM and OCM as drawn: inlay first, projections on the map, the code repeated in every pixel and joined."""
    torch.manual_seed(4)
    layout = LayoutContext(12, 6, 3, (1, 2, 3)) if ocm else None
    module = InstanceToSemantic(CHANNELS, 10, 12, 5, layout)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    semantic, sizes = torch.randn(2, 10, 16, 16), ((64, 64), (41, 50))
    rois = boxes_of([[4.0, 4.0, 40.0, 30.0], [10.0, 2.0, 60.0, 62.0]], [[0.0, 0.0, 30.0, 40.0]])
    inner = torch.randn(3, CHANNELS, 14, 14)

    boxes = torch.cat([F.pad(r.boxes, (1, 0), value=i) for i, r in enumerate(rois)])
    inlay = dense_inlay(inner, boxes, (2, 16, 16), 4.0)
    weight = module.project_instances.weight
    joined = torch.cat([F.relu(F.conv2d(inlay, weight[:6])), F.relu(module.project_semantic(semantic))], dim=1)
    expected = F.relu(module.mix(joined))
    if layout is not None:
        e = F.conv2d(inlay, weight[6:])
        values = []
        for i, (h, w) in enumerate(((16, 16), (11, 13))):  # 41 and 50 px are 11 and 13 cells of stride 4
            cells = []
            for g in (1, 2, 3):
                for r in range(g):
                    for c in range(g):
                        top, bottom, left, right = r * h // g, -(-(r + 1) * h // g), c * w // g, -(-(c + 1) * w // g)
                        cells.append(e[i, :, top:bottom, left:right].amax(dim=(1, 2)))
            grids = torch.stack(cells, dim=1).split([1, 4, 9], dim=1)
            values.append(torch.cat([grid.flatten() for grid in grids]))
        code = F.relu(layout.encode(torch.stack(values)))
        repeated = code[..., None, None].expand(-1, -1, 16, 16)
        expected = F.relu(layout.merge(torch.cat([expected, repeated], dim=1)))
    expected = module.predictor(expected)
    assert torch.allclose(module(semantic, inner, rois, sizes), expected, atol=1e-4)


def test_widths_of_the_paper() -> None:
    stuff = ConcatHead(in_channels=256, categories=CATEGORIES)
    module = FeatureAggregation(in_channels=256, categories=CATEGORIES, stuff=stuff)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "phi.weight": (256, 512, 1, 1),
        "i2s.project_instances.weight": (128 + 10, 256, 1, 1),
        "i2s.project_semantic.weight": (128, 512, 1, 1),
        "i2s.mix.weight": (256, 256, 3, 3),
        "i2s.layout.encode.weight": (128, 500),
        "i2s.layout.merge.weight": (256, 384, 1, 1),
        "i2s.predictor.weight": (5, 256, 1, 1),
    }
    assert all(p.abs().sum() == 0 for name, p in module.named_parameters() if name.endswith("bias"))


def test_the_layout_does_not_see_the_padding() -> None:
    torch.manual_seed(5)
    layout = LayoutContext(4, 3, 2, (1, 2, 3, 6))
    narrow, padded = torch.randn(1, 2, 8, 10), torch.full((1, 2, 16, 16), 9.0)
    padded[..., :8, :10] = narrow
    assert torch.equal(layout.pyramid(padded, [(32, 40)]), layout.pyramid(narrow, [(32, 40)]))


def test_the_panoptic_result_reads_the_second_classifier() -> None:
    thing, stuff = branches()
    module = exchange(stuff)
    assert module.i2s is not None
    set_to(module.i2s.predictor, 0.0)
    with torch.no_grad():
        module.i2s.predictor.bias[4] = 1.0  # type: ignore[index]
    _, maps = module.outputs(inputs(thing.eval(), stuff), 0.1, frozenset({"semantic_logits"}))
    assert all(semantic.labels.unique().tolist() == [4] for semantic in maps)
    assert maps[0].logits is not None and maps[0].logits.shape == (5, SIZE, SIZE)


def test_inlaid_boxes_depend_on_their_own_threshold_only() -> None:
    thing, stuff = branches()
    module, requires = exchange(stuff), frozenset({"semantic_logits"})
    nn.init.normal_(module.i2s.predictor.weight)  # type: ignore[union-attr]
    nn.init.normal_(thing.roi_heads.box_predictor.cls_score.weight, std=0.05)
    everything, _ = module.outputs(inputs(thing.eval(), stuff), 0.0, requires)
    low, high = 0.0, float(torch.cat([instances.scores for instances in everything]).median())
    results = {}
    for name, conf_thr, inlay_thr in (("a", low, high), ("b", high, high), ("c", high, low), ("d", low, 1.0)):
        module.inlay_thr = inlay_thr
        results[name] = module.outputs(inputs(thing.eval(), stuff), conf_thr, requires)
    maps = {name: torch.stack([m.logits for m in outputs[1]]) for name, outputs in results.items()}  # type: ignore[misc]
    counts = {name: sum(map(len, outputs[0])) for name, outputs in results.items()}
    assert counts["a"] == counts["d"] > counts["b"] == counts["c"] > 0
    assert torch.equal(maps["a"], maps["b"])  # the fusion's threshold does not matter
    assert not torch.equal(maps["b"], maps["c"]) and not torch.equal(maps["a"], maps["d"])
    for few, many in zip(results["c"][0], results["a"][0], strict=True):
        assert torch.equal(few.masks.pixels, many.masks[torch.arange(len(few))].pixels)
        assert (few.scores >= high).all()


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"sim": False}, "exchange.ocm=false"),
        ({"keep": (0.8, 0.6)}, "rising range"),
        ({"keep": (0.6, 1.2)}, "within 0..1"),
        ({"inlay": "masks"}, "did you mean 'mask'"),
    ],
)
def test_wrong_settings_are_answered(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        exchange(branches()[1], **settings)


def test_branches_without_features_are_refused() -> None:
    oracle = GroundTruthStuff(in_channels=CHANNELS, categories=CATEGORIES)
    with pytest.raises(ConfigError, match=r"semantic head.*stuff=banet"):
        exchange(oracle)
    assert exchange(oracle, s2i=False, sim=False, ocm=False) is not None
    things = GroundTruthThings(in_channels=CHANNELS, categories=CATEGORIES)
    _, stuff = branches()
    module = exchange(stuff)
    with pytest.raises(ConfigError, match=r"mask head.*thing=mask_rcnn"):
        module.outputs(inputs(things, stuff), 0.5, frozenset())


def test_the_method_composes_all_its_parts() -> None:
    config = compose(["method=banet", "preset=[coco,paper]"])
    chosen = {group: config.choices[group] for group in ("stuff", "exchange", "occlusion", "fusion")}
    assert set(chosen.values()) == {"banet"}
    assert config.thing.mask_convs == 3
