"""Conversion happens once, goes on after an interruption, and notices other files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from helpers.tiny_cityscapes import STREET, TinyCityscapes
from panoptic_occ.data.cityscapes import source as module
from panoptic_occ.data.cityscapes.source import CityscapesSource
from panoptic_occ.data.coco.writer import Part
from panoptic_occ.data.relations.preparation import prepare
from panoptic_occ.runs.build import plan_of


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCityscapes:
    made = TinyCityscapes(tmp_path / "data")
    made.write()
    return made


def sources(tiny: TinyCityscapes, cache: Path, processes: int = 1) -> CityscapesSource:
    return CityscapesSource(tiny.root, cache_dir=cache, processes=processes)


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_images_stay_where_they_are(tiny: TinyCityscapes, tmp_path: Path) -> None:
    source = sources(tiny, tmp_path / "cache")
    source.prepare()
    train, val = source.split("train"), source.split("val")
    assert [train.record(k).file_name.split("/")[0] for k in range(len(train))] == ["aachen", "aachen", "bremen"]
    assert (len(val), len(val.categories)) == (1, 19) and train.categories == val.categories
    picture = np.asarray(Image.open(tiny.image("train", "aachen/aachen_000001_000019")))
    assert np.array_equal(train.load(1).image.permute(1, 2, 0), picture)
    made = files_below(source.folder)
    assert len(made) == 4 + 4 + 1 and not any("leftImg8bit" in name for name in made)
    assert source.fingerprint() == train.fingerprint
    kept = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith("files_")}
    assert kept == {source.folder.name}  # no lock is left


def test_what_macos_puts_beside_files_is_no_data(tiny: TinyCityscapes, tmp_path: Path) -> None:
    for path in [path for path in tiny.root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    source = sources(tiny, tmp_path / "cache")
    source.prepare()
    assert (len(source.split("train")), len(source.split("val"))) == (3, 1)


def test_the_second_time_nothing_happens(tiny: TinyCityscapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(tiny, tmp_path / "cache").prepare()
    monkeypatch.setattr(module, "convert", None)
    again = sources(tiny, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")}
    again.prepare()
    again.prepare()
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")} == before
    assert len(again.split("train")) == 3


def test_an_interrupted_conversion_goes_on(
    tiny: TinyCityscapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, stems = module.convert, []

    def interrupted(files: module.Files, *rest: object) -> Part:
        stems.append(files.stem.split("/")[1])
        if len(stems) == 3:
            raise KeyboardInterrupt
        return honest(files, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sources(tiny, tmp_path / "a").prepare()
    folder = sources(tiny, tmp_path / "a").folder
    assert not (folder / "annotations" / "panoptic_train.json").exists()
    sources(tiny, tmp_path / "a").prepare()
    assert stems == [
        *("aachen_000000_000019", "aachen_000001_000019", "bremen_000000_000019"),
        *("bremen_000000_000019", "ulm_000000_000019"),
    ]
    sources(tiny, tmp_path / "b").prepare()
    assert files_below(folder) == files_below(tmp_path / "b" / folder.name)


def test_two_processes_write_the_same(tmp_path: Path) -> None:
    streets = {("train", f"a/a_{k:06d}_000019"): STREET[: 1 + k % 9] for k in range(36)} | {("val", "b/b_0_0"): STREET}
    tiny = TinyCityscapes(tmp_path / "data", streets=streets)
    tiny.write()
    for processes in (1, 2):
        sources(tiny, tmp_path / str(processes), processes).prepare()
    one, two = (files_below(tmp_path / name) for name in "12")
    assert len(one) == 37 + 4 + 1 and one == two


def test_other_files_are_converted_again(tiny: TinyCityscapes, tmp_path: Path) -> None:
    first = sources(tiny, tmp_path / "cache")
    first.prepare()
    path = tiny.polygons("val", "ulm/ulm_000000_000019")
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    touched = sources(tiny, tmp_path / "cache")
    assert touched.folder != first.folder
    touched.prepare()
    assert len(touched.split("val")) == 1
    assert touched.fingerprint() == first.fingerprint()  # the content is what bases depend on
    tiny.streets["train", "bremen/bremen_000001_000019"] = STREET
    tiny.write()
    assert sources(tiny, tmp_path / "cache").folder not in (first.folder, touched.folder)


def test_the_environment_names_the_folder_and_prepare_caches_relations(
    tiny: TinyCityscapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANOPTIC_OCC_CITYSCAPES", str(tiny.root))
    words = ["data=cityscapes", f"data.source.cache_dir={tmp_path}/cache", "processes=1", "compare=[]"]
    source = plan_of(words).data.build().source
    with open(tmp_path / "log", "w") as log:
        statistics = prepare(source, processes=1, check_files=True, console=Console(file=log, width=200))
    assert statistics["train"][0].pairs == 4  # three of the first image, one of the second
    relation = source.split("train").relations.get(1)
    assert relation.matrix(0.0).tolist() == [[-1, 0, 0], [1, -1, 0], [1, 1, -1]]
    cut = CityscapesSource(cache_dir=tmp_path / "cache", processes=1, inst_gt="panoptic").split("train").target(0)
    assert cut.relation.inter.triu(1).sum() == 0 and len(cut.labels) == 3
