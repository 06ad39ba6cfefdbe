"""Weight files: exact round trip, and one clear refusal for each kind of wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from panoptic_occ.common.errors import CheckpointError, ConfigError, NonFiniteLossError
from panoptic_occ.common.tensor_file import TensorFormat
from panoptic_occ.runs.weights import WEIGHTS, check_data, load_weights, save_weights, saved_digest, weights_digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def test_round_trip_is_exact_and_equal_weights_give_equal_files(path: Path) -> None:
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    first(torch.randn(2, 3, 4, 4))
    save_weights(path, {"norm": first}, {"stage": "base", "steps": "7"})
    assert load_weights(path, {"norm": second})["stage"] == "base"
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    content = path.read_bytes()
    save_weights(path, {"norm": second}, {"stage": "base", "steps": "7"})
    assert path.read_bytes() == content


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


OTHER = {
    "nothing": (Path.unlink, "does not exist; train first"),
    "another shape": (
        lambda path: save_weights(path, {"l": nn.Linear(4, 3)}, {}),
        r"another shape \(first: l.weight \(3, 4\) in the file, \(3, 2\)",
    ),
    "other tensors": (
        lambda path: save_weights(path, {"other": nn.Linear(2, 3)}, {}),
        r"2 missing \(first: l.bias, l.weight\); 2 unknown",
    ),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:-5]), "cannot be read .*damaged; .*once it is removed"),
    "another bit": (flip_a_bit, "damaged, its tensors are not those that were written"),
    "another format": (lambda path: save_file({"l.weight": torch.ones(3, 2)}, path), "has the format None, not"),
    "half precision": (
        lambda path: WEIGHTS.write(path, {f"l.{n}": t.half() for n, t in nn.Linear(2, 3).state_dict().items()}, {}),
        r"2 of another type \(first: l.bias torch.float16, not torch.float32, .* train again",
    ),
    "values that are not finite": (
        lambda path: WEIGHTS.write(path, {"l.bias": torch.full((3,), torch.nan), "l.weight": torch.ones(3, 2)}, {}),
        r"1 with values that are not finite \(first: l.bias\)\. .*remove it and train again",
    ),
    "another version": (
        lambda path: TensorFormat(WEIGHTS.name, 1, CheckpointError, "").write(path, {}, {}),
        "has the version 1, not 2; train first",
    ),
}


@pytest.mark.parametrize(("write", "message"), OTHER.values(), ids=OTHER.keys())
def test_other_files_are_refused_and_nothing_is_loaded(path: Path, write: object, message: str) -> None:
    layer = nn.Linear(2, 3)
    save_weights(path, {"l": layer}, {})
    before = layer.weight.clone()
    write(path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: .*{message}"):
        load_weights(path, {"l": layer})
    assert torch.equal(layer.weight, before)


def test_weights_of_other_data_are_refused(path: Path) -> None:
    save_weights(path, {"l": nn.Linear(2, 3)}, {"data": "a" * 64})
    check_data(path, "a" * 64)
    check_data(path, None)
    with pytest.raises(ConfigError, match=r"trained on other data \(fingerprint a{12}, .* b{12}\)"):
        check_data(path, "b" * 64)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_diverged_training_leaves_no_weights(path: Path, value: float) -> None:
    layer = nn.Linear(2, 3)
    save_weights(path, {"l": layer}, {})
    before = path.read_bytes()
    with torch.no_grad():
        layer.bias[1] = value
    with pytest.raises(NonFiniteLossError, match=r"w\.safetensors: not written, .*1 of 2 .*l\.bias\)\. Lower the"):
        save_weights(path, {"l": layer}, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_weights_of_any_precision_have_32_bits_in_the_file(path: Path, precision: torch.dtype) -> None:
    save_weights(path, {"norm": nn.BatchNorm2d(3).to(precision)}, {})
    norm = nn.BatchNorm2d(3)
    load_weights(path, {"norm": norm})
    assert saved_digest(path) == weights_digest({"norm": norm}) and norm.weight.dtype == torch.float32
