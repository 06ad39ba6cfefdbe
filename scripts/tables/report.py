"""Makes every number in the README: runs what is missing, writes results/*.json, and fills the README's tables.

python -m scripts.tables.report                      three seeds on the embedded scenes, about an hour on two cores
python -m scripts.tables.report --again              beside it three more on other scenes, as long again
python -m scripts.tables.report --coco DIR           beside it the oracle base on COCO files (the README's first table)
python -m scripts.tables.report --tables-only        only the tables, from the committed results
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_occ.common.files import atomic_path, write_json, write_text
from panoptic_occ.config.compose import compose
from panoptic_occ.data.relations.order_baselines import class_table, rule_accuracies
from panoptic_occ.runs.build import build_data, run_folder
from panoptic_occ.runs.environment import environment
from scripts.markers import fill

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
SEEDS = (0, 1, 2)
AGAIN = (3, 4, 5)
"""Seeds of the confirmation, on scenes that nothing here was ever tried on."""
POLICY = "plain"
"""The policy of ``experiment=cross`` in the README's table: the heuristic's, in every row."""
WITHIN = "thing.class_agnostic_nms=false"
"""Detections as most papers have them: NMS within every class only, which leaves things found as two classes."""
OWN = ("oanet", "ocfusion", "banet", "rap", "refine")
"""Methods that are also shown with the thresholds of their own paper (``conf/fusion``)."""
KEYS = ("PQ", "PQ_th", "relation_accuracy", "by_score")
NAMES = {
    "score": "score order",
    "area": "smaller on top",
    "larger": "larger on top",
    "random": "random order",
    "class_prior": "class prior",
    "oanet": "**OANet**",
    "ocfusion": "**OCFusion**",
    "banet": "**BANet**",
    "rap": "**RAP**",
    "refine": "**REFINE**",
    "ground_truth": "ground-truth order (ceiling)",
}


def run(command: str, *words: str) -> None:
    """Runs a command of the suite in a process of its own, as a user would."""
    subprocess.run([sys.executable, "-m", f"panoptic_occ.{command}", *words], check=True)


def measure_scenes(runs_dir: Path) -> None:
    """Three seeds of the cross table, and of every method with the thresholds of its paper, on the same bases."""
    seeds: dict[str, Any] = {}
    for seed in SEEDS:
        common = [f"seed={seed}", f"runs_dir={runs_dir}"]
        seeds[str(seed)] = {"cross": trained(["experiment=cross", *common])}
        seeds[str(seed)]["cross within classes"] = trained(["experiment=cross", WITHIN, *common])
        seeds[str(seed)] |= {method: trained(own_words(method, common)) for method in OWN}
    data = build_data(compose())
    held_out = (data.eval_data.load(k) for k in range(len(data.eval_data)))
    rules = rule_accuracies(held_out, class_table(data.train_data))
    images = len(data.eval_data)
    write_json(
        RESULTS / "scenes.json", {"environment": environment(), "images": images, "rules": rules, "seeds": seeds}, 2
    )


def measure_again(runs_dir: Path) -> None:
    """Three other seeds of the cross table and of the papers' thresholds, trained and held out on other scenes."""
    seeds: dict[str, Any] = {}
    for seed in AGAIN:
        common = [f"seed={seed}", "data.source.seed=1", f"runs_dir={runs_dir}"]
        cross = trained(["experiment=cross", *common])
        seeds[str(seed)] = {"cross": cross} | {method: trained(own_words(method, common)) for method in OWN}
    write_json(RESULTS / "scenes_again.json", {"environment": environment(), "seeds": seeds}, 2)


def own_words(method: str, common: list[str]) -> list[str]:
    """The words for a method on the plain base with the thresholds of its paper."""
    words = ["method=panoptic_fpn", f"occlusion={method}", f"fusion={method}", *common]
    return [*words, "compare=[score,ground_truth]"]


