"""Pixels that are given away, and the atoms of masks."""

import pytest
import torch

from panoptic_occ.ops.claims import atoms, give_away, shared
from panoptic_occ.structures.masks import MaskCrops


def random_masks(seed, n=5, size=(7, 9)):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand((n, *size), generator=generator) < 0.5
    masks[0, :3] = False
    masks[1, :, 4:] = False
    masks[2] = False
    return masks


def test_losers_give_up_what_both_still_have_in_turn():
    masks = torch.zeros((3, 1, 4), dtype=torch.bool)
    masks[0, 0, :3] = masks[1, 0, 1:] = masks[2] = True
    crops = MaskCrops.from_dense(masks)
    left = give_away(crops, [(0, 1), (1, 2), (2, 0)], [0, 1, 2])
    assert left.dense().int().tolist() == [[[0, 0, 0, 0]], [[0, 0, 0, 1]], [[1, 1, 1, 0]]]
    assert torch.equal(crops.dense(), masks)  # the input stays as it was


def test_instances_outside_the_ranking_have_nothing():
    masks = random_masks(0)
    left = give_away(MaskCrops.from_dense(masks), [], [0, 3]).dense()
    assert torch.equal(left[[0, 3]], masks[[0, 3]]) and not left[[1, 2, 4]].any()


@pytest.mark.parametrize("seed", range(5))
def test_atoms_are_the_sets_of_pixels_with_the_same_claimants(seed):
    masks = random_masks(seed)
    atom_of, claimants = atoms(MaskCrops.from_dense(masks))
    assert torch.equal(claimants[atom_of].permute(2, 0, 1), masks)
    columns = masks.flatten(1).T.unique(dim=0)
    assert len(atom_of.unique()) == len(columns)
    assert int(atom_of[~masks.any(dim=0)].sum()) == 0


@pytest.mark.parametrize("seed", range(5))
def test_shared_rectangle(seed):
    masks = random_masks(seed)
    items = list(MaskCrops.from_dense(masks))
    window, first, second = shared(items[0], items[1])
    assert torch.equal(first, masks[0][window]) and torch.equal(second, masks[1][window])
    assert int((first & second).sum()) == int((masks[0] & masks[1]).sum())
