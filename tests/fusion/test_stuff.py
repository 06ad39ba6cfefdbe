import pytest
import torch

from panoptic_occ.fusion.stuff import fill_stuff


def test_area_is_counted_after_things_and_classes_go_by_label():
    ids = torch.zeros((3, 6), dtype=torch.int32)
    ids[:, :2] = 1
    semantic = torch.full((3, 6), -1)
    semantic[0] = 9  # 4 px free
    semantic[1, :5] = 4  # 3 px free
    semantic[2, :] = 6  # 4 px free
    filled, segments = fill_stuff(ids, semantic, stuff_area=4, first_id=2)
    assert [(s.id, s.label, s.isthing, s.area, s.instance) for s in segments] == [
        (2, 6, False, 4, None),
        (3, 9, False, 4, None),
    ]
    expected = torch.tensor([[1, 1, 3, 3, 3, 3], [1, 1, 0, 0, 0, 0], [1, 1, 2, 2, 2, 2]], dtype=torch.int32)
    assert torch.equal(filled, expected)
    assert filled.dtype == torch.int32


def test_one_segment_per_class_even_in_pieces():
    semantic = torch.tensor([[3, -1, 3], [3, -1, 3]])
    filled, segments = fill_stuff(torch.zeros((2, 3), dtype=torch.int32), semantic, 0, 1)
    assert len(segments) == 1 and segments[0].area == 4
    assert torch.equal(filled, (semantic == 3).int())


@pytest.mark.parametrize("rule", ["class", "component"])
def test_area_zero_adds_no_empty_segments(rule):
    semantic = torch.full((2, 2), 5)
    _, segments = fill_stuff(torch.ones((2, 2), dtype=torch.int32), semantic, 0, 2, rule)
    assert segments == ()


def test_any_negative_label_is_no_stuff():
    ids = torch.zeros((1, 3), dtype=torch.int32)
    filled, segments = fill_stuff(ids, torch.tensor([[-1, -7, 0]]), 0, 1)
    assert filled.tolist() == [[0, 0, 1]]
    assert [s.label for s in segments] == [0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("taken", [torch.uint8, torch.int32, torch.int64])
def test_integers_of_any_width(dtype, taken):
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randint(-2, 5, (19, 21), generator=generator)
    semantic[semantic == 4] = 127  # the largest label that a byte can hold
    ids = torch.randint(0, 4, (19, 21), generator=generator)
    filled, segments = fill_stuff(ids.to(taken), semantic.to(dtype), 3, 250)
    expected = ids.clone()
    for k, label in enumerate([0, 1, 2, 3, 127]):
        region = (semantic == label) & (ids == 0)
        assert region.sum() >= 3
        expected[region] = 250 + k
        assert (segments[k].label, segments[k].area) == (label, int(region.sum()))
    assert filled.dtype == torch.int32 and torch.equal(filled, expected.int())


PIECES = torch.tensor(
    [
        [3, 3, -1, 3, -1, 5],
        [3, -1, -1, -1, 3, 5],
        [-1, -1, 5, -1, -1, -1],
    ]
)  # class 3: 3 px and 2 px (joined by a corner); class 5: 2 px and 1 px


def test_component_rule_measures_connected_parts():
    ids = torch.zeros((3, 6), dtype=torch.int32)
    filled, segments = fill_stuff(ids, PIECES, 3, 1, "component")
    expected = torch.zeros((3, 6), dtype=torch.int32)
    expected[0, :2] = expected[1, 0] = 1
    assert torch.equal(filled, expected), "the part of 3 px stays, those of 2 px and 1 px go"
    assert [(s.id, s.label, s.area) for s in segments] == [(1, 3, 3)]
    whole, segments = fill_stuff(ids, PIECES, 3, 1)
    assert [(s.label, s.area) for s in segments] == [(3, 5), (5, 3)], "the class rule keeps all of both"
    assert torch.equal(whole > 0, PIECES > 0)


def test_component_rule_keeps_one_segment_per_class():
    filled, segments = fill_stuff(torch.zeros((3, 6), dtype=torch.int32), PIECES, 2, 1, "component")
    assert [(s.id, s.label, s.area) for s in segments] == [(1, 3, 5), (2, 5, 2)]
    assert filled[2, 2] == 0 and (filled == 2).sum() == 2


def test_component_rule_measures_what_things_left_free():
    ids = torch.zeros((1, 7), dtype=torch.int32)
    ids[0, 3] = 1  # cuts the strip of 7 px into two of 3
    semantic = torch.full((1, 7), 4)
    assert fill_stuff(ids, semantic, 4, 2, "component")[1] == ()
    filled, segments = fill_stuff(ids, semantic, 3, 2, "component")
    assert filled.tolist() == [[2, 2, 2, 1, 2, 2, 2]] and segments[0].area == 6


@pytest.mark.parametrize("rule", ["class", "component"])
@pytest.mark.parametrize(("share", "pixels"), [(0.0, 0), (0.1, 10), (0.07, 7), (0.0999, 10), (0.29, 29), (0.291, 30)])
def test_a_share_of_the_image_is_so_many_of_its_100_pixels(rule, share, pixels):
    """0.07 * 100 and 0.29 * 100 are not 7 and 29 in floating point."""
    semantic = torch.full((10, 10), -1)
    for label, area in enumerate((1, 6, 7, 9, 10, 28, 29, 30)):
        ids, labels = torch.zeros((10, 10), dtype=torch.int32), semantic.clone()
        labels.view(-1)[:area] = label
        in_share, in_pixels = (fill_stuff(ids, labels, least, 1, rule) for least in (share, pixels))
        assert torch.equal(in_share[0], in_pixels[0]) and in_share[1] == in_pixels[1]
        assert bool(in_share[1]) == (area >= pixels)
