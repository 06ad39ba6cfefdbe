"""Weight files: exact round trip, and one clear refusal for each kind of wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.runs.archive import FORMAT
from panoptic_occ.runs.weights import load_weights, save_weights


def test_round_trip_is_exact(tmp_path: Path) -> None:
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    first(torch.randn(2, 3, 4, 4))
    save_weights(tmp_path / "w.safetensors", {"norm": first}, {"stage": "base"})
    assert load_weights(tmp_path / "w.safetensors", {"norm": second})["stage"] == "base"
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_wrong_files_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(CheckpointError, match="does not exist; train first"):
        load_weights(path, {"l": layer})
    save_weights(path, {"l": nn.Linear(4, 3)}, {})
    with pytest.raises(CheckpointError, match=r"another shape \(first: l.weight \(3, 4\) in the file, \(3, 2\)"):
        load_weights(path, {"l": layer})
    save_weights(path, {"other": nn.Linear(2, 3)}, {})
    with pytest.raises(CheckpointError, match=r"2 missing \(first: l.bias, l.weight\); 2 unknown"):
        load_weights(path, {"l": layer})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(path, {"l": layer})
    save_file({"l.weight": before}, path, metadata={"format": str(FORMAT + 1)})
    with pytest.raises(CheckpointError, match="newer panoptic_occ"):
        load_weights(path, {"l": layer})
    save_file({"l.weight": before}, path)
    with pytest.raises(CheckpointError, match="not written by panoptic_occ"):
        load_weights(path, {"l": layer})
    assert torch.equal(layer.weight, before)
