"""Tensors of many images in one file: exact, in any order, whole or not at all."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.runs.archive import FORMAT, HEADER, Archive, ArchiveWriter

ADVICE = "write it again"


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "floats": torch.tensor([0.1, float("nan"), -float("inf")]) * seed,
        "bytes": torch.randint(0, 256, (seed, 7), generator=generator, dtype=torch.uint8),
        "none": torch.zeros((0, 4), dtype=torch.int64),
        "half": torch.rand(5, generator=generator).bfloat16(),
        "number": torch.tensor(seed),
    }


def write(path: Path, *image_ids: int) -> Archive:
    with ArchiveWriter(path, {"of": "tests"}) as writer:
        for image_id in image_ids:
            writer.add(image_id, tensors(image_id))
    return Archive(path, ADVICE)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        # as bytes, so that NaN equals NaN
        assert torch.equal(*(t.flatten().view(torch.uint8) for t in (found[name], tensor))), name


def test_reads_back_the_same_bits_in_any_order(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", 3, 1, 12)
    assert archive.image_ids() == [3, 1, 12] and archive.header["of"] == "tests"
    for image_id in (12, 3, 1, 12):
        assert_equal(archive.read(image_id), tensors(image_id))


def test_equal_tensors_give_equal_files_and_one_digest_in_any_order(tmp_path: Path) -> None:
    first, again, other = (write(tmp_path / name, 1, 2) for name in "abc")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert write(tmp_path / "d", 2, 1).header["digest"] == first.header["digest"] == other.header["digest"]
    assert write(tmp_path / "e", 1, 3).header["digest"] != first.header["digest"]


def test_an_interrupted_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for before in (None, write(path, 5).path.read_bytes()):
        if before is None:
            path.unlink()
        with pytest.raises(KeyboardInterrupt), ArchiveWriter(path, {}) as writer:
            writer.add(1, tensors(1))
            raise KeyboardInterrupt
        assert (path.read_bytes() if before else path.exists()) == (before or False)
        assert [p.name for p in tmp_path.iterdir()] == (["a.zip"] if before else [])
        write(path, 5)


def test_a_writer_that_was_killed_leaves_a_file_that_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    writer = ArchiveWriter(path, {})
    writer.__enter__()
    writer.add(1, tensors(1))  # and never closed
    with pytest.raises(CheckpointError, match=r"a\.zip: the file does not exist; write it again"):
        Archive(path, ADVICE)
    (left,) = tmp_path.iterdir()
    with pytest.raises(DataError, match="damaged: write it again"):
        Archive(left, ADVICE)


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, cut: float) -> None:
    path = write(tmp_path / "a.zip", 1, 2, 3).path
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError, match=r"a\.zip: .* cannot be read .*; the file is damaged: write it again"):
        Archive(path, ADVICE)


def test_a_flipped_bit_is_found_in_the_image_that_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", 40, 2).path
    content = bytearray(path.read_bytes())
    content[120] ^= 4  # in the payload of image 40
    path.write_bytes(content)
    archive = Archive(path, ADVICE)
    assert_equal(archive.read(2), tensors(2))
    with pytest.raises(DataError, match=r"a\.zip: 40\.safetensors cannot be read"):
        archive.read(40)


def test_other_files_and_newer_ones_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", 1).path
    with pytest.raises(DataError, match=r"there is no 2\.safetensors in it; write it again"):
        Archive(path, ADVICE).read(2)
    for header, error, message in (
        (json.dumps({"format": FORMAT + 1}), CheckpointError, "newer panoptic_occ"),
        ("{", DataError, "its header cannot be read"),
    ):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(HEADER, header)
        with pytest.raises(error, match=message):
            Archive(path, ADVICE)
    path.write_text("no archive")
    with pytest.raises(DataError, match="damaged"):
        Archive(path, ADVICE)


def test_an_image_is_added_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 1 was added before"), ArchiveWriter(tmp_path / "a.zip", {}) as writer:
        writer.add(1, tensors(1))
        writer.add(1, tensors(1))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write here"):
        write(tmp_path / "file" / "a.zip", 1)


def test_other_processes_open_the_file_themselves(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", 4)
    assert_equal(pickle.loads(pickle.dumps(archive)).read(4), tensors(4))
