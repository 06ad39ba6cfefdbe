"""What the README and docs/ promise: links lead somewhere, command lines compose, keys exist, examples run."""

from __future__ import annotations

import functools
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import panoptic_occ
from data.conftest import TinyCoco
from helpers.tiny_runs import QUIET, TINY, read, steps
from panoptic_occ.config.compose import compose, group_choices
from panoptic_occ.config.files import conf_dir
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.testing import OcclusionContract, toy_categories

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
LINKED = [*PAGES.values(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
COMMANDS = ("train", "evaluate", "predict", "prepare")
CALL = re.compile(rf"(?:panoptic-occ |python -m panoptic_occ\.)({'|'.join(COMMANDS)})\b(.*)")
FENCE = re.compile(r"^```(\w*)(?: title=\"(.+?)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKERS = {
    "README.md": {"scenes"},
    "docs/results.md": {"coco", "scenes", "own", "twice", "again", "rules"},
    "docs/tables.md": {"tables"},
    "docs/speed.md": {"bench"},
    "docs/configuration.md": {"settings"},
    "docs/trust.md": {"kills"},
}


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text_of(path))


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Title (empty without one) and text of the code blocks of a language."""
    return [(title, code) for name, title, code in FENCE.findall(text_of(PAGES[page])) if name == language]


def titled(page: str) -> dict[str, str]:
    """Text of the code blocks that name their file, by that name."""
    return {title: code for _, title, code in FENCE.findall(text_of(PAGES[page])) if title}


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as they are where Markdown is read in a repository."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(page: str) -> set[str]:
    """What stands in backticks between the code blocks, on one line."""
    return {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(PAGES[page]))}


def command_lines() -> Iterator[tuple[str, str]]:
    """Command and arguments of every command line, of code blocks and of the text."""
    for page in PAGES:
        lines = [line for _, code in blocks(page, "") for line in code.replace("\\\n", " ").splitlines()]
        for line in dict.fromkeys([*lines, *sorted(spans(page))]):
            if (call := CALL.search(line)) and not line.startswith("eval "):
                yield call[1], " ".join(call[2].replace("METHOD", "ocfusion").split())


LINES = list(dict.fromkeys(command_lines()))


def words_of(arguments: str) -> tuple[list[str], bool]:
    """The key=value words of a command line, without flags and comments; whether it is a sweep."""
    words = shlex.split(arguments.partition(" && ")[0], comments=True)
    flags = [word for word in words if word.startswith("-")]
    for flag in {"--config-dir", "--cfg"} & set(words):
        del words[words.index(flag) + 1]
    return [word for word in words if word not in flags], "-m" in flags


def jobs(words: list[str]) -> Iterator[list[str]]:
    """Words of jobs of a sweep, in which every value of every key occurs."""
    values = {key: value.split(",") if "[" not in value else [value] for key, value in map(split, words)}
    for number in range(max(map(len, values.values()))):
        yield [f"{key}={each[number % len(each)]}" for key, each in values.items()]


def split(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that docs/data.md and docs/new_method.md say to write."""
    folder = tmp_path_factory.mktemp("own")
    for name, code in (titled("docs/data.md") | titled("docs/new_method.md")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a command in this process."""
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))

    def start(command: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [command, *words])
        runpy.run_module(f"panoptic_occ.{command}", run_name="__main__")

    return start


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8192


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        file, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{path.name}: {target} is none of {sorted(anchors(there))}"


@pytest.mark.parametrize(("command", "arguments"), LINES, ids=map(" ".join, LINES))
def test_command_lines_compose(command: str, arguments: str, user_folder: Path) -> None:
    """With ``run=runs/<data>/...`` the words are those of a run on that data."""
    words, sweep = words_of(arguments)
    keys = [split(word)[0] for word in words]
    trained_on = re.search(r"run=runs/(\w+)/", arguments)
    data = [f"data={trained_on[1]}"] if trained_on and "data" not in keys else []
    for job in jobs(words) if sweep else [words]:
        config = compose([*data, *job], user_folder / "my_conf" if "--config-dir" in arguments else None)
        assert set(data) | {word for word in job if not word.startswith("hydra")} <= set(config.command)


def test_pages_hold_command_lines() -> None:
    assert {command for command, _ in LINES} == set(COMMANDS) and len(LINES) > 40


@functools.cache
def leaves(group: str) -> set[str]:
    """Dotted keys of all choices of a group, below it."""
    files = (conf_dir() / group).rglob("*.yaml")
    return {key for file in files for key in dotted(yaml.safe_load(file.read_text(encoding="utf-8")) or {})}


def dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}"
        yield from dotted(value, f"{prefix}{key}.")


@pytest.mark.parametrize("page", PAGES)
def test_keys_and_choices_exist(page: str) -> None:
    """Every ``group.key`` and ``group=choice`` in backticks."""
    choices = group_choices()
    for span in spans(page):
        key, value = split(span)
        group, _, rest = key.lstrip("+").partition(".")
        if group in choices and re.fullmatch(r"[a-z_]+(\.[a-z_*]+)+", rest and key) and rest != "png":
            pattern = re.compile(re.escape(rest).replace(r"\*", ".+"))
            assert any(map(pattern.fullmatch, leaves(group))), f"{page}: `{span}`"
        if key in choices and re.fullmatch(r"\w+", value) and value not in ("mine", "lower", "null"):
            assert value in choices[key], f"{page}: `{span}`"


@pytest.mark.parametrize("page", MARKERS)
def test_generated_tables_have_their_place(page: str) -> None:
    text = text_of(PAGES[page])
    begun, ended = (re.findall(mark, text, re.MULTILINE) for mark in (r"^<!-- (\w+): made by ", r"^<!-- end (\w+) -->"))
    assert begun == ended and set(begun) == MARKERS[page] and len(begun) == len(MARKERS[page])


def test_both_tables_of_the_scenes_are_one() -> None:
    pattern = re.compile(r"<!-- scenes: .*<!-- end scenes -->", re.DOTALL)
    readme, results = (pattern.findall(text_of(PAGES[page])) for page in ("README.md", "docs/results.md"))
    assert readme and readme == results


def test_maps_name_every_room() -> None:
    rooms = {path.parent.name for path in Path(panoptic_occ.__file__).parent.glob("*/__init__.py")}
    listed = re.search(r"## Map of .*?```\n(.*?)```", text_of(PAGES["README.md"]), re.DOTALL)
    assert listed and {line.split()[0] for line in listed[1].splitlines()} == rooms
    floors = re.findall(r"^\| \d+ \| (.+?) \|", text_of(PAGES["docs/architecture.md"]), re.MULTILINE)
    assert {room for floor in floors for room in re.findall(r"`(\w+)`", floor)} == rooms


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert citation["version"] == panoptic_occ.__version__
    assert f"## {panoptic_occ.__version__}\n" in text_of(ROOT / "CHANGELOG.md")
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all({"given-names", "family-names"} == author.keys() for author in reference["authors"])


def test_the_readme_fuses_detections() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :6], masks[1, 4:, :4] = True, True
    names: dict[str, Any] = {"masks": masks, "boxes": torch.zeros(2, 4), "scores": torch.tensor([0.9, 0.8])}
    names |= {"labels": torch.tensor([0, 0]), "semantic": torch.full((8, 8), -1)}
    ((_, code),) = blocks("README.md", "python")
    exec(compile(code, "README.md", "exec"), names)
    areas = [segment.area for segment in names["result"].segments]
    assert areas == [40, 16]  # the smaller one keeps the 8 common pixels


def test_the_library_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    """All blocks, one after the other; the trained run is a tiny one."""
    monkeypatch.setenv("PANOPTIC_OCC_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, (_, code) in enumerate(blocks("docs/library.md", "python"), start=1):
        if "panoptic_occ.load" in code:
            words = ["experiment=tiny", "run_name=one", "compare=[]", "logger=none"]
            run("train", *words, *QUIET)
            code = code.replace("runs/scenes/ocfusion_small_s0", "runs/scenes_tiny/one")
        exec(compile(code, f"docs/library.md, block {number}", "exec"), names)
    assert (tmp_path / "out" / "table.png").exists()


def test_the_page_on_foreign_detections_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks, one after the other; that of supervision where it is installed."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for number, (_, code) in enumerate(blocks("docs/foreign.md", "python"), start=1):
        if "supervision" not in code or find_spec("supervision"):
            exec(compile(code, f"docs/foreign.md, block {number}", "exec"), names)
    assert (tmp_path / "out" / "photo.png").exists() and len(names["panoptic"].segments) > 0


def test_the_new_method_passes_its_tests(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(user_folder)
    contract = runpy.run_path(str(user_folder / "test_my_method.py"))["TestLowerIsFront"]()
    tests = [name for name in dir(OcclusionContract) if name.startswith("test_")]
    for name in tests:
        getattr(contract, name)()
    assert len(tests) > 5


def test_the_new_method_is_configured(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(user_folder)
    config = compose(["method=lower", "occlusion.start=0.5"], user_folder / "my_conf")
    assert (config.choices.occlusion, config.choices.fusion) == ("lower", "ocfusion")
    model = safe_instantiate(config.occlusion)(in_channels=4, categories=toy_categories())
    assert type(model).__name__ == "LowerIsFront" and model.trainable and model.weight.item() == 0.5


def test_the_new_method_is_trained_and_evaluated(user_folder: Path, cache: Path, tmp_path: Path) -> None:
    def command(name: str, *words: str) -> str:
        line = [sys.executable, "-m", f"panoptic_occ.{name}", "--config-dir", str(user_folder / "my_conf"), *words]
        path = os.pathsep.join([str(user_folder), os.environ.get("PYTHONPATH", "")])
        places = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
        done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False, **places)
        assert done.returncode == 0, done.stderr
        return done.stdout

    words = [*TINY, *steps(2, 2), "method=panoptic_fpn", f"data.source.cache_dir={cache}"]
    table = command("train", *words, "occlusion=lower", "compare=[score,area]")
    (folder,) = (tmp_path / "runs" / "scenes_tiny").glob("panoptic_fpn_*")
    assert "lower" in table and len(list((tmp_path / "runs").rglob("occlusion.safetensors"))) == 1
    assert list(read(folder / "metrics.json")["relations"]) == ["score", "area", "lower"]
    command("evaluate", f"run={folder}", "trusted=[my_method]", "fusion.min_visible=0.2", "fusion=ocfusion")
    # as one of several orders of another method's run, on the same base
    command("train", *words, "compare=[lower]")
    assert len(list((tmp_path / "runs").rglob("occlusion.safetensors"))) == 1, "it was trained a second time"


def test_data_of_ones_own(
    user_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, run: Callable[..., None]
) -> None:
    """The commands of the page with its YAML file, on three small images a split."""
    for name in ("train", "val"):
        root = TinyCoco(tmp_path / "mine", name).write()
    monkeypatch.chdir(tmp_path)
    quiet = [*QUIET, "data.num_workers=0"]
    there = [f"data.root={root}", f"data.source.cache_dir={tmp_path}/cache"]
    small = ["run_name=ocfusion_small_s0", "experiment=tiny", "compare=[]", "logger=none", "data.batch_size=2"]
    small += ["data.train_transform.short_edge=[64]", "data.eval_transform.short_edge=64", "data.erase_radius=2"]
    section = text_of(PAGES["docs/data.md"]).partition("### Check, look, train")[2].partition("Without a YAML file")[0]
    calls = [call for call in CALL.findall(section) if call[0] != "predict" and "preset=" not in call[1]]
    assert [command for command, _ in calls] == ["prepare", "evaluate", "train", "evaluate"]
    for command, arguments in calls:
        words = shlex.split(arguments.replace("my_conf", str(user_folder / "my_conf")))
        words += quiet if "run=" in arguments else [*quiet, *there, *(small if command == "train" else [])]
        run(command, *words)
    shown = capsys.readouterr().out
    assert "mine train: overlapping pairs of 3 images" in shown and shown.count("mine: 3 held-out images") == 3
    assert len(list((tmp_path / "cache").glob("relations*.safetensors"))) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
