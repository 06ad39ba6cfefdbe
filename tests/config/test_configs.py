"""Every YAML of the suite composes, and what it describes can be built."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest

from panoptic_occ.config.compose import compose
from panoptic_occ.config.files import conf_dir, group_choices
from panoptic_occ.config.instantiate import check_targets, safe_instantiate
from panoptic_occ.config.schema import table_of
from panoptic_occ.occlusion.upsnet import PixelArgmax
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import _backbone, build_model
from panoptic_occ.testing import toy_categories
from panoptic_occ.training.schedule import Schedule

CATEGORIES = toy_categories(things=2, stuff=1)
BUILT = ("backbone", "thing", "stuff", "occlusion", "fusion")
OVERRIDING = ("preset", "method", "sweep", "data")


def schedule_of(*words: str) -> Schedule:
    schedule: Schedule = plan_of(words).order.schedule.build()
    return schedule


def choices(group: str) -> list[str]:
    root = conf_dir() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in BUILT for c in choices(g)])
def test_module_builds(group: str, choice: str) -> None:
    node = compose([f"{group}={choice}", *(["backbone.weights=null"] if "resn" in choice else [])])[group]
    built = safe_instantiate(node)
    if node.get("_partial_"):
        built = built(in_channels=64, categories=CATEGORIES)
    assert built is not None


@pytest.mark.parametrize("choice", choices("schedule"))
def test_schedule_builds(choice: str) -> None:
    schedule = schedule_of(f"schedule={choice}")
    for stage in ("base", "occlusion"):
        plan = schedule.stage(stage, schedule.reference_batch)
        assert all(0 < m < plan.steps for m in plan.milestones)
        assert plan.warmup_steps < plan.steps


@pytest.mark.parametrize("choice", choices("data"))
def test_data_module_builds(choice: str, tmp_path: Path) -> None:
    assert plan_of([f"data={choice}"]).data.build().batch_size >= 1


@pytest.mark.parametrize("choice", choices("method") + [f"experiment={c}" for c in choices("experiment")])
def test_methods_and_experiments_compose(choice: str) -> None:
    config = compose([choice if "=" in choice else f"method={choice}"])
    assert config.choices.occlusion and config.method.name
    assert table_of(config)  # every leaf has exactly one entry


def test_every_choice_composes_has_its_settings_in_the_table_and_may_stand_in_a_run_folder() -> None:
    """Choices of groups that do not override each other are composed together; experiments have a test of their own."""
    groups = {group: list(choices) for group, choices in group_choices().items() if group != "experiment"}
    apart = {group: groups.pop(group) for group in list(groups) if group in OVERRIDING or "/" in group}
    rounds = [{group: choice} for group, choices in apart.items() for choice in choices]
    for row in zip_longest(*groups.values()):
        rounds.append({group: choice for group, choice in zip(groups, row, strict=True) if choice is not None})
    for chosen in rounds:
        words = [f"{group}={choice}" for group, choice in chosen.items()]
        if words[0].startswith("preset=papers/"):  # which change what the preset of COCO has
            chosen, words = {"data": "coco"}, [words[0].replace("=", "=[coco,") + "]"]
        config = compose(words)
        assert chosen.items() <= dict(config.choices).items()
        check_targets(config, " ".join(words))  # else a run that trained could not be evaluated
        assert table_of(config)


ON_COCO = ("paper", "mmdet")  # presets that stand beside that of a data set


@pytest.mark.parametrize("preset", [p for p in choices("preset") if "/" not in p])
@pytest.mark.parametrize("method", choices("method"))
def test_every_method_can_be_built_with_every_preset(method: str, preset: str) -> None:
    """The parts of a method fit each other: REFINE and UPSNet read thing classes from the stuff branch, e.g."""
    preset = f"[coco,{preset}]" if preset in ON_COCO else preset
    pretrained = "coco" in preset or preset == "cityscapes"
    untrained = ["backbone.weights=null", "backbone.frozen_stages=0"] if pretrained else []
    model = build_model(plan_of([f"method={method}", f"preset={preset}", *untrained]), CATEGORIES)
    if isinstance(model.occlusion, PixelArgmax):  # it says so only when it is asked
        assert model.stuff.first_label == 0


@pytest.mark.parametrize(
    ("method", "weights", "stage2"),
    [
        ("panoptic_fpn", (0.5, 0.5), (0.002, 2500, (1250,))),
        ("oanet", (0.25, 0.25), (0.02, 100000, (60000, 80000))),
        ("banet", (0.2, 0.3), (0.002, 2500, (1250,))),
        ("rap", (0.5, 0.5), (0.002, 10000, (5000,))),
    ],
)
def test_on_coco_every_method_trains_as_its_paper_says(
    method: str, weights: tuple[float, float], stage2: tuple[float, int, tuple[int, ...]]
) -> None:
    """lambda and second stages: OANet 4.1, BANet 4.1, RAP's released configuration."""
    config = compose([f"method={method}", "preset=coco"])
    assert (config.schedule.loss_weights.stuff, config.schedule.loss_weights.i2s) == weights
    stage = schedule_of(f"method={method}", "preset=coco").stage("occlusion", 16)
    assert (stage.lr, stage.steps, stage.milestones) == stage2


