"""Tensors in one safetensors file that is never half-written, below a header that says what they are.

safetensors runs no code when it is read, and has no checksum of its own: the header holds one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from panoptic_occ.common.errors import PanopticOccError
from panoptic_occ.common.files import atomic_path, check_regular, parse_json

_HEADER, _CHECK, _LAYOUT = "header", "header_digest", "layout"


@dataclass(frozen=True)
class TensorFormat:
    """A kind of tensor file, by ``name`` and ``version``.

    A file that is missing, damaged, or of another kind or version raises ``error``, which ends with ``advice``.
    """

    name: str
    version: int
    error: type[PanopticOccError]
    advice: str

    def write(self, path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Writes ``tensors`` atomically, with ``about`` (plain JSON) in the header; equal content gives equal files."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": self.name, "version": self.version, "digest": tensors_digest(tensors), **about}
        header[_LAYOUT] = _checksum(_layout(tensors))
        header[_CHECK] = _checksum(header)
        with atomic_path(path, sync=True) as temporary:
            # one entry, because safetensors writes several in a random order
            save_file(tensors, temporary, metadata={_HEADER: json.dumps(header)})

    def read_header(self, path: Path) -> dict[str, Any]:
        """The header alone."""
        with self._open(path) as (header, _):
            return header

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header and all tensors."""
        with self._open(path) as (header, file):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        layout = header.pop(_LAYOUT, None)
        if header.get("digest") != tensors_digest(tensors) or layout not in (None, _checksum(_layout(tensors))):
            raise self.error(f"{path}: is damaged, its tensors are not those that were written; {self.advice}")
        return header, tensors

    @contextmanager
    def _open(self, path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
        try:
            check_regular(path)
            with safe_open(path, framework="pt") as file:
                header = parse_json((file.metadata() or {}).get(_HEADER, "{}"))
                if not isinstance(header, dict):
                    raise ValueError("its header is no object")
                for key, here in (("format", self.name), ("version", self.version)):
                    if header.get(key) != here:
                        raise self.error(f"{path}: has the {key} {header.get(key)!r}, not {here!r}; {self.advice}")
                check = header.pop(_CHECK, None)
                if check not in (None, _checksum(header)):
                    raise ValueError("its header is not the one that was written")
                yield header, file
        except FileNotFoundError:
            raise self.error(f"{path}: the file does not exist; {self.advice}") from None
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, PanopticOccError):
                raise
            raise self.error(f"{path}: cannot be read ({error}), it is damaged; {self.advice}") from None


def _checksum(content: Mapping[str, Any]) -> str:
    """Sixteen hex digits over plain JSON."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Type and shape of every tensor, which its bits do not tell."""
    return {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits over the bits of all tensors, in the order of their names."""
    digest = hashlib.blake2b(digest_size=8)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