def trained(words: list[str]) -> Any:
    """The numbers of a run, trained as far as it is missing."""
    run("train", *words)
    return read(run_folder(compose(words), words).path / "metrics.json")["relations"]


def show_pictures(run_dir: Path) -> None:
    """The sheet of a run, at half its size, for the top of the README."""
    sheet = Image.open(run_dir / "pictures.png").convert("RGB")
    half = sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)
    target = ROOT / "docs" / "pictures.jpg"
    with atomic_path(target) as temporary:
        half.save(temporary, "JPEG", quality=88)


def measure_coco(root: Path, runs_dir: Path) -> None:
    """Orders on the validation annotations of COCO files, as detections."""
    words = ["experiment=cross_oracle", "data=coco", f"data.root={root}", f"runs_dir={runs_dir}", "trainer=cpu"]
    run("evaluate", *words, "run_name=oracle", "data.num_workers=0")
    (metrics,) = (read(path) for path in runs_dir.glob("coco/oracle/evaluations/*/metrics.json"))
    write_json(RESULTS / "coco_mini.json", {"environment": environment(), **metrics}, 2)


def scenes_table(results: Mapping[str, Any], policy: str) -> str:
    """Mean and spread over the seeds, one row an order, all with one policy."""
    seeds = [with_policy(seed["cross"], policy) for seed in results["seeds"].values()]
    lines = ["| order | PQ | PQ things | order right | by score | of the gap |", "|---|---|---|---|---|---|"]
    for relation in seeds[0]:
        cells = [spread([seed[relation][key] for seed in seeds]) for key in KEYS]
        gap = spread([recovery(seed, relation) for seed in seeds])
        lines.append(f"| {NAMES[relation]} | {' | '.join(cells)} | {gap} |")
    images = results["images"]
    lines += [
        "",
        f"Mean ± standard deviation over {len(seeds)} seeds, percent, {images} held-out scenes; *order right*:",
        "share of detected overlapping pairs; *by score*: pairs whose order the scores decide; *of the gap*: how much",
        "of the difference in PQ things between score order and ground-truth order a row closes.",
    ]
    return "\n".join(lines)


def cross_report(results: Mapping[str, Any]) -> str:
    """The whole cross table, a part for every policy."""
    rows = next(iter(results["seeds"].values()))["cross"]
    policies = dict.fromkeys(name.split(" | ")[1] for name in rows)
    parts = [f"## Policy: {policy}\n\n{scenes_table(results, policy)}\n" for policy in policies]
    return "\n".join(["# Every order with every policy on the embedded scenes", "", *parts])


def twice_table(results: Mapping[str, Any]) -> str:
    """Of the gap, per order: on detections after NMS among all classes, within each, and there with RAP's check."""
    columns = [("cross", "plain"), ("cross within classes", "plain"), ("cross within classes", "duplicates")]
    lines = ["| order | NMS among all | within each | within each, and RAP's check |", "|---|---|---|---|"]
    seeds = list(results["seeds"].values())
    for relation in dict.fromkeys(name.split(" | ")[0] for name in seeds[0]["cross"]):
        gaps = [[recovery(with_policy(seed[cross], policy), relation) for seed in seeds] for cross, policy in columns]
        lines.append(f"| {NAMES[relation]} | {' | '.join(map(spread, gaps))} |")
    return "\n".join(lines)


