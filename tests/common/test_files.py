"""Files that are whole or not there, and only where they belong."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.files import (
    atomic_path,
    cannot_write,
    check_folder_name,
    default_cache_dir,
    path_below,
    read_json,
    write_text,
)
from panoptic_occ.common.tables import text_table
from panoptic_occ.common.tensor_file import TensorFormat
from panoptic_occ.common.terminal import PrintableFormatter, printable
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.training.stage import AtomicCheckpointIO


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


KIND = TensorFormat("tests", 1, DataError, "")
WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, ""),
    "map": lambda path: write_panoptic_png(path, np.zeros((2, 2), int)),
    "tensors": lambda path: KIND.write(path, {"a": torch.zeros(1)}, {}),
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({}, path),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_the_umask_decides_who_may_read_and_write(tmp_path: Path, umask: int, writer: Callable[[Path], None]) -> None:
    writer(tmp_path / "new" / "a")
    assert stat.S_IMODE((tmp_path / "new" / "a").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127])
def test_names_as_long_as_they_can_be(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(DataError, match=rf"the name has {len(os.fsencode(name)) + 2} bytes; shorten it"):
        write_text(tmp_path / f"{name}bc", "")


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "ä"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": "ä"}


@pytest.mark.parametrize(("make", "kind"), [(os.mkdir, "a folder"), (os.mkfifo, "a pipe")])
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / "a")
    with pytest.raises(DataError, match=rf"a: cannot be read \(.*is {kind}, not a file"):
        read_json(tmp_path / "a")
    with pytest.raises(DataError, match=rf"a: cannot write here \(is {kind}, not a file"):
        write_text(tmp_path / "a", "")


@pytest.mark.parametrize(
    "name", ["/a.png", "../a.png", "b/../../a.png", "b/../a.png", "", ".", "link/a.png", "circle/a.png", "a\0.png"]
)
def test_a_name_that_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    with pytest.raises(DataError, match=r"x\.json: image 3 has the name .*, which leads out of .*maps"):
        path_below(folder, name, "x.json: image 3")


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "maps").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"has the name 'a\.png', which leads out of .*maps"):
        path_below(tmp_path / "maps", "a.png", "x.json: image 3")


@pytest.mark.parametrize("name", ["a.png", "b/a.png", "..a.png", "b/...png", "a b.png", "inside/a.png", "~/a.png"])
def test_a_name_that_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "inside").symlink_to(tmp_path / "b")
    assert path_below(tmp_path, name, "") == tmp_path / name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\0", "  "])
def test_a_name_that_is_none_of_a_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.name=.*: needs a name for one folder below runs"):
        check_folder_name("data.name", name, Path("runs"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "too deep in each other"),
        (f"[{'7' * 5000}]", "digits"),
        ('{"a": ', r"not valid JSON at line 1, column 7"),
        ("\ud800".encode("utf-16", "surrogatepass").decode("latin-1"), "not valid JSON"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: .*{message}.*fetch or write it again"):
        read_json(tmp_path / "a.json")


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = PermissionError(13, "Permission denied")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PANOPTIC_OCC_CACHE", raising=False)
    assert "(PANOPTIC_OCC_CACHE=FOLDER)" in str(cannot_write(default_cache_dir() / "scenes" / "a.json", error))
    assert "(runs_dir=..., output=...)" in str(cannot_write(tmp_path / "runs" / "a.json", error))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(DataError, match=r"no home folder .* set PANOPTIC_OCC_CACHE=FOLDER"):
        default_cache_dir()
    assert "runs_dir" in str(cannot_write(tmp_path / "a.json", error))


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(KeyError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


NASTY = "a\x1b[2J\x9b1m\x07\r\x7f\u202e\x00b\tc\n"
SHOWN = r"a\x1b[2J\x9b1m\x07\r\x7f\u202e\x00b" + "\tc\n"


def test_control_characters_are_shown_and_not_sent() -> None:
    assert printable(NASTY) == SHOWN and printable("Größe 图 é\u0301") == "Größe 图 é\u0301"
    assert printable("\udcff.jpg") == r"\udcff.jpg"
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", (NASTY,), None)
    assert PrintableFormatter("%(name)s: %(message)s").format(record) == f"a: {SHOWN}"
    assert "\x1b" not in text_table(["", "PQ"], [["\x1b]0;title\x07", "1.0"]])
    assert json.loads(json.dumps(NASTY)) == NASTY  # files keep names as they are
