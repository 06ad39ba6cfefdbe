"""Every table of the papers has its rows, and every row is a configuration that exists."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
from omegaconf import OmegaConf

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose, group_choices
from panoptic_occ.config.files import conf_dir
from panoptic_occ.runs.build import comparable
from scripts.tables.comparison import PaperNumbers
from scripts.tables.plan import PlannedRow, Setting, plan
from scripts.tables.tables import load, names, parse

NAMES = names()
PAPERS = PaperNumbers.read()
KINDS = {
    "oanet": {1: "full", 2: "full", 3: "full", 4: "full", 5: "head"},
    "ocfusion": {1: "full", 3: "head", 6: "head", 7: "head", 8: "fusion"},
    "banet": {1: "full", 2: "full", 3: "full", 4: "fusion"},
    "rap": {1: "fusion", 2: "fusion", 3: "head", 4: "head", 5: "head"},
    "refine": {1: "full", 2: "full", 3: "full", 4: "full", 5: "head", 6: "head"},
}
# Rows that no data set here can make: backbones that torchvision does not have.
NO_BACKBONE = {"X152", "X152-DCN", "R101-DCN", "X101-DCN"}
# Rows beside the printed ones, so that a gain has a base of its own backbone.
WITHOUT_A_PAPER = {("REFINE", "R101"), ("Panoptic FPN", "R101-DCN")}
PRODUCTS = ["new/gt_rules", "oanet/table1", "oanet/table2", "oanet/table5", "rap/table1"]
PRODUCTS += ["ocfusion/table6", "ocfusion/table7"]


@cache
def planned_rows(name: str) -> list[PlannedRow]:
    """The rows of a table with one seed; a plan takes seconds, and several tests ask for it."""
    return plan(load(name), Setting((), (0,)))


def product_of(name: str) -> list[dict[str, str]]:
    """What ``-m experiment=<name>`` sweeps, as Hydra's sweeper multiplies it."""
    config = compose([f"experiment={name}"])
    params = OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml").hydra.sweeper.params
    OmegaConf.set_struct(config, False)
    values = OmegaConf.merge(config, {"params": params}).params
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*(str(v).split(",") for v in values.values()))]


def test_all_tables_are_there_with_their_kind() -> None:
    expected = {f"{paper}/table{n}": kind for paper, kinds in KINDS.items() for n, kind in kinds.items()}
    assert {name: load(name).kind for name in NAMES} == expected | {"new/gt_rules": "head"}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_composes_and_has_a_folder_of_its_own(name: str) -> None:
    table = load(name)
    rows = planned_rows(name)
    assert [planned.row for planned in rows] == list(table.rows)
    for planned in rows:
        if planned.pending:
            assert planned.row.backbone in NO_BACKBONE, (planned.row, planned.pending)
    results = [run.metrics for planned in rows for run in planned.runs]
    assert len(set(results)) == len(results) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_one_that_the_paper_prints(name: str) -> None:
    table = load(name)
    for row in table.rows:
        tables = (row.table, *table.also)
        printed = [p for t in tables for p in PAPERS.of_row(table.paper, t, row.published, row.backbone)]
        lost = name == "rap/table1" and row.name == "rho 0.5 tau 0.6 gamma 0.7"  # not in the text of the paper
        beside = name == "refine/table2" and (row.name, row.backbone) in WITHOUT_A_PAPER
        assert printed or lost or beside or table.paper == "new", (name, row)
        if row.base is not None and row.name != row.base and table.base_of(row) is None:
            assert row.backbone == "X101" or row.backbone in NO_BACKBONE, f"{row}: no base of the same backbone"