def with_policy(cross: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """The rows of a cross table with one policy, by order."""
    return {name.split(" | ")[0]: row for name, row in cross.items() if name.endswith(f"| {policy}")}


def own_table(results: Mapping[str, Any]) -> str:
    """Every method with the thresholds of its paper, beside score order and ground-truth order with the same ones."""
    lines = ["| method | PQ | PQ things | by score order | by true order | of the gap |", "|---|---|---|---|---|---|"]
    for method in OWN:
        seeds = [seed[method] for seed in results["seeds"].values()]
        cells = [spread([seed[method][key] for seed in seeds]) for key in ("PQ", "PQ_th")]
        cells += [spread([seed[name]["PQ_th"] for seed in seeds]) for name in ("score", "ground_truth")]
        cells.append(spread([recovery(seed, method) for seed in seeds]))
        lines.append(f"| {NAMES[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def again_table(results: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The confirmation: every order on the other scenes, and on both kinds of scenes together."""
    head = ["order", "order right", "of the gap", "with own thresholds", "all seeds: above score order", "of the gap"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    seeds, before = ([*part["seeds"].values()] for part in (results, first))
    plain, every = ([with_policy(seed["cross"], POLICY) for seed in part] for part in (seeds, before + seeds))
    for relation in plain[0]:
        ahead = [rows[relation]["relation_accuracy"] - rows["score"]["relation_accuracy"] for rows in every]
        cells = [
            spread([rows[relation]["relation_accuracy"] for rows in plain]),
            spread([recovery(rows, relation) for rows in plain]),
            spread([recovery(seed[relation], relation) for seed in seeds]) if relation in OWN else "",
            spread(ahead),
            spread([recovery(rows, relation) for rows in every]),
        ]
        lines.append(f"| {NAMES[relation]} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"The last two columns are over all {len(every)} seeds, of these scenes and of those above."]
    )


def rules_table(results: Mapping[str, Any]) -> str:
    """What simple rules know about the annotated order of the held-out scenes."""
    rows = [f"| {rule} | {100 * value:.1f} |" for rule, value in results["rules"].items()]
    return "\n".join(["| rule | pairs right, % |", "|---|---|", *rows])


def coco_table(results: Mapping[str, Any]) -> str:
    """The oracle base on real annotations."""
    lines = ["| order | PQ | PQ things | order right |", "|---|---|---|---|"]
    plain = with_policy(results["relations"], "plain")
    relations = {name: row for name, row in plain.items() if name != "score"}  # all scores are 1
    for name, row in relations.items():
        cells = [percent(row[key]) for key in ("PQ", "PQ_th", "relation_accuracy")]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    pairs = next(iter(relations.values()))["pairs"]
    lines += ["", f"Percent; {results['images']} images of COCO val2017 with {pairs} overlapping pairs."]
    return "\n".join(lines)


def recovery(relations: Mapping[str, Mapping[str, float]], name: str) -> float:
    """Share of the gap between score order and ground-truth order that an order closes."""
    score, ours, best = (relations[key]["PQ_th"] for key in ("score", name, "ground_truth"))
    return (ours - score) / (best - score)


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation in percent."""
    values = [100 * value for value in values]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def percent(value: float | None) -> str:
    """A fraction in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def fill_readme() -> None:
    """Replaces what stands between the markers of each table."""
    text = (ROOT / "README.md").read_text()
    scenes, coco = read(RESULTS / "scenes.json"), read(RESULTS / "coco_mini.json")
    tables = {
        "coco": coco_table(coco),
        "scenes": scenes_table(scenes, POLICY),
        "twice": twice_table(scenes),
        "own": own_table(scenes),
        "rules": rules_table(scenes),
        "again": again_table(read(RESULTS / "scenes_again.json"), scenes),
    }
    for name, table in tables.items():
        text = fill(text, name, table)
    write_text(ROOT / "README.md", text)
    write_text(RESULTS / "cross_scenes.md", cross_report(scenes))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, help="a COCO root folder; without it that table keeps its numbers")
    parser.add_argument("--again", action="store_true", help="also the confirmation on other scenes")
    parser.add_argument("--tables-only", action="store_true", help="run nothing")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    options = parser.parse_args()
    if not options.tables_only:
        measure_scenes(options.runs_dir)
        run("train", f"runs_dir={options.runs_dir}")
        show_pictures(options.runs_dir / "scenes" / "ocfusion_small_s0")
    if options.again and not options.tables_only:
        measure_again(options.runs_dir)
    if options.coco and not options.tables_only:
        measure_coco(options.coco, options.runs_dir)
    fill_readme()


if __name__ == "__main__":
    main()
