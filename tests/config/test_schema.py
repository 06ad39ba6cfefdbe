"""Wrong types and ranges of settings: one message with key, value and what is allowed, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Count, NotNegative, Positive, Scope, Share
from panoptic_occ.config.compose import compose
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.config.schema import entries_of, in_names, setting_of, table_of, values_of
from panoptic_occ.config.values import fits, words
from panoptic_occ.runs.build import run_plan
from panoptic_occ.testing import toy_categories
from panoptic_occ.training.stage import make_trainer

SEED, COUNT = "a whole number, 0 to 4294967295", "a whole number, 1 or more"
SHARE, SWITCH, RATE = "a number, 0 to 1", "true or false", "a number, above 0"
GRID = "a grid gives every key a list of different values: 'grid={fusion.min_visible: [0.4, 0.5]}'; grid=null is none"
SWITCHES = ("force", "details", "timing", "save_maps", "save_predictions", "saved", "joint", "channels_last", "compile")
SWITCHES += ("average_precision",)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=abc", f"seed=abc: allowed: {SEED}"),
        ("seed=-1", f"seed=-1: allowed: {SEED}"),
        *((f"{switch}=maybe", f"{switch}=maybe: allowed: {SWITCH}") for switch in (*SWITCHES, "check", "debug")),
        ("run=true", "run=true: allowed: text, or null"),
        ("runs_dir=null", "runs_dir=null: allowed: text"),
        ("processes=0", f"processes=0: allowed: {COUNT}, or null"),
        ("save_conf_thr=nan", f"save_conf_thr=nan: allowed: {SHARE}"),
        ("save_conf_thr=1.5", f"save_conf_thr=1.5: allowed: {SHARE}"),
        ("validate.every=0", f"validate.every=0: allowed: {COUNT}, or null"),
        ("validate.images=0", f"validate.images=0: allowed: {COUNT}"),
        ("validate=5", "validate=5: allowed: keys with values, as {key: value}"),
        ("compare=[scroe]", "compare=[scroe] is unknown; did you mean 'score'? allowed: area, banet, "),
        ("compare=scroe", "compare=[scroe] is unknown; did you mean 'score'?"),
        ("compare=[1]", "compare=[1]: allowed: a list, each text"),
        ("oracle=[boxx]", "oracle=[boxx] is unknown; did you mean 'box'? allowed: box, class, order, order_by_box, "),
        ("data.batch_size=0", f"data.batch_size=0: allowed: {COUNT}"),
        ("data.eval_batch_size=0", f"data.eval_batch_size=0: allowed: {COUNT}"),
        ("data.num_workers=-1", "data.num_workers=-1: allowed: a whole number, 0 or more"),
        ("data.object_sizes=[32]", "data.object_sizes=[32]: allowed: a list of 2, each a number, above 0"),
        ("schedule.base.gamma=0.5", "'schedule.base.gamma' is not set by default; +schedule.base.gamma=... sets it"),
        ("data.max_eval_images=0", f"data.max_eval_images=0: allowed: {COUNT}, or null"),
        *(
            (f"schedule.{stage}.{key}", f"schedule.{stage}.{key}: allowed: {kind}")
            for stage in ("base", "occlusion")
            for key, kind in (("lr=abc", RATE), ("lr=0", RATE), ("lr=inf", RATE), ("steps=0", COUNT))
        ),
        ("schedule.base=5", "schedule.base=5: allowed: keys with values"),
        ("schedule.loss_weights.stuff=abc", "schedule.loss_weights={'thing': 1.0, 'stuff': 'abc'}: allowed: keys with"),
        ("+trainer.accumulate_grad_batches=2", "accumulate_grad_batches=2: steps count as batches here, and images"),
        ("+trainer.limit_test_batches=1", "trainer.limit_test_batches=1: it would leave results of fewer images"),
        ("+trainer.limit_train_batches=0.5", "trainer.limit_train_batches=0.5: it would leave results of fewer"),
        ("+trainer.max_steps=5", "trainer.max_steps=5: schedule.base.steps and schedule.occlusion.steps say how"),
        ("+trainer.logger={_target_: x}", "the group logger says what is logged"),
        ("trainer.devices=0", f"trainer.devices=0: allowed: {COUNT}, or -1, auto, or text, or a list"),
        ("grid=0.5", f"grid=0.5: {GRID}"),
        ("grid=[]", f"grid=[]: {GRID}"),
        ("grid={}", f"grid={{}}: {GRID}"),
        ("policies=0.5", "policies=0.5: allowed: keys with values, as {key: value}"),
        ("policies={dup: 0.5}", "policies.dup=0.5: allowed: changes of the fusion policy, as 'policies={dup: {"),
        ("policies={dup: {duplicat_thr: 1}}", "policies.dup: 'fusion' has no key 'duplicat_thr'; did you mean 'dup"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_allowed(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([word])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("words", "key", "meant"),
    [
        (["run=2024"], "run", "2024"),
        (["input=2024.10"], "input", "2024.10"),  # not 2024.1
        (["output=1e3"], "output", "1e3"),
        (["run_name=7"], "run_name", "7"),
        (["runs_dir=2024"], "runs_dir", "2024"),
        (["data=coco", "data.root=2017.10"], "data.source.root", "2017.10"),
        (["compare=score"], "compare", ["score"]),
        (["compare=null"], "compare", []),
        (["oracle=box"], "oracle", ["box"]),
        (["trusted=mine"], "trusted", ["mine"]),
        (["validate=null"], "validate.every", None),
        (["schedule.base.steps=1e3"], "schedule.base.steps", 1000),
        (["schedule.base.lr=1"], "schedule.base.lr", 1),
        (["policies={dup: {duplicate_thr: 0.5}}"], "policies", {"dup": {"duplicate_thr": 0.5}}),
        (["+policies.dup={duplicate_thr: 0.5}"], "policies", {"dup": {"duplicate_thr": 0.5}}),
        ([], "policies", {}),
        (["trainer.devices=[0,1]"], "trainer.devices", [0, 1]),
        (["trainer.devices=auto"], "trainer.devices", "auto"),
    ],
)
def test_what_can_only_be_meant_in_one_way_is_taken_so(words: list[str], key: str, meant: object) -> None:
    value = OmegaConf.select(compose(words), key)
    assert value == meant and (OmegaConf.is_config(value) or type(value) is type(meant))


def test_a_leaf_without_an_entry_or_with_two_is_found() -> None:
    """That all leaves of all configurations have one entry is tested in test_configs."""
    with pytest.raises(ConfigError, match=r"'nothing\.known' has no entry in the table of settings"):
        table_of(compose(["+nothing.known=1"]))
    with pytest.raises(ConfigError, match=r"'stuff\.widht' has no entry"):
        table_of(compose(["+stuff.widht=1"]))
    config = compose()
    OmegaConf.update(config, "data._target_", "panoptic_occ.data.coco.source.CocoSource")  # which takes a name, too
    assert {key for key, entries in entries_of(config) if len(entries) > 1} >= {"data.name"}


@pytest.mark.parametrize(
    ("key", "scope"),
    [
        ("data.seed", Scope.BASE),
        ("occlusion.sig_ratio", Scope.MODULE),
        ("occlusion.logit_thr", Scope.RESULT),
        ("thing.score_thr", Scope.DETECTIONS),
        ("data.eval_transform.short_edge", Scope.DETECTIONS),
        ("data.source.val_images", Scope.INPUT),
        ("data.source.cache_dir", Scope.MACHINE),
        ("schedule.occlusion.optimizer.weight_decay", Scope.MODULE),
        ("schedule.base.optimizer.weight_decay", Scope.BASE),
        ("trainer.accelerator", Scope.MACHINE),
        ("trainer.precision", Scope.BASE),
        ("trainer.fast_dev_run", Scope.COMMAND),
        ("logger.csv.name", Scope.COMMAND),
    ],
)
def test_scopes(key: str, scope: Scope) -> None:
    setting = setting_of(compose(), key)
    assert setting is not None and setting.scope is scope


class OwnTrainer(Trainer):
    """A trainer of the user's own."""


