"""One fingerprint over the content of every file of a split, cheap to ask for again.

A manifest keeps size, times and digest of each file.  A file that still has these is not read again; the content alone
decides about the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import check_regular, parse_json, write_text
from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.layout import Layout

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")

FORMAT = 1
"""Version of the layout of a manifest; another one is made anew."""
SETTLED = 2_000_000_000
"""Nanoseconds: a file that changed this shortly before it was read may change again and keep its times."""
LARGE = 1 << 30
"""Bytes from which on reading takes long enough to say so."""
THREADS = 16
CHUNK = 64  # files that a thread takes at a time

Stamp = tuple[int, int, int]
"""Size in bytes, time of the content and time of the entry in the folder, in nanoseconds.

Programs set the first time as they like (``cp -p``, archives), the second one only the system.
"""


def split_fingerprint(
    layout: Layout, records: Callable[[], Iterable[ImageRecord]], manifest: Path | None = None, *, images: bool = True
) -> str:
    """SHA-256 (hex) over names and content of the annotation files, the panoptic PNGs and the images of a split.

    ``records``: what the annotation files say, asked for where the manifest does not know the names.  ``images``: False
    leaves them out.  Names are those below the folders of ``layout``: copies have one fingerprint.  A file that is
    missing or cannot be read counts as that; its reader says so.  Without ``manifest``, or where none can be written,
    every file is read.
    """
    known = _Manifest(manifest)
    try:
        files = {"panoptic.json": layout.panoptic_json, "instances.json": layout.instances_json}
        known.update(files)
        known.name_files(records)
        files |= {f"panoptic/{name}": layout.panoptic / name for name in known.content["panoptic"]}
        if images:
            files |= {f"images/{name}": layout.images / name for name in known.content["images"]}
        known.update(files)
    finally:  # what was read before an interruption need not be read again
        known.write()
    return _digest_of(sorted((name, known.digests[name]) for name in files))


def manifest_path(folder: Path, layout: Layout) -> Path:
    """The manifest of the files in these places, below ``folder``."""
    places = [str(path.absolute()) for path in vars(layout).values() if isinstance(path, Path)]
    return folder / f"files_{layout.images.name}_{_digest_of(places)[:12]}.json"


class _Manifest:
    """The manifest of a split: what it holds, and ``digests``, those of the files as they are now.

    ``content``: the digest of the panoptic JSON (``of``) with the names of the PNGs and images that it lists, and
    ``files``, by name size, times and digest.  The file begins with a line that holds the digest of the rest.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.digests: dict[str, str | None] = {}
        self.content: dict[str, Any] = {"format": FORMAT, "of": None, "panoptic": [], "images": [], "files": {}}
        self._changed = False
        try:
            if path is None:
                return
            check_regular(path)
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):  # a damaged one is made anew, like one that is missing
            return
        if digest == _digest_of(text) and (content := _content_of(text)) is not None:
            self.content = content

    def name_files(self, records: Callable[[], Iterable[ImageRecord]]) -> None:
        """Learns the names of the PNGs and images, if they may have changed."""
        of, content = self.digests["panoptic.json"], self.content
        if of is None or content["of"] != of:
            names = [(record.panoptic_name, record.file_name) for record in records()]
            content |= {"of": of, "panoptic": [png for png, _ in names], "images": [image for _, image in names]}
            listed = {*self.digests, *(f"{kind}/{name}" for kind in ("panoptic", "images") for name in content[kind])}
            content["files"] = {name: entry for name, entry in content["files"].items() if name in listed}
            self._changed = True

    def update(self, files: Mapping[str, Path]) -> None:
        """Brings the digests of these files up to date: reads those that are new or may have changed."""
        names = [name for name in files if name not in self.digests]
        stamps = dict(zip(names, _in_threads(_stamp, [files[name] for name in names]), strict=True))
        known: dict[str, list[Any]] = self.content["files"]
        unread: dict[str, Stamp] = {}
        for name, stamp in stamps.items():
            self.digests[name] = None
            if stamp is not None:
                *before, digest = known.pop(name, [None])
                if tuple(before) == stamp:
                    self.digests[name], known[name] = digest, [*before, digest]
                else:
                    unread[name] = stamp
        size = sum(stamp[0] for stamp in unread.values())
        if size >= LARGE:
            log.info(
                "%s: reading %d files (%.1f GB), so that a change of any of them is noticed; this is done once, later "
                "only changed files are read",
                *(files[next(reversed(unread))].parent, len(unread), size / 1e9),
            )
        begun = time.time_ns()
        with closing(_in_threads(_digest, [files[name] for name in unread], shown=size >= LARGE)) as digests:
            for (name, stamp), digest in zip(unread.items(), digests, strict=True):
                self.digests[name], self._changed = digest, True
                if digest is not None and max(stamp[1:]) < begun - SETTLED:
                    known[name] = [*stamp, digest]

    def write(self) -> None:
        """Writes the manifest if it has changed and can be written: it only saves time."""
        if self.path is None or not self._changed:
            return
        text = json.dumps(self.content)
        try:
            write_text(self.path, f"{_digest_of(text)}\n{text}")
        except DataError:
            log.info("%s: cannot be written, so that all files of the split are read again next time", self.path)


def _content_of(text: str) -> dict[str, Any] | None:
    """What a manifest holds; None when its parts are not what ``_Manifest`` writes."""
    try:
        content = parse_json(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    lists, files = [content.get("panoptic"), content.get("images")], content.get("files")
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        return None
    entries = files.values() if isinstance(files, dict) else [None]
    whole = all(isinstance(entry, list) and [*map(type, entry)] == [int, int, int, str] for entry in entries)
    return content if "of" in content and whole else None


def _in_threads(function: Callable[[In], Out], items: Sequence[In], *, shown: bool = False) -> Generator[Out]:
    """``function(item)`` of all items, in their order, many at once, as a disk in the network answers them; ``shown``:
    a terminal shows how far it has come."""
    from rich.console import Console  # takes a moment, and workers do without
    from rich.progress import track

    console = Console(stderr=True)
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    hidden = not (shown and console.is_terminal)
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        for chunk in track(results, "reading", len(chunks), console=console, transient=True, disable=hidden):
            yield from chunk


def _stamp(path: Path) -> Stamp | None:
    """The stamp of a file; None when it is missing, or no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns) if stat.S_ISREG(state.st_mode) else None


def _digest(path: Path) -> str | None:
    """The SHA-256 (hex) of a file; None when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
