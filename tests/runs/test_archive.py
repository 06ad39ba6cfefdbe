"""Tensors of many images in one file: exact, in any order, whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.common.tensor_file import TensorFormat
from panoptic_occ.runs.archive import FORMAT, HEADER, Archive, ArchiveWriter

ADVICE = "write it again"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


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


def check_image(archive: Archive, image_id: int) -> None:
    actual, expected = archive.read(image_id), tensors(image_id)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same_bits(actual[name], tensor), name


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and bytes, so that NaN equals NaN."""
    same_kind = actual.dtype == expected.dtype and actual.shape == expected.shape
    return same_kind and torch.equal(*(tensor.flatten().view(torch.uint8) for tensor in (actual, expected)))


def test_reads_back_the_same_bits_in_any_order_and_process(path: Path) -> None:
    archive = write(path, 3, 1, 12)
    assert archive.image_ids() == [3, 1, 12] and archive.header["of"] == "tests"
    for image_id in (12, 3, 1, 12):
        check_image(archive, image_id)
    check_image(pickle.loads(pickle.dumps(archive)), 3)  # which opens the file for itself


def test_equal_tensors_give_equal_files_and_one_digest_in_any_order(tmp_path: Path) -> None:
    first, again = (write(tmp_path / name, 1, 2) for name in "ab")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert write(tmp_path / "d", 2, 1).header["digest"] == first.header["digest"]
    assert write(tmp_path / "e", 1, 3).header["digest"] != first.header["digest"]


@pytest.mark.parametrize("before", [(), (5,)])
def test_an_interrupted_writer_leaves_what_was_there(path: Path, before: tuple[int, ...]) -> None:
    content = write(path, *before).path.read_bytes() if before else None
    with pytest.raises(KeyboardInterrupt), ArchiveWriter(path, {}) as writer:
        writer.add(1, tensors(1))
        raise KeyboardInterrupt
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == ({"a.zip": content} if before else {})


def test_a_writer_that_was_killed_leaves_a_file_that_nobody_reads(path: Path) -> None:
    writer = ArchiveWriter(path, {})
    writer.__enter__()
    writer.add(1, tensors(1))  # and never closed
    with pytest.raises(CheckpointError, match=r"a\.zip: the file does not exist; write it again"):
        Archive(path, ADVICE)
    (left,) = path.parent.iterdir()
    with pytest.raises(DataError, match="damaged: write it again"):
        Archive(left, ADVICE)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(path: Path, share: float) -> None:
    content = write(path, 1, 2, 3).path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.zip: .* cannot be read .*; the file is damaged: write it again"):
        Archive(path, ADVICE)


def test_a_flipped_bit_is_found_in_the_image_that_has_it(path: Path) -> None:
    content = bytearray(write(path, 40, 2).path.read_bytes())
    content[120] ^= 4  # in the payload of image 40
    path.write_bytes(content)
    archive = Archive(path, ADVICE)
    check_image(archive, 2)
    with pytest.raises(DataError, match=r"a\.zip: 40\.safetensors cannot be read"):
        archive.read(40)


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (
            json.dumps({"format": FORMAT + 1}),
            CheckpointError,
            f"has the format {FORMAT + 1}, .* reads {FORMAT}; {ADVICE}",
        ),
        (
            json.dumps({"format": FORMAT - 1}),
            CheckpointError,
            f"has the format {FORMAT - 1}, .* reads {FORMAT}; {ADVICE}",
        ),
        ("{", DataError, "its header cannot be read"),
        (None, DataError, "damaged"),
    ],
)
def test_other_files_are_refused(path: Path, header: str | None, error: type[Exception], message: str) -> None:
    path.write_text("no archive")
    if header is not None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(HEADER, header)
    with pytest.raises(error, match=message):
        Archive(path, ADVICE)


def test_an_image_is_added_once_and_others_are_not_there(path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no 2\.safetensors in it; write it again"):
        write(path, 1).read(2)
    with pytest.raises(ValueError, match="image 1 was added before"):
        write(path, 1, 1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write here"):
        write(tmp_path / "file" / "a.zip", 1)


def damaged(content: bytes) -> Iterator[bytes]:
    """``content`` cut at every seventh byte, and with two faults of every byte."""
    yield from (content[:place] for place in range(0, len(content), 7))
    for place in range(len(content)):
        for fault in (1, 0x80):
            yield content[:place] + bytes([content[place] ^ fault]) + content[place + 1 :]


def test_a_fault_of_any_byte_is_named_or_changes_nothing(path: Path) -> None:
    good = write(path, 1, 3).path.read_bytes()
    faults = 0
    for content in damaged(good):
        path.write_bytes(content)
        try:
            archive = Archive(path, ADVICE)
            assert archive.image_ids() == [1, 3] and archive.header["of"] == "tests"
            check_image(archive, 1)
            check_image(archive, 3)
        except (CheckpointError, DataError) as error:
            assert str(path) in str(error) and ADVICE in str(error)
            faults += 1
    assert faults > len(good)


def test_a_fault_of_any_byte_of_a_tensor_file_is_named_or_changes_nothing(path: Path) -> None:
    kind = TensorFormat("tests", 1, CheckpointError, ADVICE)
    kind.write(path, tensors(2), {"of": "tests"})
    good, faults = path.read_bytes(), 0
    for content in damaged(good):
        path.write_bytes(content)
        try:
            header, actual = kind.read(path)
            assert header["of"] == "tests" and actual.keys() == tensors(2).keys()
            assert all(same_bits(actual[name], tensor) for name, tensor in tensors(2).items())
        except CheckpointError as error:
            assert str(path) in str(error) and ADVICE in str(error)
            faults += 1
    assert faults > 2 * len(good)


@pytest.mark.parametrize("change", ["swapped", "renamed", "left out"])
def test_payloads_are_those_of_their_images(path: Path, change: str) -> None:
    """Whole payloads under other names, each with its right CRC."""
    with zipfile.ZipFile(write(path, 1, 3).path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    one, three = (f"{number}.safetensors" for number in (1, 3))
    if change == "swapped":
        parts[one], parts[three] = parts[three], parts[one]
    elif change == "renamed":
        parts["2.safetensors"] = parts.pop(one)
    else:
        del parts[one]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(DataError, match=rf"a\.zip: .*1.*{ADVICE}"):
        Archive(path, ADVICE).read(1)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(DataError, match="not a file"):
        Archive(path, ADVICE)
    with pytest.raises(CheckpointError, match="not a file"):
        TensorFormat("tests", 1, CheckpointError, ADVICE).read_header(path)
