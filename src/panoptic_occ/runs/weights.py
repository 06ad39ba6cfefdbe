"""Weights of finished stages: tensor files with a header that says what they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_occ.common.errors import CheckpointError, ConfigError, NonFiniteLossError
from panoptic_occ.common.tensor_file import TensorFormat, tensors_digest

WEIGHTS = TensorFormat(
    "panoptic_occ.weights",
    2,
    CheckpointError,
    "train first, or point run= to a finished run; a damaged file is trained again once it is removed",
)


def save_weights(path: Path, modules: Mapping[str, nn.Module], about: Mapping[str, Any]) -> None:
    """Writes parameters and buffers of ``modules`` as ``<module>.<name>``, with ``about`` in the header, atomically.

    NonFiniteLossError when a value is NaN or infinite; nothing is written then.
    """
    tensors = _saved(modules)
    if faulty := _not_finite(tensors):
        raise NonFiniteLossError(
            f"{path}: not written, because the training has diverged: {len(faulty)} of {len(tensors)} tensors are not "
            f"finite (first: {', '.join(faulty[:3])}). Lower the learning rate (schedule.*.lr), clip gradients "
            "(trainer.gradient_clip_val=10) or use trainer.precision=32-true; with the same settings, remove "
            f"{path.parent / 'checkpoints'} first"
        )
    WEIGHTS.write(path, tensors, about)


def weights_digest(modules: Mapping[str, nn.Module]) -> str:
    """The digest that a weight file of ``modules`` has in its header."""
    return tensors_digest(_saved(modules))


def saved_digest(path: Path) -> str:
    """The digest of the tensors in a weight file."""
    return str(WEIGHTS.read_header(path)["digest"])


def check_data(path: Path, fingerprint: str | None) -> None:
    """ConfigError when a weight file says that it was trained on data of another ``fingerprint``."""
    trained = WEIGHTS.read_header(path).get("data")
    if trained and fingerprint and trained != fingerprint:
        raise ConfigError(
            f"{path}: trained on other data (fingerprint {trained[:12]}, those of data.root have {fingerprint[:12]}). "
            f"Give this data set a name of its own (data.name=...), or remove {path.parent} to train again"
        )


def load_weights(path: Path, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Loads a weight file into ``modules``, all tensors or none, and returns its header.

    CheckpointError names the tensors that are missing, unknown or of another shape (another architecture or data set),
    and those of another type or with values that are not finite.
    """
    header, tensors = WEIGHTS.read(path)
    state = _state(modules)
    faults = {
        "missing": sorted(state.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - state.keys()),
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} in the file, {tuple(state[name].shape)} in the network"
            for name in sorted(state.keys() & tensors.keys())
            if state[name].shape != tensors[name].shape
        ],
    }
    if any(faults.values()):
        raise CheckpointError(
            f"{path}: made for another network or data set; tensors {_listing(faults)}. Choose the backbone, thing, "
            "stuff, occlusion and data groups that it was trained with (config.yaml beside it)"
        )
    types = {name: _saved_type(tensor) for name, tensor in state.items()}
    faults = {
        "of another type": [
            f"{n} {t.dtype}, not {types[n]}" for n, t in sorted(tensors.items()) if t.dtype != types[n]
        ],
        "with values that are not finite": _not_finite(tensors),
    }
    if any(faults.values()):
        raise CheckpointError(
            f"{path}: these are no weights of a finished training; tensors {_listing(faults)}. Bring the file back as "
            "it was trained, or remove it and train again"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    return header


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}


def _saved(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors as a weight file has them: floating point ones have 32 bits, in whatever precision they trained."""
    return {name: tensor.to(_saved_type(tensor)) for name, tensor in _state(modules).items()}


def _saved_type(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with a value that is NaN or infinite."""
    return [name for name, tensor in sorted(tensors.items()) if not torch.isfinite(tensor).all()]


def _listing(faults: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {what} (first: {', '.join(names[:3])})" for what, names in faults.items() if names)
