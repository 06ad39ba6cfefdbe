"""Who may import whom, and what a light import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import panoptic_occ

SOURCE = Path(panoptic_occ.__file__).parent
# Data flows from left to right; packages in one column do not know each other.
COLUMNS = (
    ("data",),
    ("backbone",),
    ("thing", "stuff"),
    ("exchange",),
    ("occlusion",),
    ("fusion",),
    ("metrics", "visuals"),
)
INTERFACES = {"errors", "files", "kinds", "masks", "structures", "categories"}
HEAVY = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}


def modules(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py"))


def imports(text: str, module: str) -> Iterator[str]:
    """Absolute names of everything that the source ``text`` of ``module`` imports, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def parts_of_ours(text: str, module: str) -> set[str]:
    """First level below ``panoptic_occ`` of everything of ours that is imported."""
    names = (name.split(".") for name in imports(text, module))
    return {name[1] for name in names if name[0] == "panoptic_occ" and len(name) > 1}


def allowed_for(package: str) -> set[str]:
    column = next(k for k, names in enumerate(COLUMNS) if package in names)
    return {package} | INTERFACES | {name for names in COLUMNS[:column] for name in names}


def module_name(path: Path) -> str:
    return ".".join(["panoptic_occ", *path.relative_to(SOURCE).with_suffix("").parts])


@pytest.mark.parametrize("package", [name for names in COLUMNS for name in names])
def test_imports_point_to_the_left(package: str) -> None:
    assert modules(package), f"no package {package}"
    for path in modules(package):
        wrong = parts_of_ours(path.read_text(encoding="utf-8"), module_name(path)) - allowed_for(package)
        assert not wrong, f"{path}: {package} must not import {sorted(wrong)}; allowed: {sorted(allowed_for(package))}"


def test_interfaces_import_only_interfaces() -> None:
    for name in INTERFACES:
        text = (SOURCE / f"{name}.py").read_text(encoding="utf-8")
        assert parts_of_ours(text, f"panoptic_occ.{name}") <= INTERFACES, name


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    around = {"benchmark", "callbacks", "reproduce", "runs", "stored"}
    assert packages - around == {name for names in COLUMNS for name in names}


def test_the_walk_sees_every_kind_of_import() -> None:
    text = "import panoptic_occ.a.x\nfrom panoptic_occ import b\nfrom panoptic_occ.c import y\nfrom ..d import z\n"
    text += "def f():\n    from .. import e\n    from . import own\n    import panoptic_occ.g as h\n"
    assert parts_of_ours(text, "panoptic_occ.home.module") == {"a", "b", "c", "d", "e", "g", "home"}


@pytest.mark.parametrize("package", ["fusion", "metrics", "occlusion", "visuals", "thing", "stuff", "backbone"])
def test_libraries_know_no_framework(package: str) -> None:
    for path in modules(package):
        used = {name.partition(".")[0] for name in imports(path.read_text(encoding="utf-8"), module_name(path))}
        assert not used & HEAVY, f"{path} imports {sorted(used & HEAVY)}"


def test_relations_know_no_framework() -> None:
    text = (SOURCE / "data" / "relations.py").read_text(encoding="utf-8")
    assert not {name.partition(".")[0] for name in imports(text, "panoptic_occ.data.relations")} & HEAVY


def test_the_package_is_light() -> None:
    """One process asks in three steps: the bare package loads no torch at all, the fusion no framework."""
    program = """
import sys, time
start = time.perf_counter()
import panoptic_occ
assert time.perf_counter() - start < 0.2, "slow import"
heavy = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "pycocotools", "matplotlib"}
assert not (heavy | {"torch", "numpy"}) & set(sys.modules), "bare import"
from panoptic_occ import FusionPolicy, InstanceSet, Relation, fuse
assert not heavy & set(sys.modules), f"fusion: {heavy & set(sys.modules)}"
from panoptic_occ import PanopticQuality, panoptic_quality
late = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "pycocotools"}
assert not late & set(sys.modules), f"metrics: {late & set(sys.modules)}"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_declared_once() -> None:
    """Type checkers read one list, the lazy import another; both must name the same things at the same place."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.asname: str(node.module).removeprefix("panoptic_occ.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == panoptic_occ._HOMES


@pytest.mark.parametrize("name", panoptic_occ.__all__)
def test_public_names_exist(name: str) -> None:
    value = getattr(panoptic_occ, name)
    assert name == "__version__" or value.__name__ == name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'fuze'; it offers .*\bfuse\b"):
        _ = panoptic_occ.fuze
