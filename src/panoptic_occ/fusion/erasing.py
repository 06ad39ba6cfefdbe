"""Unknown erasing: stuff that the network is not sure of stays void (REFINE, Ren et al. 2021, "Unknown Prediction
Erasing"), because a wrong segment costs half a false positive more than none (Eq. 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.policy import Dilation, FusionPolicy
from panoptic_occ.fusion.stuff import StuffSource
from panoptic_occ.ops.components import Components, components
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap

ROWS_AT_ONCE = 16


class StuffLabels:
    """Stuff labels of one image under different policies; what two of them share is computed once."""

    def __init__(self, semantic: SemanticMap) -> None:
        self.semantic = semantic
        self._confidence: dict[str, Float[Tensor, " r"]] = dict(semantic.confidence)

    def under(self, policy: FusionPolicy) -> StuffSource:
        """``semantic.labels``, void in every component whose confidence is below ``policy.erase_thr``; with
        ``policy.erase_after`` a function from the map of the things to these labels.  ConfigError when the policy
        erases and the map has neither logits nor confidences."""
        if policy.erase_thr is None:
            return self.semantic.labels
        return partial(self._left_free, policy) if policy.erase_after else self._erased(policy)

    def _erased(self, policy: FusionPolicy) -> Int[Tensor, "h w"]:
        """Labels, void where a component is not sure enough."""
        assert policy.erase_thr is not None
        labels = self.semantic.labels
        erased = self._components.spread((self._confident(policy.dilation) < policy.erase_thr).cpu().numpy())
        return labels.masked_fill(torch.from_numpy(erased).to(labels.device), VOID_LABEL)

    def _left_free(self, policy: FusionPolicy, things: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
        """As ``_erased``, of the pixels that no thing has taken."""
        labels = self.semantic.labels
        free = labels.masked_fill(things.to(labels.device) > 0, VOID_LABEL)
        return StuffLabels(replace(self.semantic, labels=free, confidence={}))._erased(policy)

    @cached_property
    def _components(self) -> Components:
        return components(self.semantic.labels)

    def _confident(self, dilation: Dilation) -> Float[Tensor, " r"]:
        if dilation.name not in self._confidence:
            self._confidence[dilation.name] = component_confidence(self.semantic, dilation, self._components)
        return self._confidence[dilation.name]


def component_confidence(
    semantic: SemanticMap, dilation: Dilation, parts: Components | None = None
) -> Float[Tensor, " r"]:
    """Confidence of every component of the stuff (numbered as in ``components``), float32 in [0, 1]: the mean
    probability of the component's class over the component and what lies around it (``dilation``, cut at the edge).

    At stride 4 the mean goes over cells: a component has every cell that it touches, and the probabilities of a cell
    are those of its mean logits.
    ``parts``: the components of ``semantic.labels``, None to compute them.  ConfigError when the map has no logits.
    """
    if semantic.logits is None:
        stored = ", ".join(sorted(semantic.confidence))
        combination = f"set fusion.erase_radius, erase_shape and erase_stride to a stored combination ({stored})"
        raise ConfigError(
            f"fusion.erase_thr with fusion.erase_radius={dilation.radius} (erase_shape={dilation.shape}, "
            f"erase_stride={dilation.stride}) needs the class probabilities of the stuff, and this map has none: "
            f"annotated stuff (stuff=ground_truth) is always sure, and saved predictions keep only some dilations; "
            f"{combination if stored else 'set fusion.erase_thr=null'}, or evaluate with the network of a trained run"
        )
    parts = components(semantic.labels) if parts is None else parts
    stride = dilation.stride
    logits = semantic.logits.float()
    if stride > 1:
        logits = F.avg_pool2d(logits[None], stride, ceil_mode=True, count_include_pad=False)[0]
    # in blocks that fit into the cache of a CPU: more than twice as fast as the whole map at once
    total = torch.cat([rows.logsumexp(dim=0) for rows in logits.split(ROWS_AT_ONCE, dim=1)])
    numbers = parts.numbers.cpu().numpy()
    means = []
    for number, (label, window) in enumerate(zip(parts.labels.tolist(), parts.windows, strict=True)):
        around = tuple(
            slice(max(edge.start // stride - dilation.reach, 0), min(-(-edge.stop // stride) + dilation.reach, cells))
            for edge, cells in zip(window, total.shape, strict=True)
        )
        probs = (logits[label - semantic.first_label][around] - total[around]).exp().double().cpu().numpy()
        pixels = numbers[tuple(slice(cells.start * stride, cells.stop * stride) for cells in around)] == number
        means.append(probs[dilation.grown(_touched(pixels, stride))].mean())
    return torch.tensor(means, dtype=torch.float32, device=total.device)


def _touched(pixels: Bool[np.ndarray, "h w"], stride: int) -> Bool[np.ndarray, "m n"]:
    """The cells of ``stride`` x ``stride`` pixels, the last ones cut at the edge, with a pixel that is set."""
    for axis in (0, 1) if stride > 1 else ():
        pixels = np.logical_or.reduceat(pixels, np.arange(0, pixels.shape[axis], stride), axis=axis)
    return pixels
