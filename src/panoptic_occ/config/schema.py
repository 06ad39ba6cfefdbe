"""The settings that the suite itself reads: what each may be, checked before anything is built.

Parameters of objects are checked against the annotations of their constructors, see ``instantiate``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.kinds import Count, Positive, Range, Share, Size, fits, problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

ORACLES = ("box", "class", "order", "order_by_box", "stuff")
"""Parts that ``oracle`` takes from the annotations; the order by mask or by box is one part."""

SWITCHES = (
    *("force", "details", "timing", "save_maps", "save_predictions", "saved", "joint", "channels_last", "compile"),
    *("check", "debug", "average_precision"),
)
PATHS = ("run", "input", "output", "run_name", "data.root", "data.source.root", "data.source.cache_dir")
GROUPS = ("validate", "data.source", "schedule.base", "schedule.occlusion")
STAGE: Mapping[str, Any] = {
    "lr": Positive,
    "steps": Count,
    "milestones": list[Size],
    "gamma": Positive,
    "warmup_steps": Size,
    "warmup_factor": Annotated[float, Range(0)],
    "checkpoint_every": Count,
}
KINDS: Mapping[str, Any] = {
    "seed": Annotated[int, Range(0, 2**32 - 1)],
    **dict.fromkeys(SWITCHES, bool),
    **dict.fromkeys(PATHS, str | None),
    **dict.fromkeys(GROUPS, dict),
    **dict.fromkeys(("runs_dir", "data.name", "data.source.train_split", "data.source.val_split"), str),
    **dict.fromkeys(("compare", "oracle", "trusted"), list[str]),
    "policies": dict,
    "save_conf_thr": Share,
    "processes": Count | None,
    "validate.every": Count | None,
    "validate.images": Count,
    "data.stuff_area": Size,
    "data.stuff_component_area": Size,
    "data.erase_radius": Size,
    "data.object_sizes": tuple[Positive, Positive],
    "data.batch_size": Count,
    "data.eval_batch_size": Count,
    "data.num_workers": Size,
    "data.max_train_images": Count | None,
    "data.max_eval_images": Count | None,
    "schedule.reference_batch": Count,
    "schedule.pairs_per_image": Count,
    "schedule.loss_weights": dict[str, Annotated[float, Range(0)]],
    **{f"schedule.{stage}.{name}": kind for stage in ("base", "occlusion") for name, kind in STAGE.items()},
    "trainer.devices": Count | Literal[-1, "auto"] | str | list[Size],
    "trainer.num_nodes": Count,
}


def check_settings(config: DictConfig, words: Sequence[str], orders: Collection[str]) -> None:
    """Raises ConfigError for the first value that is not allowed; ``orders``: the choices of the group occlusion.

    What can only be meant in one way is put in place: ``compare=score``, ``run=2024``, ``validate=null``.
    """
    from omegaconf import OmegaConf

    from panoptic_occ.config.grid import grid_lists

    if config.validate is None:
        config.validate = {"every": None, "images": 1}
    if config.policies is None:
        config.policies = {}
    typed = dict(word.lstrip("+").partition("=")[::2] for word in words)
    for key, kind in KINDS.items():
        if (found := OmegaConf.select(config, key, default=...)) is ...:
            continue
        value = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
        meant = _meant(value, kind, typed.get(key, str(value)))
        if wrong := problem(key, meant, kind):
            raise ConfigError(wrong)
        if meant is not value:
            OmegaConf.update(config, key, meant)
    grid_lists(config)
    _check_words("compare", config.compare, orders)
    _check_words("oracle", config.oracle, ORACLES)
    for title, changes in config.policies.items():
        if not OmegaConf.is_dict(changes):
            example = f"'policies={{{title}: {{duplicate_thr: 0.5}}}}'"
            raise ConfigError(f"policies.{title}={changes}: allowed: changes of the fusion policy, as {example}")
        for name in changes.keys() - config.fusion.keys():
            raise ConfigError(f"policies.{title}: 'fusion' has no key '{name}'; {did_you_mean(name, config.fusion)}")


def _meant(value: Any, kind: Any, text: str) -> Any:
    """``value`` as the kind that it stands for: a list of one, a path that looks like a number, 1e3 steps."""
    if get_origin(kind) is list and not isinstance(value, list):
        return [] if value is None else [value]
    if kind in (str, str | None) and type(value) in (int, float):
        return text
    if type(value) is float and value.is_integer() and not fits(value, kind) and fits(int(value), kind):
        return int(value)
    return value


def _check_words(key: str, words: Collection[Any], allowed: Collection[Any]) -> None:
    for word in words:
        if word not in allowed:
            raise ConfigError(f"{key}=[{word}] is unknown; {did_you_mean(word, allowed)}")
