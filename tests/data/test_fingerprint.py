"""The fingerprint of a split: every file of it counts, and only files that may have changed are read again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.conftest import TinyCoco
from panoptic_occ.data import fingerprint as module
from panoptic_occ.data.coco.annotations import read_annotations
from panoptic_occ.data.coco.source import CocoSource
from panoptic_occ.data.fingerprint import manifest_path, split_fingerprint


def repaint(path: Path) -> None:
    """Changes one pixel; size in bytes and time of the file stay, as after ``cp -p`` or ``rsync --times``."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


Prints = Callable[[Path | None], list[str]]
CHANGES: dict[str, tuple[Callable[[TinyCoco], object], bool]] = {  # and whether it is one of the annotations
    "repainted map": (lambda coco: repaint(coco.png_path(5)), True),
    "two maps under each other's names": (lambda coco: swap(coco.png_path(5), coco.png_path(7)), True),
    "map that is gone": (lambda coco: coco.png_path(9).unlink(), True),
    "space in a JSON": (lambda coco: coco.layout.instances_json.write_text(" {}"), True),
    "another image": (lambda coco: Image.new("RGB", (16, 12)).save(coco.image_path(5)), False),
    "pipe in place of an image": (lambda coco: [coco.image_path(7).unlink(), os.mkfifo(coco.image_path(7))], False),
}


@pytest.fixture
def coco(tiny_coco: TinyCoco) -> TinyCoco:
    tiny_coco.write()
    return tiny_coco


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read; files of this moment count as settled."""
    names: list[str] = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda path: [names.append(path.name), digest(path)][1])
    monkeypatch.setattr(module, "SETTLED", 0)
    return names


@pytest.fixture
def prints(coco: TinyCoco) -> Prints:
    """Fingerprints of the annotations and of all files as they are now, by what the annotations said at first."""
    records = read_annotations(coco.layout).records
    return lambda manifest: [
        split_fingerprint(coco.layout, lambda: records, manifest, images=images) for images in (False, True)
    ]


@pytest.mark.parametrize(("change", "annotates"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.usefixtures("reads")
def test_a_change_of_any_file_is_noticed(
    coco: TinyCoco, prints: Prints, tmp_path: Path, change: Callable[[TinyCoco], object], annotates: bool
) -> None:
    manifest = tmp_path / "manifest"
    before = prints(manifest)
    assert before == prints(manifest) == prints(None)
    change(coco)
    after = prints(manifest)
    assert after == prints(None)
    assert [old != new for old, new in zip(before, after, strict=True)] == [annotates, True]


def test_only_what_may_have_changed_is_read(coco: TinyCoco, prints: Prints, tmp_path: Path, reads: list[str]) -> None:
    manifest = tmp_path / "cache" / "manifest"
    first = prints(manifest)
    assert len(reads) == len(set(reads)) == 2 + 3 + 3
    reads.clear()
    assert prints(manifest) == first and not reads
    coco.png_path(7).touch()
    assert prints(manifest) == first and reads == ["0007.png"]
    reads.clear()
    for damage in (lambda text: text[:-9], lambda text: text.replace("images", "imagse"), lambda text: "\0"):
        manifest.write_text(damage(manifest.read_text()))
        assert prints(manifest) == first and len(reads) == 8
        reads.clear()
    (tmp_path / "file").write_text("")
    assert prints(tmp_path / "file" / "manifest") == first and len(reads) == 2 * 8 - 3  # nothing can be kept


@pytest.mark.parametrize(
    "change",
    [{"files": {"images/0005.jpg": 3}}, {"files": {"images/0005.jpg": ["1", 2, 3, "a"]}}, {"files": []}, {"images": 3},
     {"panoptic": [[]]}, {"format": []}, None],
)  # fmt: skip
def test_a_manifest_of_other_parts_is_made_anew(
    prints: Prints, tmp_path: Path, reads: list[str], change: dict[str, object] | None
) -> None:
    manifest = tmp_path / "manifest"
    first = prints(manifest)
    content = json.loads(manifest.read_text().partition("\n")[2])
    text = json.dumps([] if change is None else content | change)
    manifest.write_text(f"{module._digest_of(text)}\n{text}")
    reads.clear()
    assert prints(manifest) == first and len(reads) == 8


def test_a_pipe_is_no_manifest(prints: Prints, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest")
    assert prints(tmp_path / "manifest") == prints(None)


def test_files_that_changed_this_moment_are_read_again(
    coco: TinyCoco, prints: Prints, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED", 60_000_000_000)
    first = prints(tmp_path / "manifest")
    reads.clear()
    assert prints(tmp_path / "manifest") == first and len(reads) == 2 * 8 - 3


def test_reading_goes_on_after_an_interruption(
    coco: TinyCoco, prints: Prints, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, manifest = module._digest, tmp_path / "manifest"

    def interrupted(path: Path) -> str | None:
        if path == coco.image_path(7):
            raise KeyboardInterrupt
        return digest(path)

    monkeypatch.setattr(module, "CHUNK", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_digest", interrupted)
        prints(manifest)
    reads.clear()
    assert prints(manifest) == prints(None) and reads[0] == "0007.jpg"


def test_copies_agree_and_have_manifests_of_their_own(coco: TinyCoco, prints: Prints, tmp_path: Path) -> None:
    copy = shutil.copytree(coco.root, tmp_path / "copy")
    one, other = (
        CocoSource(root=root, val_split="val2017", train_split="val2017", cache_dir=tmp_path / "cache")
        for root in (coco.root, copy)
    )
    assert one.split("val").fingerprint == other.split("val").fingerprint == one.fingerprint() == prints(None)[1]
    assert one.relations_path(one.split("val")) == other.relations_path(other.split("val"))
    assert one.manifest(one.layout("val")) != other.manifest(other.layout("val"))
    assert manifest_path(tmp_path / "cache", one.layout("val")).exists()
