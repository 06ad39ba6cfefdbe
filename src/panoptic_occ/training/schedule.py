"""Optimisers and learning rates of the two stages, in iterations, scaled with the total batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Count, NotNegative, Positive, Size


@dataclass(frozen=True)
class StageSchedule:
    """One stage: ``steps`` iterations at ``lr``, times ``gamma`` at each of ``milestones``, after a linear warm-up of
    ``warmup_steps`` from ``warmup_factor`` x lr, with a checkpoint every ``checkpoint_every`` steps.

    ``optimizer`` makes the optimiser from parameters and ``lr`` (a Hydra partial).
    """

    optimizer: Callable[..., Optimizer]
    lr: Positive
    steps: Count
    milestones: Sequence[Size] = ()
    gamma: Positive = 0.1
    warmup_steps: Size = 0
    warmup_factor: NotNegative = 0.001
    checkpoint_every: Count = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ConfigError(f"schedule milestones must rise, got {list(self.milestones)}")

    def factor(self, step: int) -> float:
        """Share of ``lr`` at iteration ``step``, counted from 0."""
        factor = float(self.gamma ** sum(step >= m for m in self.milestones))
        if step < self.warmup_steps:
            progress = step / self.warmup_steps
            factor *= self.warmup_factor * (1 - progress) + progress
        return factor

    def optimize(self, parameters: Iterable[Tensor]) -> tuple[Optimizer, LambdaLR]:
        """The optimiser over ``parameters`` and its scheduler, to be stepped every iteration."""
        optimizer = self.optimizer(parameters, lr=self.lr)
        return optimizer, LambdaLR(optimizer, self.factor)


@dataclass(frozen=True)
class Schedule:
    """Both stages, written for ``reference_batch`` images an iteration."""

    reference_batch: Count
    base: StageSchedule
    occlusion: StageSchedule

    def stage(self, name: str, total_batch: int) -> StageSchedule:
        """``base`` or ``occlusion`` for another total batch: lr grows with it, iterations shrink (the same epochs)."""
        stage: StageSchedule = getattr(self, name)
        ratio = total_batch / self.reference_batch
        if ratio == 1:
            return stage
        return replace(
            stage,
            lr=stage.lr * ratio,
            steps=max(1, round(stage.steps / ratio)),
            milestones=tuple(round(m / ratio) for m in stage.milestones),
            warmup_steps=round(stage.warmup_steps / ratio),
        )
