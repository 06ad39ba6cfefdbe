"""REFINE: soft occlusion estimation, SOE (Ren et al., AAAI 2021, "REFINE: Prediction Fusion Network for Panoptic
Segmentation").

Shapes: N instances, P ordered pairs, C channels of the RoI features, E of the class embedding, H of a hidden layer.
    x_i  = [maxpool2(m_i), f_i]                            (C+1, 14, 14)   shape and appearance prior
    h_ij = relu(fc1(convs([x_i, x_j])))                    (H,)            OCFusion's trunk
    e_ij = relu(U onehot(c_i)) * relu(V onehot(c_j))       (E,)            class prior
    o_ij = project(relu(fc2([h_ij, e_ij])))                logit of "i lies above j"
    O(i, j)  = sigmoid((o_ij - o_ji) / 2)
    Ot(i, j) = s_i exp(-(O(i, j) - 1)^2 / sigma)           confidence prior (equation 7)
i lies above j when Ot(i, j) > Ot(j, i), and its mask is then pasted over that of j (Algorithm 1 of OCFusion).
The paper leaves the layers to a supplement that is not public: the trunk and the training (``heads.pairs``) are
OCFusion's, the class embedding is of the form that SOGNet (Yang et al., AAAI 2020) uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Positive, Scope
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.heads.pairs import PairOrder
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from panoptic_occ.occlusion.ocfusion import Symmetry
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation

Input = Literal["mask", "feature", "label"]
LabelPrior = Literal["embedding", "table"]


class SoftOcclusion(PairOrder):
    """The soft occlusion estimation of REFINE.

    ``inputs``: what the network sees of an instance (Table 6).
    ``label_prior``: how it sees the classes of a pair, as an ``embedding`` of ``label_channels`` (None: the width of
    the features) or as a ``table`` that adds B[c_i, c_j] - B[c_j, c_i] to the logit.
    ``sigma``: strength of the confidence prior; None: OCFusion's decision, O larger than one half.
    ``sym``: ``avg`` as above; ``raw`` takes sigmoid(o_ij) and sigmoid(o_ji) as they are (without sigma: only that of
    the later instance).
    ``channels``, ``hidden``: as in ``OCFusion``.
    """

    @checked("occlusion")
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int | None = None,
        hidden: int | None = None,
        inputs: Sequence[Input] = ("mask", "feature", "label"),
        label_prior: LabelPrior = "embedding",
        label_channels: int | None = None,
        sigma: Annotated[Positive | None, Scope.RESULT] = 2.5,
        sym: Annotated[Symmetry, Scope.RESULT] = "avg",
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        if not {"mask", "feature"} & set(inputs):
            raise ConfigError(
                f"occlusion.inputs={list(inputs)}: the network needs 'mask' or 'feature'; for an order by class alone "
                "use occlusion=class_prior, for one by score occlusion=score"
            )
        self.inputs, self.sigma, self.sym = tuple(inputs), sigma, sym
        width, things = hidden or 4 * in_channels, self.categories.num_things
        input_channels = ("mask" in inputs) + in_channels * ("feature" in inputs)
        self.head = PairHead(input_channels, channels or 2 * in_channels, width)
        self.label_prior: ClassEmbedding | ClassTable | None = None
        if "label" in inputs and label_prior == "embedding":
            self.label_prior = ClassEmbedding(things, label_channels or in_channels, width)
        elif "label" in inputs:
            self.label_prior = ClassTable(things)

    @property
    def later_only(self) -> bool:
        """Without confidence prior and symmetry, as in OCFusion."""
        return self.sigma is None and self.sym == "raw"

    def relate(self, instances: InstanceSet, stats: PairStats, head_outputs: Mapping[str, Tensor]) -> Relation:
        """Where two masks overlap significantly, the margin is positive exactly when Ot(i, j) > Ot(j, i)."""
        pairs, logits = self.selected_pairs(instances, stats), head_outputs["logits"]
        if self.later_only:
            return Relation(torch.where(pairs, logits.sigmoid() - 0.5, 0), pairs, antisymmetric=False)
        occlusion = (logits if self.sym == "raw" else (logits - logits.T) / 2).sigmoid()
        if self.sigma is None:
            return Relation(torch.where(pairs, (occlusion - occlusion.T) / 2, 0), pairs)
        margin = torch.where(pairs, soft_margin(occlusion, instances.scores, self.sigma), 0)
        # an O of 0 or 1 shifts the margin by one half at most
        decided = score_margin(instances.scores, self.sigma).abs() > 0.5
        return Relation(margin, pairs, score_decides=decided | ~pairs)

    def logits(self, images: Sequence[InstanceSet], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """o of every pair."""
        features = self.head.features(torch.cat([roi_inputs(image, self.inputs) for image in images]), pairs)
        classes = torch.cat([image.labels for image in images])[pairs]
        if isinstance(self.label_prior, ClassEmbedding):
            features = self.label_prior(features, classes)
        logits = self.head.project(features).squeeze(1).float()
        return logits + self.label_prior(classes) if isinstance(self.label_prior, ClassTable) else logits


class ClassEmbedding(nn.Module):
    """Joins the features of a pair with an embedding of its two classes."""

    def __init__(self, things: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.above, self.below = nn.Embedding(things, channels), nn.Embedding(things, channels)  # U, V
        self.fc2 = nn.Linear(hidden + channels, hidden)
        nn.init.kaiming_uniform_(self.fc2.weight, a=1)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, features: Float[Tensor, "p h"], classes: Int[Tensor, "p 2"]) -> Float[Tensor, "p h"]:
        """The second hidden layer of the pairs."""
        above, below = classes.unbind(dim=1)
        prior = F.relu(self.above(above)) * F.relu(self.below(below))
        return F.relu(self.fc2(torch.cat([features, prior], dim=1)))


class ClassTable(nn.Module):
    """A learned number per ordered pair of classes, opposite for the opposite pair."""

    def __init__(self, things: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(things, things))

    def forward(self, classes: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """What the classes add to the logits."""
        above, below = classes.unbind(dim=1)
        return self.table[above, below] - self.table[below, above]


def soft_margin(occlusion: Float[Tensor, "n n"], scores: Float[Tensor, " n"], sigma: float) -> Float[Tensor, "n n"]:
    """An antisymmetric number that is positive exactly when Ot(i, j) > Ot(j, i) (equation 7).

    The logarithm of Ot(i, j) / Ot(j, i), times sigma / 2: with p = O(i, j) and q = O(j, i) that is
    ((q - 1)^2 - (p - 1)^2) / 2 + sigma / 2 ln(s_i / s_j), and p - 1/2 + sigma / 2 ln(s_i / s_j) when p + q = 1.
    """
    return (occlusion - occlusion.T) * (2 - (occlusion + occlusion.T)) / 2 + score_margin(scores, sigma)


def score_margin(scores: Float[Tensor, " n"], sigma: float) -> Float[Tensor, "n n"]:
    """What the scores alone add to ``soft_margin``; a score of 0 counts as the smallest positive number."""
    logs = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
    return sigma / 2 * (logs[:, None] - logs[None, :])
