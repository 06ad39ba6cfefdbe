import torch

from panoptic_occ.fusion.semantic import fill_stuff


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


def test_area_zero_adds_no_empty_segments():
    semantic = torch.full((2, 2), 5)
    _, segments = fill_stuff(torch.ones((2, 2), dtype=torch.int32), semantic, 0, 2)
    assert segments == ()


def test_any_negative_label_is_no_stuff():
    ids = torch.zeros((1, 3), dtype=torch.int32)
    filled, segments = fill_stuff(ids, torch.tensor([[-1, -7, 0]]), 0, 1)
    assert filled.tolist() == [[0, 0, 1]]
    assert [s.label for s in segments] == [0]