@pytest.mark.parametrize(
    "target",
    ["pytorch_lightning.trainer.Trainer", "pytorch_lightning.trainer.trainer.Trainer", f"{__name__}.OwnTrainer"],
)
def test_a_trainer_by_any_name_has_the_same_scopes(target: str) -> None:
    plain, other = compose(["trainer=cpu"]), compose(["trainer=cpu", f"trainer._target_={target}"])
    assert values_of(other, {Scope.BASE, Scope.COMMAND}) == values_of(plain, {Scope.BASE, Scope.COMMAND})


def test_a_part_is_named_where_any_of_it_changes_results() -> None:
    config = compose()
    keys = ("data.source", "trainer", "validate", "fusion", "policies.plain")
    told = [key for key in keys if in_names(config, f"{key}=x")]
    assert told == ["data.source", "fusion", "policies.plain"]
    assert in_names(config, "~fusion.min_visible") and not in_names(config, "~trainer.strategy")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.source.size=abc", "data.source.size=abc: allowed: a whole number"),
        ("data.source.train_images=abc", "data.source.train_images=abc: allowed: a whole number"),
        ("data.source.crowd_share=5", f"data.source.crowd_share=5: allowed: {SHARE}"),
        ("data.train_transform.flip=abc", "data.train_transform.flip=abc: allowed: a number"),
        ("backbone.widths=[8,8]", f"backbone.widths=[8, 8]: allowed: a list of 5, each {COUNT}"),
        ("thing.nms_thr=abc", "thing.nms_thr=abc: allowed: a number"),
        ("thing.class_agnostic_nms=maybe", f"thing.class_agnostic_nms=maybe: allowed: {SWITCH}"),
        ("occlusion.sig_ratio=5", f"occlusion.sig_ratio=5: allowed: {SHARE}"),
        ("occlusion.sig_ratio=abc", f"occlusion.sig_ratio=abc: allowed: {SHARE}"),
        ("occlusion.intra=maybe", f"occlusion.intra=maybe: allowed: {SWITCH}"),
        ("occlusion.significance=eithr", "significance=eithr: did you mean 'either'? allowed: either, dir"),
        ("+occlusion.chanels=3", "occlusion.chanels=3: panoptic_occ.occlusion.ocfusion.OCFusion cannot be"),
        ("+schedule.base.foo=1", "schedule.base.foo=1: panoptic_occ.training.schedule.StageSchedule cannot be"),
        ("trainer.precision=foo", "trainer.precision=foo: allowed: 64, 32, 16, or "),
        ("trainer.accelerator=gpux", "trainer.accelerator=gpux"),
        ("trainer.devices='0'", "trainer.devices=0"),
        ("trainer.deterministic=maybe", f"trainer.deterministic=maybe: allowed: {SWITCH}, or warn"),
    ],
)
def test_a_wrong_parameter_is_answered_before_it_is_used(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan = run_plan(compose(["trainer=cpu", word]))
        make_trainer(plan, logger=False)
        plan.order.build(8, toy_categories())
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "instead"),
    [
        ("PL_TRAINER_LIMIT_TEST_BATCHES", "1", "unset it (it would leave results of fewer images, .*max_eval_images"),
        ("PL_TRAINER_PRECISION", "bf16-mixed", "unset it (say trainer.precision=bf16-mixed on"),
        ("PL_TRAINER_MAX_TIME", "00:00:00:01", "unset it (say +trainer.max_time=00:00:00:01 on"),
    ],
)
def test_lightning_takes_nothing_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, instead: str
) -> None:
    plan = run_plan(compose(["trainer=cpu"]))
    make_trainer(plan, logger=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable}={value}: .*{instead.replace('(', '[(]').replace('+', '[+]')}"):
        make_trainer(plan, logger=False)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (bool, [True], [1, "true", None]),
        (int, [3], [True, 3.0, "3"]),
        (float, [3, 0.5, float("inf")], [True, "3", float("nan")]),
        (Share, [0, 1, 0.5], [-0.1, 1.1, float("nan"), "a"]),
        (Positive, [1e-9], [0, float("inf")]),
        (Count | None, [1, None], [0, 1.0]),
        (Literal["a", 1], ["a", 1], ["b", 2]),
        (list[int], [[], [1]], [1, ["a"], {"a": 1}]),
        (Sequence[float], [[1, 0.5]], ["ab"]),
        (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], ["a", "b"]]),
        (tuple[int, ...], [[], [1, 2, 3]], [["a"]]),
        (dict[str, NotNegative], [{}, {"a": 0}], [{"a": -1}, []]),
        (Mapping[str, int] | None, [{"a": 1}, None], [{"a": "b"}]),
        (Path | None, ["a", None], [5]),
        (Annotated[Share, Scope.RESULT], [0.5], [2]),
        (torch.nn.Module, ["a", None, 5], []),  # of classes it says nothing
        (Callable[..., int], ["a", None, 5], []),
    ],
)
def test_kinds(kind: Any, good: list[object], bad: list[object]) -> None:
    assert all(fits(value, kind) for value in good) and not any(fits(value, kind) for value in bad)
    assert words(kind)


class Part:
    """A part of a user's own."""

    def __init__(self, width: int = None, names: str = "a", **rest: Any) -> None:  # type: ignore[assignment]  # noqa: RUF013
        if rest:
            raise ValueError("no such width")


def part(**values: Any) -> DictConfig:
    return OmegaConf.create({"part": {"_target_": f"{__name__}.Part", **values}}).part


def test_errors_of_constructors_name_the_setting_and_keep_their_cause() -> None:
    assert isinstance(safe_instantiate(part(width=None)), Part)
    message = r"^part\.width=3: .*Part cannot be built with this \(ValueError: no such"
    with pytest.raises(ConfigError, match=message) as at_once:
        safe_instantiate(part(width=3, other=1))
    with pytest.raises(ConfigError, match=message) as later:
        safe_instantiate(part(_partial_=True, width=3))(other=1)
    assert all(isinstance(error.value.__cause__, ValueError) for error in (at_once, later))
    with pytest.raises(ConfigError, match=r"""part\.names=5: write 'part.names="5"'; allowed: text"""):
        safe_instantiate(part(names=5))
