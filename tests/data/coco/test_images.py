"""Image files of every kind as RGB pixels of 8 bits, in a data set and on their own."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.coco.images import PHOTOGRAPHS, read_rgb
from panoptic_occ.data.coco.orientation import exif_orientation, fitting
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png

DEEP = np.array([[0, 255, 256, 30_000, 65_535]], dtype=np.uint16)


def png16(path: Path, samples: np.ndarray, color_type: int) -> None:
    """A PNG of 16 bits, written by hand from (H,W,C): Pillow writes only gray ones."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path: Path, color_type: int, channels: int) -> None:
    png16(tmp_path / "a.png", DEEP[..., None].repeat(channels, axis=2), color_type)
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 5, 3)
    assert pixels.tolist() == [[[value] * 3 for value in (0, 0, 1, 117, 255)]]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_bytes_in_either_order(tmp_path: Path, order: str) -> None:
    Image.fromarray(DEEP.astype(order)).save(tmp_path / "a.tif")
    assert read_rgb(tmp_path / "a.tif")[0, :, 1].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_modes_without_a_range_are_refused(tiny_coco: Any, kind: type, mode: str) -> None:
    message = f"the image has mode {mode}, whose values have no range that could be shown"
    data, path = tiny_coco.data(), tiny_coco.image_path(5)
    Image.fromarray(np.zeros((12, 16), dtype=kind)).save(path, "TIFF")
    with pytest.raises(DataError, match=rf"0005\.jpg: {message}; convert it to 8 bits"):
        read_rgb(path)
    (problem,) = check(data)
    assert (problem.kind, problem.problem, problem.fix) == ("unreadable file", message, "convert it to 8 bits")


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_a_data_set_of_other_modes_looks_as_one_of_rgb(tiny_coco: Any, mode: str) -> None:
    data = tiny_coco.data()
    gray = Image.fromarray(np.linspace(0, 255, 192).astype(np.uint8).reshape(12, 16))
    image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    image.save(tiny_coco.image_path(5), "TIFF")
    assert torch.equal(data.load(0).image, torch.from_numpy(np.asarray(gray)).expand(3, -1, -1))
    assert check(data) == []


def test_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (2, 4, 3)
    assert read_rgb(tmp_path / "a.jpg", upright=True).shape == (4, 2, 3)


TURNED = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", TURNED)
def test_orientations_of_every_kind(tmp_path: Path, kind: str, value: int) -> None:
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    stored[:16, :16], stored[:16, 16:] = (255, 255, 255), (128, 128, 128)  # differs from all of its turns
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / "photo"
    Image.fromarray(stored).save(path, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    for upright, expected in ((False, stored), (True, TURNED[value](stored))):
        pixels = read_rgb(path, upright)
        assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() < 9
    assert exif_orientation(path) == (value, (32, 48))
    assert fitting(path, (48, 32)) == (value, ["exif"] if value >= 5 else [])
    assert fitting(path, (32, 48)) == (value, ["pixels"] if value >= 5 else ["pixels", "exif"])


SCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touched) print\n%%EOF\n"
PPM, PCX, ICON = b"P6 1 1 255\nabc", b"\n\5\1\x08" + bytes(200), b"\0\0\1\0\1\0" + bytes(40)


@pytest.mark.parametrize("content", [SCRIPT, PPM, PCX, ICON, b"", b"\xff\xd8\xff", b"GIF89a"])
@pytest.mark.parametrize("name", ["holiday.jpg", "holiday.eps"])
def test_other_formats_are_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
) -> None:
    """Pillow would hand PostScript to Ghostscript, a program."""
    monkeypatch.setattr("subprocess.check_call", None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"holiday\..*: the image cannot be decoded .*JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        read_rgb(tmp_path / name)


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_photographs_of_every_kind(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (5, 4), (0, 0, 255)).save(tmp_path / "photo", kind)
    pixels = read_rgb(tmp_path / "photo")
    assert pixels.shape == (4, 5, 3) and np.abs(pixels.astype(int) - (0, 0, 255)).max() < 9


@pytest.mark.parametrize("kind", [kind for kind in PHOTOGRAPHS if kind != "PNG"])
def test_a_map_is_lossless(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match=rf"a\.png: the panoptic PNG is a {kind}; it must be lossless \(PNG\)"):
        read_panoptic_png(tmp_path / "a.png")


def test_images_larger_than_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)
    for name, size in (("small", (4000, 1999)), ("large", (4000, 2001))):
        Image.new("1", size).save(tmp_path / name, "PNG")
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_rgb(tmp_path / "small").shape == (1999, 4000, 3)
    for read in (read_rgb, read_panoptic_png):
        with pytest.raises(DataError, match=r"large: the .* has more than 8 million pixels, .*into tiles"):
            read(tmp_path / "large")


@pytest.mark.parametrize("name", [r"C:\data\val\x.jpg", "C:/data/val/x.jpg", r"\\server\share\x.jpg"])
def test_a_name_of_windows(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"does not exist: its name .* is an absolute path of Windows; write names rel"):
        read_rgb(tmp_path / name)
    with pytest.raises(DataError, match="does not exist; fetch it again"):
        read_rgb(tmp_path / "C.jpg")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_image(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: the image cannot be decoded \(.*not a file"):
        read_rgb(tmp_path / "a.jpg")
