"""Makes every number of the results: runs what is missing, writes results/*.json, fills the tables of the documents.

python -m scripts.tables.report                      three seeds on the embedded scenes, about an hour on two cores
python -m scripts.tables.report --again              beside it three more on other scenes, as long again
python -m scripts.tables.report --coco DIR           beside it the oracle base on COCO files
python -m scripts.tables.report --tables-only        only the tables, from the committed results
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_occ.common.files import atomic_path, read_json, write_json, write_text
from panoptic_occ.data.relations.statistics import class_table, rule_accuracies
from scripts.documents import ROOT, fill, markdown
from scripts.suite import Run, build_data, environment, swept

METHODS = ("oanet", "ocfusion", "banet", "rap", "refine")
POLICY = "plain"  # of experiment=cross in the documents' tables: the heuristic's, in every row
CROSS, WITHIN = "cross", "cross within classes"
# a method on the plain base with the policy of its paper
OWN = ("method=panoptic_fpn", "occlusion={0}", "fusion={0}", "compare=[score,ground_truth]")
# The words of every run on the scenes, by its name in the results.
SCENES: dict[str, tuple[str, ...]] = {
    CROSS: ("experiment=cross",),
    # detections as most papers have them: NMS within every class only leaves things found as two classes
    WITHIN: ("experiment=cross", "thing.class_agnostic_nms=false"),
    **{method: tuple(word.format(method) for word in OWN) for method in METHODS},
}
METHOD_WORDS, EVERY = tuple(word.format("METHOD") for word in OWN), f", for METHOD {', '.join(METHODS)}"
SEEDS = ("seed=0,1,2",)
AGAIN = ("data.source.seed=1", "seed=3,4,5")  # scenes that nothing here was ever tried on, and other seeds
COCO = ("experiment=oracle_base", "data=coco")
NAMES = {
    "score": "score order", "area": "smaller on top", "larger": "larger on top", "class_prior": "class prior",
    "random": "random order", "oanet": "**OANet**", "ocfusion": "**OCFusion**", "banet": "**BANet**", "rap": "**RAP**",
    "refine": "**REFINE**", "ground_truth": "ground-truth order (ceiling)",
}  # fmt: skip
TOP, ROW, ROWS = 56, 426, 3  # of a run's pictures.png: pixels above its six rows and of a row; rows to show

Orders = Mapping[str, Mapping[str, Any]]
Column = tuple[str, Callable[[str], Iterable[float] | None]]


def run(command: str, *words: str) -> None:
    """Runs a command of the suite in a process of its own, as a user would."""
    subprocess.run([sys.executable, "-m", f"panoptic_occ.{command}", *words], check=True)


def made_by(*words: str, command: str = "train -m", about: str = "") -> str:
    """The line below a table that names its command, as a user types it."""
    return f"Made by `python -m panoptic_occ.{command} {shlex.join(words)}`{about}."


def measure(runs: Mapping[str, Sequence[str]], more: Sequence[str], runs_dir: Path) -> dict[str, dict[str, Orders]]:
    """The orders of every run by seed and name, trained as far as they are missing; ``more`` ends with the seeds."""
    *words, seeds = more
    numbers = seeds.partition("=")[2].split(",")
    results: dict[str, dict[str, Orders]] = {number: {} for number in numbers}
    for name, first in runs.items():
        run("train", "-m", *first, *more, f"runs_dir={runs_dir}")
        for number in numbers:
            one = Run.of(swept([*first, *words, f"seed={number}", f"runs_dir={runs_dir}"]))
            results[number][name] = read_json(one.metrics)["relations"]
    return results


def show_pictures(run_dir: Path, target: Path = ROOT / "docs" / "pictures.jpg") -> None:
    """The first rows of a run's pictures and their legend, at half the size, for the top of the README."""
    sheet = Image.open(run_dir / "pictures.png").convert("RGB")
    legend = sheet.crop((0, TOP + 6 * ROW, sheet.width, sheet.height))
    page = sheet.crop((0, 0, sheet.width, TOP + ROWS * ROW + legend.height))
    page.paste(legend, (0, TOP + ROWS * ROW))
    with atomic_path(target) as path:
        page.resize((page.width // 2, page.height // 2), Image.Resampling.LANCZOS).save(path, "JPEG", quality=88)


def with_policy(results: Mapping[str, Any], policy: str, cross: str = CROSS) -> list[Orders]:
    """The orders of a cross table with one policy, seed by seed."""
    end = f" | {policy}"
    tables = (seed[cross] for seed in results["seeds"].values())
    return [{name.removesuffix(end): row for name, row in table.items() if name.endswith(end)} for table in tables]


def recovery(orders: Orders, name: str) -> float:
    """Share of the gap between score order and ground-truth order that an order closes."""
    score, ours, best = (float(orders[key]["PQ_th"]) for key in ("score", name, "ground_truth"))
    return (ours - score) / (best - score)


def rendered(first: str, orders: Iterable[str], columns: Sequence[Column], *notes: str) -> str:
    """A table of means and spreads over what each column yields for an order, and notes below it."""
    rows = [(NAMES[order], *(_spread(values(order)) for _, values in columns)) for order in orders]
    return "\n\n".join([markdown((first, *(name for name, _ in columns)), rows), *notes])


def coco_table(results: Mapping[str, Any]) -> str:
    """The oracle base on real annotations."""
    orders = {name: row for name, row in results["relations"].items() if name != "score"}  # all scores are 1
    keys = {"PQ": "PQ", "PQ things": "PQ_th", "order right": "relation_accuracy"}
    rows = [(NAMES[name], *(f"{100 * row[key]:.1f}" for key in keys.values())) for name, row in orders.items()]
    pairs = next(iter(orders.values()))["pairs"]
    about = f"Percent; {results['images']} images of COCO val2017 with {pairs} overlapping pairs."
    return "\n\n".join([markdown(("order", *keys), rows), about, made_by(*COCO, "data.root=...", command="evaluate")])


def scenes_table(results: Mapping[str, Any], policy: str = POLICY) -> str:
    """Mean and spread over the seeds, one row an order, all with one policy."""
    seeds = with_policy(results, policy)
    keys = {"PQ": "PQ", "PQ things": "PQ_th", "order right": "relation_accuracy", "by score": "by_score"}
    about = (
        f"Mean ± standard deviation over {len(seeds)} seeds, percent, {results['images']} held-out scenes; *order "
        "right*:\nshare of detected overlapping pairs; *by score*: pairs whose order the scores decide; *of the gap*: "
        "how much\nof the difference in PQ things between score order and ground-truth order a row closes."
    )
    columns = [*(_number(seeds, *pair) for pair in keys.items()), _gap(seeds)]
    return rendered("order", seeds[0], columns, about, made_by(*SCENES[CROSS], *SEEDS))


def cross_report(results: Mapping[str, Any]) -> str:
    """The whole cross table, a part for every policy."""
    policies = dict.fromkeys(name.split(" | ")[1] for name in next(iter(results["seeds"].values()))[CROSS])
    parts = [f"## Policy: {policy}\n\n{scenes_table(results, policy)}" for policy in policies]
    return "\n\n".join(["# Every order with every policy on the embedded scenes", *parts]) + "\n"


def twice_table(results: Mapping[str, Any]) -> str:
    """Of the gap, per order: on detections after NMS among all classes, within each, and there with RAP's check."""
    every, within = with_policy(results, "plain"), with_policy(results, "plain", WITHIN)
    checked = with_policy(results, "duplicates", WITHIN)
    columns = _gap(every, "NMS among all"), _gap(within, "within each"), _gap(checked, "within each, and RAP's check")
    commands = (made_by(*SCENES[name], *SEEDS) for name in (CROSS, WITHIN))
    return rendered("order", every[0], columns, *commands)


def own_table(results: Mapping[str, Any]) -> str:
    """Every method with the policy of its paper, beside score order and ground-truth order with the same one."""
    seeds = list(results["seeds"].values())
    columns: list[Column] = [
        ("PQ", lambda method: (s[method][method]["PQ"] for s in seeds)),
        ("PQ things", lambda method: (s[method][method]["PQ_th"] for s in seeds)),
        ("by score order", lambda method: (s[method]["score"]["PQ_th"] for s in seeds)),
        ("by true order", lambda method: (s[method]["ground_truth"]["PQ_th"] for s in seeds)),
        ("of the gap", lambda method: (recovery(s[method], method) for s in seeds)),
    ]
    return rendered("method", METHODS, columns, made_by(*METHOD_WORDS, *SEEDS, about=EVERY))


def again_table(results: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The confirmation: every order on the other scenes, and on both kinds of scenes together."""
    methods, plain = list(results["seeds"].values()), with_policy(results, POLICY)
    every, key = plain + with_policy(first, POLICY), "relation_accuracy"
    columns: list[Column] = [
        _number(plain, "order right", key),
        _gap(plain),
        ("with own policy", lambda order: (recovery(s[order], order) for s in methods) if order in METHODS else None),
        ("all seeds: above score order", lambda order: (s[order][key] - s["score"][key] for s in every)),
        _gap(every),
    ]
    about = f"The last two columns are over all {len(every)} seeds, of these scenes and of those above."
    commands = made_by(*SCENES[CROSS], *AGAIN), made_by(*METHOD_WORDS, *AGAIN, about=EVERY)
    return rendered("order", plain[0], columns, about, *commands)


def rules_table(results: Mapping[str, Any]) -> str:
    """What simple rules know about the annotated order of the held-out scenes."""
    rows = [(rule, f"{100 * value:.1f}") for rule, value in results["rules"].items()]
    return markdown(("rule", "pairs right, %"), rows) + "\n\nMade by `python -m scripts.tables.report`."


def fill_documents(root: Path = ROOT) -> None:
    """Replaces what stands between the markers of each table."""
    coco, scenes, again = (read_json(root / f"results/{name}.json") for name in ("coco_mini", "scenes", "scenes_again"))
    tables = {
        "coco": coco_table(coco),
        "scenes": scenes_table(scenes),
        "twice": twice_table(scenes),
        "own": own_table(scenes),
        "rules": rules_table(scenes),
        "again": again_table(again, scenes),
    }
    for name, table in tables.items():
        fill(name, table, "python -m scripts.tables.report", root)
    write_text(root / "results" / "cross_scenes.md", cross_report(scenes))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, help="a COCO root folder; without it that table keeps its numbers")
    parser.add_argument("--again", action="store_true", help="also the confirmation on other scenes")
    parser.add_argument("--tables-only", action="store_true", help="run nothing")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    options = parser.parse_args()
    results, machine, place = ROOT / "results", {"environment": environment()}, f"runs_dir={options.runs_dir}"
    if not options.tables_only:
        data = build_data()
        held_out = (data.eval_data.load(k) for k in range(len(data.eval_data)))
        rules = {"images": len(data.eval_data), "rules": rule_accuracies(held_out, class_table(data.train_data))}
        seeds = measure(SCENES, SEEDS, options.runs_dir)
        write_json(results / "scenes.json", {**machine, **rules, "seeds": seeds}, 2)
        run("train", place)
        show_pictures(Run.of([place]).folder)
    if options.again and not options.tables_only:
        others = {name: words for name, words in SCENES.items() if name != WITHIN}
        write_json(results / "scenes_again.json", {**machine, "seeds": measure(others, AGAIN, options.runs_dir)}, 2)
    if options.coco and not options.tables_only:
        words = [*COCO, f"data.root={options.coco}", place]
        run("evaluate", *words)
        write_json(results / "coco_mini.json", {**machine, **read_json(Run.of(words).evaluation(words).metrics)}, 2)
    fill_documents()


def _number(seeds: Sequence[Orders], name: str, key: str) -> Column:
    return name, lambda order: (orders[order][key] for orders in seeds)


def _gap(seeds: Sequence[Orders], name: str = "of the gap") -> Column:
    return name, lambda order: (recovery(orders, order) for orders in seeds)


def _spread(fractions: Iterable[float] | None) -> str:
    """Mean and standard deviation in percent; empty for None."""
    if fractions is None:
        return ""
    values = [100 * value for value in fractions]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
