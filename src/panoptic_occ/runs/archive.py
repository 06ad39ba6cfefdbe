"""Tensors of many images in one file that can be read in any order and is never half-written.

A ZIP archive with one compressed safetensors payload per image, ``<image id>.safetensors``, and ``header.json``, which
is written last and has a digest of each.  safetensors runs no code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.common.files import atomic_path, check_regular, parse_json

FORMAT = 3
"""Version of the layout of an archive; another one is refused, not guessed at."""

HEADER = "header.json"
_SUFFIX = ".safetensors"


class ArchiveWriter(ExitStack):
    """Writes an archive; a context manager, at whose end the file appears whole, or not at all after an exception.

    ``header``: what the archive says about itself (plain JSON); it may be completed until the end.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.path = Path(path)
        self.header = dict(header)
        self._digests: dict[int, str] = {}

    def __enter__(self) -> Self:
        temporary = self.enter_context(atomic_path(self.path, sync=True))
        self._zip = self.enter_context(zipfile.ZipFile(temporary, "w"))
        self.push(self._finish)
        return self

    def add(self, image_id: int, tensors: Mapping[str, Tensor]) -> None:
        """Adds an image; ValueError when it is there already."""
        if image_id in self._digests:
            raise ValueError(f"{self.path}: image {image_id} was added before")
        payload = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self._digests[image_id] = _digest(payload)
        self._write(f"{image_id}{_SUFFIX}", payload)

    @property
    def digest(self) -> str:
        """Sixteen hex digits over all tensors so far, whatever the order in which they came."""
        return _digest(json.dumps(sorted(self._digests.items())).encode())

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            header = {**self.header, "format": FORMAT, "digest": self.digest, "images": self._digests}
            self._write(HEADER, json.dumps(header).encode())

    def _write(self, name: str, content: bytes) -> None:
        # an entry without a date: the same tensors give the same file
        self._zip.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


class Archive:
    """A finished archive, open for reading in any order; processes it is sent to open the file for themselves.

    ``advice``: how to make the file (again), the end of every error message.  Raises CheckpointError when there is no
    file or one of another version, DataError when it is damaged.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self.path = Path(path)
        self.advice = advice
        self._zip: zipfile.ZipFile | None = None
        text = self._read(HEADER)
        try:
            content = parse_json(text)
            self.header: dict[str, Any] = dict(content)
            version = self.header.get("format")
            self._digests = {int(number): str(value) for number, value in self.header.pop("images", {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._damaged("its header", error) from None
        if version != FORMAT:
            raise CheckpointError(
                f"{path}: has the format {version}, this version of panoptic_occ reads {FORMAT}; {advice}"
            )
        if self.header.get("digest") != _digest(json.dumps(sorted(self._digests.items())).encode()):
            raise self._damaged("its header", "it is not the one that was written")

    def image_ids(self) -> list[int]:
        """The images in the archive, in the order in which they were written."""
        return list(self._digests)

    def read(self, image_id: int) -> dict[str, Tensor]:
        """The tensors of an image."""
        payload = self._read(f"{image_id}{_SUFFIX}")
        if _digest(payload) != self._digests.get(image_id):
            raise self._damaged(f"image {image_id}", "it is not the one that was written")
        try:
            tensors: dict[str, Tensor] = load(payload)
        except SafetensorError as error:
            raise self._damaged(f"image {image_id}", error) from None
        return tensors

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zip": None}

    def _open(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                check_regular(self.path)
                self._zip = zipfile.ZipFile(self.path)
            except FileNotFoundError:
                raise CheckpointError(f"{self.path}: the file does not exist; {self.advice}") from None
            except Exception as error:  # zipfile raises what it meets in a damaged directory
                raise self._damaged("it", error) from None
        return self._zip

    def _read(self, name: str) -> bytes:
        archive = self._open()
        try:
            return archive.read(name)
        except KeyError:
            raise DataError(f"{self.path}: there is no {name} in it; {self.advice}") from None
        except Exception as error:
            raise self._damaged(name, error) from None

    def _damaged(self, what: str, error: object) -> DataError:
        return DataError(f"{self.path}: {what} cannot be read ({error}); the file is damaged: {self.advice}")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
