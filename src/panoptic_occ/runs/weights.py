"""Weights of finished stages: tensor files with a header that says what they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.common.tensor_file import TensorFormat

WEIGHTS = TensorFormat(
    "panoptic_occ.weights",
    2,
    CheckpointError,
    "train first, or point run= to a finished run; a damaged file is trained again once it is removed",
)


def save_weights(path: Path, modules: Mapping[str, nn.Module], about: Mapping[str, Any]) -> None:
    """Writes parameters and buffers of ``modules`` as ``<module>.<name>``, with ``about`` in the header, atomically."""
    WEIGHTS.write(path, _state(modules), about)


def check_annotations(path: Path, fingerprint: str | None) -> None:
    """ConfigError when a weight file says that it was trained on annotations of another ``fingerprint``."""
    trained = WEIGHTS.read_header(path).get("annotations")
    if trained and fingerprint and trained != fingerprint:
        raise ConfigError(
            f"{path}: trained on other annotations (fingerprint {trained[:12]}, those of data.root have "
            f"{fingerprint[:12]}). Give this data set a name of its own (data.name=...), or remove {path.parent} to "
            "train again"
        )


def load_weights(path: Path, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Loads a weight file into ``modules``, all tensors or none, and returns its header.

    CheckpointError names the tensors that are missing, unknown or of another shape: another architecture or data set.
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
        listing = [f"{len(names)} {what} (first: {', '.join(names[:3])})" for what, names in faults.items() if names]
        raise CheckpointError(
            f"{path}: made for another network or data set; tensors {'; '.join(listing)}. Choose the backbone, thing, "
            "stuff, occlusion and data groups that it was trained with (config.yaml beside it)"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    return header


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}
