"""Weights of finished stages: safetensors files with a header that says what they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.common.files import atomic_path

FORMAT = 1
"""Version of the layout of the weight files; a newer file is refused, not guessed at."""


def save_weights(path: Path, modules: Mapping[str, nn.Module], about: Mapping[str, str]) -> None:
    """Writes parameters and buffers of ``modules`` as ``<module>.<name>``, with ``about`` in the header, atomically."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    with atomic_path(path, sync=True) as temporary:
        save_file(tensors, temporary, metadata={"format": str(FORMAT), "digest": _digest(tensors), **about})


def read_about(path: Path) -> dict[str, str]:
    """The header of a weight file; CheckpointError when it is missing, broken or from a newer version."""
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, str] = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: the file does not exist; train first, or point run= to a finished run"
        ) from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"not a readable safetensors file ({error})") from None
    version = about.get("format", "")
    if not version.isdigit():
        raise CheckpointError(f"{path}: not written by panoptic_occ (its header has no format number)")
    if int(version) > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer panoptic_occ (format {version}, this version reads up to {FORMAT}); update it"
        )
    return about


def check_annotations(path: Path, fingerprint: str | None) -> None:
    """ConfigError when a weight file says that it was trained on annotations of another ``fingerprint``."""
    trained = read_about(path).get("annotations")
    if trained and fingerprint and trained != fingerprint:
        raise ConfigError(
            f"{path}: trained on other annotations (fingerprint {trained[:12]}, those of data.root have "
            f"{fingerprint[:12]}). Give this data set a name of its own (data.name=...), or remove {path.parent} to "
            "train again"
        )


def load_weights(path: Path, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Loads a weight file into ``modules``, all tensors or none, and returns its header.

    CheckpointError names the tensors that are missing, unknown or of another shape: another architecture or data set.
    """
    about = read_about(path)
    own = {f"{part}.{name}": t for part, m in modules.items() for name, t in m.state_dict().items()}
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about.get("digest", _digest(tensors)) != _digest(tensors):  # older files have none
        raise _damaged(path, "damaged, its tensors are not those that were saved")
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or unknown or shapes:
        faults = [
            f"{len(found)} {what} (first: {', '.join(found[:3])})"
            for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if found
        ]
        raise CheckpointError(
            f"{path}: made for another network or data set; tensors {'; '.join(faults)}. Choose the backbone, thing, "
            "stuff, occlusion and data groups that it was trained with (config.yaml beside it)"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return about


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash over the bits of all tensors; the format itself has none."""
    digest = hashlib.blake2b(digest_size=8)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {how}; copy it again, or remove it and run the command that trained it, which trains it again"
    )
