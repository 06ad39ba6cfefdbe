"""Files that are never half-written (write to a temporary name beside the target, then rename) and never where a name
in somebody else's file leads: ``path_below``."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from panoptic_occ.common.errors import ConfigError, DataError, PanopticOccError

CACHE_VARIABLE = "PANOPTIC_OCC_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that takes no more: it is full, or the user's share of it is used up."""
MADE = "made_by_panoptic_occ.txt"
"""Lies in folders of data that are made, from settings or from other files, and can be made again."""
_PROBE = 1 << 16  # bytes


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces ``path``, on an exception it is removed.

    ``sync``: the content is on the disk before the name is, so that it also survives a machine that fails.
    Makes the folder when it is missing; the umask decides who may read and write.  A folder that cannot be written, a
    full disk, a name that is too long or that of no file raises DataError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")  # fits where the name of ``path`` does
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_free(path):
            check_regular(path)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.chmod(temporary, mode)  # safetensors makes the file anew, for its owner alone
        os.replace(temporary, path)
    except Exception as error:
        if (fault := _disk_fault(temporary, error)) is not None:
            raise cannot_write(path, fault) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def path_below(folder: Path, name: str, what: str) -> Path:
    """``folder / name``, to be written, for a ``name`` that stands in a file.

    DataError, which names ``what`` has it, when it leads out of ``folder``: an absolute name, ``..``, or a link, as
    ``folder`` itself may be one.
    """
    try:
        path = folder / name
        parts, place = Path(name).parts, path.resolve()
        relative = ".." not in parts and not Path(name).is_absolute()
        inside = relative and not folder.is_symlink() and folder.resolve() in place.parents
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that no file can have
        inside = False
    if not inside:
        raise DataError(
            f"{what} has the name {name!r}, which leads out of {folder}, so that nothing is written; names of files "
            "must be relative, without '..', and no link may lead elsewhere"
        )
    return path


def check_folder_name(key: str, value: object, parent: Path) -> str:
    """``value``, if it can be the name of one folder below ``parent``; else ConfigError."""
    name = str(value)
    if not name.strip(". ") or re.search(r"[/\\\0]", name):
        raise ConfigError(f"{key}={name!r}: needs a name for one folder below {parent}, without / and \\")
    return name


def check_regular(path: Path) -> None:
    """OSError unless ``path`` is a file: opening a pipe could wait for ever, and a device has no end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))


def _is_free(path: Path) -> bool:
    """Whether nothing, or a link, has this name; OSError for a name that no file can have."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Removes what processes that were killed had begun to write in ``folder``; nobody else may be writing there.

    ``names``: a pattern of the files that they would have become, ``maps/**/*`` for those of a subfolder and below.
    """
    parent, _, name = names.rpartition("/")
    for temporary in folder.glob(f"{parent}/.{name}.*.tmp".lstrip("/")):
        temporary.unlink(missing_ok=True)


def default_cache_dir() -> Path:
    """Where derived files go unless a folder is given; DataError where nobody has a home."""
    folder = _cache_dir()
    if folder is None:
        raise DataError(f"there is no home folder for derived files; set {CACHE_VARIABLE}=FOLDER")
    return folder


def _cache_dir() -> Path | None:
    with suppress(RuntimeError):  # without a home
        return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/panoptic_occ").expanduser()
    return None


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be written: which, why, how much space is free, and what to do."""
    start = f"{path}: cannot write here ({error.strerror})"
    is_cache = _cache_dir() in path.absolute().parents
    place = f"{CACHE_VARIABLE}=FOLDER" if is_cache else "runs_dir=..., output=..."
    if error.errno == errno.ENAMETOOLONG:
        return DataError(f"{start}: the name has {len(os.fsencode(path.name))} bytes; shorten it")
    if error.errno not in FULL:
        return DataError(f"{start}; make the folder writable or choose another one ({place})")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return DataError(
        f"{start}, {free:.1f} MiB are free in {folder}; what was written before is whole: make room there, or choose "
        f"another disk ({place}), and run the same command again"
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


def how_to_get(path: Path, otherwise: str) -> str:
    """How a damaged file of data comes back: in a folder that was made (``MADE``), by itself, else ``otherwise``."""
    made = next((parent for parent in path.absolute().parents if (parent / MADE).exists()), None)
    return otherwise if made is None else f"remove the folder {made} and run again, which makes it anew"


def names_a_drive(path: Path) -> bool:
    r"""Whether a folder or file of ``path`` has the name of an absolute path of Windows, where this is another system.

    >>> names_a_drive(Path("val", r"C:\data\x.jpg")), names_a_drive(Path("val", "x.jpg"))
    (True, False)
    """
    return any(PureWindowsPath(part).drive for part in path.parts[bool(path.anchor) :])


def digest(path: Path) -> str:
    """Sixteen hex digits over the content of a file; OSError for a folder, a pipe or a device."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def read_json(path: Path) -> Any:
    """The content of a JSON file; a missing or broken file raises DataError with the place of the fault."""
    try:
        check_regular(path)
        return parse_json(Path(path).read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except FileNotFoundError:
        problem, fix = "the file does not exist", "check the folder it should be in"
    except (OSError, UnicodeDecodeError) as error:
        problem, fix = f"cannot be read ({error})", "fetch or write it again"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} ({error.msg})"
        problem, fix = f"not valid JSON at {place}; the file is truncated or damaged", "fetch or write it again"
    except ValueError as error:
        problem, fix = f"cannot be read as JSON ({error})", "fetch or write it again"
    raise DataError(f"{path}: {problem}; {how_to_get(path, fix)}")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for what is none, for values in too many others and for numbers of thousands
    of digits."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists or objects lie too deep in each other") from None
