"""Files that are never half-written: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from panoptic_occ.common.errors import DataError, PanopticOccError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that takes no more: it is full, or the user's share of it is used up."""
_PROBE = 1 << 16  # bytes


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces ``path``, on an exception it is removed.

    ``sync``: the content is on the disk before the name is, so that it also survives a machine that fails.
    Makes the folder when it is missing.  A folder that cannot be written, or a full disk, raises DataError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        if (fault := _disk_fault(temporary, error)) is not None:
            raise cannot_write(path, fault) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed had begun to write in ``folder``; nobody else may be writing there."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be written: which, why, how much space is free, and what to do."""
    if error.errno not in FULL:
        return DataError(
            f"{path}: cannot write here ({error.strerror}); make the folder writable or choose another one "
            "(runs_dir=...)"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return DataError(
        f"{path}: cannot write here ({error.strerror}), {free:.1f} MiB are free in {folder}; what was written before "
        "is whole: make room there, or choose another disk (runs_dir=...), and run the same command again"
    )


def _disk_fault(temporary: Path, error: Exception) -> OSError | None:
    """The error of a full disk, if there is one behind ``error``.

    Writers in other languages (torch, safetensors) hide it, so a few more bytes are written to meet it again.
    """
    if isinstance(error, OSError):
        return error if error.errno in FULL else None
    if isinstance(error, PanopticOccError) or not temporary.exists():
        return None
    try:
        with open(temporary, "ab") as file:
            file.write(bytes(_PROBE))
            os.fsync(file.fileno())
    except OSError as fault:
        return fault
    return None


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes ``value`` as JSON atomically."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def digest(path: Path) -> str:
    """Sixteen hex digits over the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def read_json(path: Path) -> Any:
    """The content of a JSON file; a missing or broken file raises DataError with the place of the fault."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist; check the folder it should be in") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); the file is truncated "
            "or damaged, fetch or write it again"
        ) from None
