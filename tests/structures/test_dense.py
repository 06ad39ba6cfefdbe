"""Dense masks in the shapes and types that people have, and those that could mean several things."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops

BINARY = np.zeros((3, 5, 7), dtype=bool)
BINARY[0, 1:4, 2:6], BINARY[1, 4, 6] = True, True
SOFT = torch.from_numpy(np.where(BINARY, 0.5, 0.49)).float()  # nowhere zero
READ_ONLY = BINARY.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "masks",
    [
        BINARY,
        BINARY[:, None],
        READ_ONLY,
        np.asfortranarray(BINARY),
        BINARY[:, ::-1].copy()[:, ::-1],
        BINARY.astype(np.uint8),
        BINARY.astype(np.uint8) * 255,
        BINARY.astype(np.uint16) * 255,
        BINARY.astype(">i4"),
        torch.from_numpy(BINARY.astype(np.int64))[:, None],
        torch.from_numpy(BINARY),
    ],
)
def test_binary_masks_of_any_kind(masks: Any) -> None:
    crops = MaskCrops.from_dense(masks)
    assert np.array_equal(crops.dense().numpy(), BINARY) and crops.area.tolist() == [12, 1, 0]


@pytest.mark.parametrize("soft", [SOFT, SOFT[:, None], SOFT.half(), SOFT.double().numpy(), 100 * (SOFT - 0.5)])
def test_soft_masks_need_a_threshold(soft: Any) -> None:
    with pytest.raises(ValueError, match=r"soft \(torch.float\d+\).*threshold=0.5 for probabilities"):
        MaskCrops.from_dense(soft)
    threshold = 0.0 if soft.min() < 0 else 0.5
    assert np.array_equal(MaskCrops.from_dense(soft, threshold=threshold).dense().numpy(), BINARY)


@pytest.mark.parametrize("empty", [torch.zeros(0, 1, 5, 7).bool(), np.zeros((0, 5, 7), dtype=np.uint8)])
def test_no_mask_at_all(empty: Any) -> None:
    assert len(MaskCrops.from_dense(empty)) == 0 and MaskCrops.from_dense(empty).size == (5, 7)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (BINARY[0], r"shape \(5, 7\); of one mask give mask\[None\]"),
        (np.repeat(BINARY[:, None], 4, axis=1), r"shape \(3, 4, 5, 7\); of a mask for every class"),
        (np.arange(24).reshape(2, 3, 4), r"integers from 0 to 23.*ids == id"),
        (np.array([[[0, 1, 255]]], dtype=np.uint8), "integers from 0 to 255"),
        (np.array([[[0, -1]]]), "integers from -1 to 0"),
        (list(torch.from_numpy(BINARY)), "not a list; torch.stack"),
        (BINARY.astype(object), "not a ndarray of object"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), "not a Tensor of torch.complex64"),
        (torch.zeros(1, 2, 2).to(torch.float8_e4m3fn), "not a Tensor of torch.float8_e4m3fn"),
        (BINARY.astype(np.longdouble), "not a ndarray of float128"),
    ],
)
def test_what_could_mean_several_things_is_refused(masks: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"from_dense takes.*{words}"):
        MaskCrops.from_dense(masks)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), True, "0.5", [0.5], torch.tensor(0.5)])
@pytest.mark.parametrize("masks", [SOFT, BINARY])
def test_a_threshold_is_a_finite_number(masks: Any, threshold: Any) -> None:
    with pytest.raises(ValueError, match=r"from_dense: threshold=.*; a finite number is needed"):
        MaskCrops.from_dense(masks, threshold=threshold)


def test_a_soft_mask_with_nan_is_refused() -> None:
    masks = SOFT.clone()
    masks[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"from_dense takes.*hold NaN"):
        MaskCrops.from_dense(masks, threshold=0.5)


def test_dense_masks_are_no_crops() -> None:
    parts = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"masks is a Tensor; .*MaskCrops.from_dense\(masks\)"):
        InstanceSet(torch.from_numpy(BINARY), *parts)  # type: ignore[arg-type]


def test_soft_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="soft"):
        MaskCrops.from_crops([torch.tensor([[0.3, 1.0]])], [(0, 0)], (4, 4))