@pytest.mark.parametrize(
    ("words", "base"),
    [
        (["preset=cityscapes"], (0.01, 65000, (40000, 55000), 500, 16)),
        (["preset=cityscapes", "data=cityscapes_code", "schedule=cityscapes_code"], (0.02, 12000, (9000,), 500, 8)),
    ],
)
def test_cityscapes_is_that_of_ocfusion(words: list[str], base: tuple[object, ...]) -> None:
    """Section 4.1 and Tables 7 and 8 of the paper; the released configuration."""
    config = compose(words)
    schedule, batch = schedule_of(*words), config.data.batch_size
    stage = schedule.stage("base", batch)
    assert (stage.lr, stage.steps, stage.milestones, stage.warmup_steps, batch) == base
    assert dict(config.schedule.loss_weights) == {"thing": 1.0, "stuff": 1.0, "i2s": 1.0}
    second = schedule.stage("occlusion", 16)
    assert (second.lr, second.steps, second.milestones) == (0.002, 5000, (2500,))
    assert (config.fusion.stuff_area, config.fusion.min_visible, config.occlusion.sig_ratio) == (2048, 0.6, 0.1)
    coco = compose(["preset=coco"])
    assert (coco.fusion.min_visible, coco.occlusion.sig_ratio) == (0.5, 0.2)


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainer_settings_are_lightnings(choice: str) -> None:
    import inspect

    import pytorch_lightning as pl

    node = compose([f"trainer={choice}"]).trainer
    assert node.keys() - {"_target_"} <= inspect.signature(pl.Trainer).parameters.keys()


def test_pretrained_weights_are_not_read_where_a_trained_base_replaces_them(tmp_path: Path) -> None:
    base = plan_of(["preset=coco", f"runs_dir={tmp_path}"]).base
    assert _backbone(base).settings["weights"] == "IMAGENET1K_V1"
    base.folder.path.mkdir(parents=True)
    base.folder.weights("base").touch()
    settings = _backbone(base).settings
    assert (settings["weights"], settings["frozen_stages"]) == (None, 0)
    assert base.settings["backbone.weights"] == "IMAGENET1K_V1"  # its key stays


# steps, milestones, warm-up (steps, factor), mask convolutions, normalisation: methods 1.3, 3.3, 5.2, 7.1
PAPERS = {
    "panoptic_fpn": (90000, [60000, 80000], 1000, 0.001, 4, None),
    "ocfusion": (90000, [60000, 80000], 500, 1 / 3, 4, None),
    "oanet": (100000, [60000, 80000], 2000, 0.002 / 0.02, 4, None),
    "banet": (90000, [60000, 80000], 500, 0.002 / 0.02, 3, None),
    "rap": (150000, [80000, 120000], 500, 1 / 3, 4, None),
    "refine": (180000, [120000, 160000], 1000, 0.001, 4, "group"),
}


@pytest.mark.parametrize("method", PAPERS)
def test_each_paper_has_its_own_base(method: str) -> None:
    config = compose([f"method={method}", "preset=[coco,paper]"])
    steps, milestones, warmup, factor, convs, norm = PAPERS[method]
    base = config.schedule.base
    assert (base.steps, base.milestones, base.warmup_steps) == (steps, milestones, warmup)
    assert base.warmup_factor == pytest.approx(factor, abs=1e-4)
    assert (config.thing.mask_convs, config.thing.mask_norm, config.backbone.fpn_norm) == (convs, norm, norm)
    if method == "refine":  # F_sem of 256 channels, and H_sem of three layers on it
        assert (config.stuff.hidden, config.stuff.predictor_convs) == (256, 2)
    shared = compose([f"method={method}", "preset=coco"])
    assert shared.schedule.base.steps == 90000 and shared.thing.mask_convs == 4
    assert shared.occlusion == config.occlusion and shared.fusion == config.fusion


@pytest.mark.parametrize("beside", [[], ["coco"]])
def test_mmdetection_fuses_surer_detections_after_nms_among_all_classes(beside: list[str]) -> None:
    config = compose(["method=panoptic_fpn", f"preset=[{','.join([*beside, 'mmdet'])}]"])
    fusion, thing = config.fusion, config.thing
    assert (fusion.conf_thr, fusion.max_occluded, thing.class_agnostic_nms, thing.nms_thr) == (0.6, 0.5, True, 0.5)
    assert config.data.name == (beside or ["scenes"])[0]