def test_every_row_that_the_papers_print_about_themselves_can_be_made() -> None:
    tables = {"oanet": "12345", "ocfusion": "13678", "banet": "1234", "rap": "12345", "refine": "123456"}
    networks = {  # the rest of these tables are other papers' networks
        ("ocfusion", "1"): {"OCFusion", "OCFusion*", "OCFusion m.s.", "OCFusion* m.s."},
        ("banet", "1"): {"BANet", "BANet-DCN"},
        ("refine", "1"): {"REFINE"},
        ("refine", "2"): {"Panoptic FPN", "REFINE"},
    }
    others = {("rap", "Panoptic FPN"), ("refine", "SHR"), ("rap", "acceleration")}
    made = {(t.paper, r.table, r.published, r.backbone) for t in map(load, NAMES) for r in t.rows}
    for line in PAPERS.lines:
        counts = line.table and line.table in tables.get(line.paper, "") and line.metric != "pairs"
        ours = line.row in networks.get((line.paper, line.table), {line.row}) and (line.paper, line.row) not in others
        if counts and ours:
            assert (line.paper, line.table, line.row, line.backbone) in made, line


@pytest.mark.parametrize("name", PRODUCTS)
def test_sweeping_the_experiment_gives_the_rows(name: str) -> None:
    rows = [planned for planned in planned_rows(name) if planned.row.table == load(name).table]
    swept = product_of(name)
    assert len(swept) == len(rows)
    changes = [dict(word.split("=", 1) for word in planned.row.overrides) for planned in rows]
    for planned, overrides in zip(rows, changes, strict=True):
        (same,) = [point for point in swept if all(point.get(k, v) == v for k, v in overrides.items())]
        if planned is rows[-1]:
            words = [f"experiment={name}", *(f"{key}={value}" for key, value in same.items())]
            assert comparable(compose(words)) == comparable(compose(planned.words))


def test_the_other_tables_are_no_products() -> None:
    for name in set(NAMES) - set(PRODUCTS):
        assert "hydra" not in OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml"), name


@pytest.mark.parametrize("preset", ["coco", "cityscapes", "scenes_large"])
def test_backbones_of_a_preset_exist(preset: str) -> None:
    """All that the papers have; but there are no pretrained weights of a ResNeXt-152."""
    config = compose([f"preset={preset}"])
    named = {row.backbone for name in NAMES for row in load(name).rows}
    untrained = set() if preset == "scenes_large" else {"X152", "X152-DCN"}
    assert set(config.backbones) == named - untrained
    assert set(config.backbones.values()) <= set(group_choices()["backbone"])


def test_a_method_keeps_its_stuff_branch_on_coco() -> None:
    config = compose(["experiment=oanet/table3", "preset=coco"])
    choices = config.choices.stuff, config.choices.schedule, config.choices.backbone
    assert choices == ("oanet", "coco_1x", "resnet50_fpn")
    assert compose(["method=oanet", "experiment=coco"]).choices.stuff == "oanet"
    assert compose(["experiment=coco"]).choices.stuff == "pfpn"


def test_unknown_table_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ocfusion/table6'"):
        load("ocfusion/tabel6")
    with pytest.raises(ConfigError, match="there is no table 'coco'"):
        load("coco")


def test_faults_of_a_table_are_named() -> None:
    block = {
        "paper": "p", "table": 1, "title": "t", "kind": "head", "metrics": ["PQ"], "base": "a", "backbone": "R50",
        "rows": [{"name": "a"}, {"name": "b", "backbone": "R101", "base": "c", "published": "d", "table": 2}],
    }  # fmt: skip
    table = parse("p/table1", OmegaConf.create(block))
    assert (table.rows[0].published, table.rows[0].base, table.rows[1].table) == ("a", "a", "2")
    assert table.base_of(table.rows[0]) is None and table.base_of(table.rows[1]) is None
    with pytest.raises(ConfigError, match="kind=heads; did you mean 'head'"):
        parse("p/table1", OmegaConf.create(block | {"kind": "heads"}))
    with pytest.raises(ConfigError, match="two rows have the same name"):
        parse("p/table1", OmegaConf.create(block | {"rows": [{"name": "a"}, {"name": "a"}]}))
