"""The names of trained weights: what they depend on, by the scopes of the settings."""

from __future__ import annotations

from functools import cache

import pytest

from panoptic_occ.runs import keys
from panoptic_occ.runs.build import plan_of


@cache
def names(*words: str) -> tuple[str, str, str]:
    """Folders of base, module and stored predictions."""
    plan = plan_of(["experiment=tiny", *words])
    return plan.base.folder.path.name, plan.order.folder.path.name, plan.evaluation.predictions.name


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("data.seed=1", ()),
        ("seed=1", ()),
        ("share=backbone", ()),
        ("schedule.base.lr=0.5", ()),
        ("trainer.precision=bf16-mixed", ()),
        ("+trainer.gradient_clip_algorithm=value", ()),
        ("+trainer.sync_batchnorm=true", ()),
        ("data.source.seed=7", ()),
        ("data.source.mix.prior=0.9", ()),
        ("thing.mask_convs=1", ()),
        ("backbone.depth=2", ()),
        ("occlusion.sig_ratio=0.1", ("base", "predictions")),
        ("occlusion.gt_rule=delta", ("base", "predictions")),
        ("schedule.occlusion.lr=0.5", ("base", "predictions")),
        ("schedule.pairs_per_image=3", ("base", "predictions")),
        ("thing.score_thr=0.3", ("base", "module")),
        ("tta=flip", ("base", "module")),
        ("data.eval_transform.short_edge=64", ("base", "module")),
        ("data.source.val_images=5", ("base", "module")),
        ("data.max_eval_images=5", ("base", "module")),
        ("thing.nms_thr=0.6", ("base", "module")),
        ("occlusion.logit_thr=0.5", ("base", "module", "predictions")),
        ("occlusion.sym=avg", ("base", "module", "predictions")),
        ("occlusion.intra=false", ("base", "module", "predictions")),
        ("fusion=rap", ("base", "module", "predictions")),
        ("occlusion.significance=both", ("base", "module", "predictions")),
        ("fusion.min_visible=0.1", ("base", "module", "predictions")),
        ("trainer.accelerator=cpu", ("base", "module", "predictions")),
        ("processes=1", ("base", "module", "predictions")),
        ("data.source.cache_dir=elsewhere", ("base", "module", "predictions")),
        ("data.num_workers=3", ("base", "module", "predictions")),
        ("logger=none", ("base", "module", "predictions")),
        ("compare=[]", ("base", "module", "predictions")),
    ],
)
def test_a_setting_changes_the_names_of_what_depends_on_it(word: str, same: tuple[str, ...]) -> None:
    before, after = (
        dict(zip(("base", "module", "predictions"), names(*words), strict=True)) for words in ((), (word,))
    )
    assert {part for part in before if before[part] == after[part]} == set(same)


@pytest.mark.parametrize(
    ("order", "changed"),
    [
        ("banet", "colors=normalized"),  # learns nothing, whatever is changed
        ("oanet", "ranking=multiply"),
        ("refine", "sigma=null"),
        ("rap", "sig_ratio=0.1"),
    ],
)
def test_settings_of_the_test_alone_share_the_weights(order: str, changed: str) -> None:
    words = [f"occlusion={order}", *(["stuff=pfpn_dense"] if order == "refine" else [])]
    assert names(*words)[1] == names(*words, f"occlusion.{changed}")[1]


def test_a_base_trained_jointly_depends_on_its_order() -> None:
    joint = ["occlusion=oanet", "joint=true"]
    assert len({names(*joint)[0], names(*joint, "occlusion.pool=any")[0], names("occlusion=oanet")[0]}) == 3
    assert names(*joint)[0] == names(*joint, "occlusion.ranking=multiply")[0]


def test_another_version_of_the_code_makes_other_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    monkeypatch.setattr(keys, "BASE_VERSION", keys.BASE_VERSION + 1)
    assert not set(before) & set(names.__wrapped__())


def test_orders_of_one_seed_share_their_base() -> None:
    assert len({names(f"occlusion={order}")[0] for order in ("score", "ocfusion", "rap", "oanet")}) == 1


def test_modules_may_move_without_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_occ.backbone import none, small

    monkeypatch.setattr(none, "SmallFPN", small.SmallFPN, raising=False)
    assert names("backbone._target_=panoptic_occ.backbone.none.SmallFPN") == names()


def test_differences_are_named() -> None:
    before, after = {"a": 1, "b.c": 2, "d": 3}, {"a": 1, "b.c": 5, "e": 4}
    assert keys.differences(before, after) == "b.c: 2 -> 5; d: 3 -> None; e: None -> 4"
    assert keys.differences(before, before) == ""
