"""The printed numbers against each other: papers repeat many, and averages and gains follow from others."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations, pairwise

import pytest

from scripts.tables.comparison import GAIN, PaperNumber, PaperNumbers

PAPERS = PaperNumbers.read()
CLASSES = {"COCO val": (80, 53), "COCO test-dev": (80, 53), "Cityscapes val": (8, 11)}  # things, stuff
# Names that several papers use for the same network; all other names are a paper's own.
PEERS = {
    "JSIS-Net", "Panoptic FPN", "AUNet", "AUNet m.s.", "UPSNet", "UPSNet m.s.", "AdaptIS",
    "OANet", "OCFusion", "OCFusion* m.s.", "SOGNet",
}  # fmt: skip
# One network under several names: (paper, table, row) with the same backbone and data set.
SAME = {
    "OANet base": [
        ("oanet", "1", "lambda 0.25"), ("oanet", "2", "Stuff-SC + Object-SC"), ("oanet", "3", "baseline"),
        ("oanet", "4", "+ skip-connection"),
    ],
    "OANet": [
        ("oanet", "3", "w/ spatial ranking module"), ("oanet", "5", "1x7 + 7x1"), ("ocfusion", "1", "OANet"),
        ("banet", "1", "OANet"), ("rap", "6", "OANet"),
    ],
    "OCFusion": [("ocfusion", "1", "OCFusion"), ("ocfusion", "3", "OCFusion"), ("rap", "6", "OCFusion")],
    "OCFusion on Cityscapes": [
        ("ocfusion", "4", "OCFusion*"), ("ocfusion", "5", "OCFusion"), ("ocfusion", "8", "inter-class + intra-class"),
    ],
    "its base": [("ocfusion", "5", "Baseline"), ("ocfusion", "8", "none")],
    "BANet without OH": [("banet", "2", "SIM + OCM + S2I + DFM"), ("banet", "3", "without OH")],
    "BANet": [
        ("banet", "1", "BANet-DCN"), ("banet", "2", "SIM + OCM + S2I + DFM + OH"), ("banet", "3", "with OH"),
        ("banet", "4", "no ground truth"),
    ],
    "RAP base": [("rap", "2", "Panoptic FPN*"), ("rap", "4", "Panoptic FPN*"), ("rap", "README", "Panoptic FPN*")],
    "OCFusion by RAP": [("rap", "4", "OCFusion*"), ("rap", "README", "OCFusion*")],
    "RAP": [("rap", "2", "RA + CA + EO"), ("rap", "3", "RAP"), ("rap", "4", "RAP"), ("rap", "6", "RAP")],
    "REFINE base": [("refine", "3", "baseline"), ("refine", "4", "baseline"), ("refine", "2", "Panoptic FPN")],
    "IBPP": [("refine", "3", "IBPP"), ("refine", "4", "IBPP T=3")],
    "REFINE": [("refine", "1", "REFINE"), ("refine", "3", "IBPP + SOE + UE")],
    "REFINE without order": [("refine", "5", "heuristic"), ("refine", "6", "none")],
    "SOE": [("refine", "5", "SOE sigma 2.5"), ("refine", "6", "mask + feat + label + sigma")],
    "SOE without sigma": [("refine", "5", "strong baseline"), ("refine", "6", "mask + feat + label")],
    "SOE as OCFusion": [("refine", "5", "OCFusion"), ("refine", "6", "mask + feat")],
    "AUNet": [("ocfusion", "2", "AUNet m.s."), ("banet", "1", "AUNet m.s."), ("rap", "7", "AUNet m.s.")],
}  # fmt: skip
# Where papers contradict each other or themselves; every one of these must have a note.
UNEQUAL = {
    ("rap", "7", "AUNet m.s.", "PQ_th"), ("banet", "1", "BANet-DCN", "RQ_st"),
    ("banet", "2", "SIM + OCM + S2I + DFM + OH", "RQ_st"), ("refine", "2", "Panoptic FPN", "PQ"),
    ("refine", "2", "Panoptic FPN", "PQ_th"), ("refine", "2", "Panoptic FPN", "PQ_st"),
}  # fmt: skip
NOT_THE_DIFFERENCE = {
    ("ocfusion", "3", "OCFusion", "R50", "PQ_th"): 2.9, ("ocfusion", "5", "OCFusion", "R50", "PQ_th"): 1.8,
    ("ocfusion", "8", "inter-class", "R50", "PQ"): 0.6, ("rap", "3", "RAP", "X101", "PQ_th"): 3.8,
    ("ocfusion", "8", "inter-class + intra-class", "R50", "PQ_th"): 1.8, ("rap", "3", "RAP", "X152", "PQ_th"): 3.8,
}  # fmt: skip
NOT_THE_AVERAGE = {
    ("ocfusion", "7", "tau 0.6 rho 0.20", "R50", "PQ"): 57.541, ("banet", "1", "JSIS-Net", "R50", "SQ"): 72.06,
    ("banet", "1", "UPSNet", "R50", "SQ"): 78.225, ("banet", "1", "BANet-DCN", "R50", "RQ"): 52.693,
    ("banet", "2", "SIM + OCM + S2I", "R50", "RQ"): 49.39, ("refine", "2", "Panoptic FPN", "R101", "PQ"): 41.008,
    ("refine", "4", "baseline", "R101", "PQ"): 41.008, ("refine", "4", "IBPP T=1", "R50", "PQ"): 40.805,
    ("refine", "4", "IBPP T=2", "R50", "PQ"): 41.425,
}  # fmt: skip
NOT_THE_PRODUCT = {("refine", "5", "heuristic"), ("refine", "6", "none")}
BASES = {("ocfusion", "3"): "Baseline", ("ocfusion", "5"): "Baseline", ("ocfusion", "8"): "none"}
BASES |= {("rap", "2"): "Panoptic FPN*"}


def number(paper: str, table: str, row: str, backbone: str, metric: str) -> float:
    """A number that is printed."""
    value = PAPERS.number(paper, table, row, backbone, metric)
    assert value is not None
    return value


def rows() -> dict[tuple[str, str, str, str, str], dict[str, PaperNumber]]:
    """The numbers of every printed row by metric."""
    numbers: dict[tuple[str, str, str, str, str], dict[str, PaperNumber]] = defaultdict(dict)
    for line in PAPERS.lines:
        key = (line.paper, line.table, line.row, line.backbone, line.dataset)
        assert line.metric not in numbers[key], f"twice: {line}"
        numbers[key][line.metric] = line
    return numbers


def test_every_table_is_there_and_every_value_is_a_number() -> None:
    tables: dict[str, set[str]] = defaultdict(set)
    for line in PAPERS.lines:
        tables[line.paper].add(line.table)
        assert line.number is not None or line.note
    expected = {"oanet": 6, "ocfusion": 8, "banet": 4, "rap": 7, "refine": 6}
    for paper, count in expected.items():
        assert {str(k + 1) for k in range(count)} <= tables[paper]
    assert len(PAPERS.lines) == sum(len(numbers) for numbers in rows().values())


def test_values_that_papers_repeat_are_equal() -> None:
    printed: dict[tuple[str, ...], list[PaperNumber]] = defaultdict(list)
    for line in PAPERS.lines:
        owner = "" if line.row in PEERS else line.paper
        printed[owner, line.row, line.backbone, line.dataset, line.metric].append(line)
    assert sum(len(lines) > 1 for lines in printed.values()) == 74
    for lines in printed.values():
        kept = [line for line in lines if (line.paper, line.table, line.row, line.metric) not in UNEQUAL]
        assert len({line.number for line in kept}) <= 1, lines


@pytest.mark.parametrize("name", SAME)
def test_a_network_has_the_same_numbers_under_all_its_names(name: str) -> None:
    compared = 0
    everything = rows()
    for first, second in combinations(SAME[name], 2):
        for key, ours in everything.items():
            theirs = everything.get((*second, *key[3:]), {}) if key[:3] == first else {}
            for metric in ours.keys() & theirs.keys() - {"PQ step"}:
                if not {(*first, metric), (*second, metric)} & UNEQUAL:
                    assert ours[metric].number == theirs[metric].number, (first, second, key, metric)
                compared += 1
    assert compared >= len(SAME[name]) - 1


def test_known_contradictions_have_a_note() -> None:
    for place in UNEQUAL:
        assert any(p.note for p in PAPERS.lines if (p.paper, p.table, p.row, p.metric) == place), place


def test_everything_is_the_average_of_things_and_stuff_weighted_by_their_classes() -> None:
    checked, odd = 0, {}
    for key, numbers in rows().items():
        for name in ("PQ", "SQ", "RQ"):
            parts = [numbers.get(f"{name}{end}") for end in ("", "_th", "_st")]
            if None in parts:
                continue
            whole, things, stuff = (part.number for part in parts if part is not None)
            assert whole is not None and things is not None and stuff is not None
            weights = CLASSES[key[4]]
            average = (weights[0] * things + weights[1] * stuff) / sum(weights)
            # half a unit of the last printed digit for the average and for what it is made of
            rounding = 10.0 ** -len(numbers[f"{name}_th"].value.partition(".")[2])
            if abs(whole - average) > rounding + 1e-9:
                odd[*key[:4], name] = round(average, 3)
                assert any(part.note for part in parts if part is not None), key
            checked += 1
    assert odd == NOT_THE_AVERAGE
    assert checked == 213


def test_times_of_rap_give_its_factors() -> None:
    for metric in ("relation_ms", "network_ms", "fusion_ms"):
        slow, fast, factor = (number("rap", "5", row, "R101", metric) for row in ("OCFusion*", "RAP", "acceleration"))
        assert slow / fast == pytest.approx(factor, rel=0.003)


def test_printed_gains_are_differences() -> None:
    checked = 0
    for line in PAPERS.lines:
        if not line.metric.endswith(GAIN) or (line.paper, line.table) in {("rap", "1"), ("rap", "7")}:
            continue  # tables without their base
        metric = line.metric.removesuffix(GAIN)
        table, base = ("README", "Panoptic FPN*") if (line.paper, line.table) == ("rap", "3") else (line.table, None)
        base = base or BASES[line.paper, line.table]
        ours = number(line.paper, line.table, line.row, line.backbone, metric)
        theirs = PAPERS.number(line.paper, table, base, line.backbone, metric)
        if theirs is None:  # RAP's README has no RQ, its Table 2 has
            continue
        difference = round(ours - theirs, 3)
        key = (line.paper, line.table, line.row, line.backbone, metric)
        if key in NOT_THE_DIFFERENCE:
            assert difference == NOT_THE_DIFFERENCE[key] != line.number and line.note
        else:
            assert difference == line.number, line
        checked += 1
    assert checked == 35


def test_steps_of_refine_are_differences_to_the_row_above() -> None:
    names = ["baseline", "IBPP", "IBPP + SOE", "IBPP + SOE + UE"]
    for above, name in pairwise(names):
        lower, higher = (PAPERS.number("refine", "3", row, "R50", "PQ") for row in (above, name))
        assert lower is not None and higher is not None
        assert PAPERS.number("refine", "3", name, "R50", "PQ step") == round(higher - lower, 3)


def test_best_thresholds_of_rap_give_the_gain_of_its_other_tables() -> None:
    gains = {p.row: p.number for p in PAPERS.lines if (p.paper, p.table, p.metric) == ("rap", "1", "PQ gain")}
    best = max(gains, key=lambda row: gains[row] or 0)
    assert best == "rho 0.6 tau 0.6 gamma 0.5"
    for metric in ("PQ", "PQ_th"):
        rounded = round(number("rap", "1", best, "R101", metric + GAIN), 1)
        assert rounded == number("rap", "2", "RA + CA + EO", "R101", metric + GAIN)


def test_quality_is_about_the_product_of_its_parts() -> None:
    """Averages over classes of a product exceed the product of the averages, but never by an eighth."""
    odd = set()
    for key, numbers in rows().items():
        for end in ("", "_th", "_st"):
            parts = [numbers[f"{name}{end}"].number for name in ("PQ", "SQ", "RQ") if f"{name}{end}" in numbers]
            if len(parts) == 3:
                pq, sq, rq = parts
                assert pq is not None and sq is not None and rq is not None
                if not 0.995 < 100 * pq / (sq * rq) < 1.09:
                    odd.add(key[:3])
                    assert numbers[f"RQ{end}"].note
    assert odd == NOT_THE_PRODUCT


def test_fewer_pairs_are_significant_at_higher_thresholds() -> None:
    for table in ("6", "7"):
        counts = [number("ocfusion", table, f"rho {rho}", "", "pairs") for rho in ("0.05", "0.10", "0.20")]
        assert counts == sorted(counts, reverse=True)


def test_what_is_sic_is_known_here() -> None:
    marked = {(p.paper, p.table, p.row) for p in PAPERS.lines if p.note.startswith("sic")}
    known = {key[:3] for key in (*NOT_THE_DIFFERENCE, *NOT_THE_AVERAGE, *NOT_THE_PRODUCT)}
    assert marked <= known and len(marked) == 7


def test_table_of_the_data_set_comes_first() -> None:
    choose = ("ocfusion", ("3", "5"), "OCFusion", "R50")
    assert PAPERS.table_of(*choose, "COCO") == "3"
    assert PAPERS.table_of(*choose, "Cityscapes") == "5"
    assert PAPERS.table_of("ocfusion", ("3", "5"), "OCFusion", "R101", "Cityscapes") == "3"
