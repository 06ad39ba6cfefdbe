"""Who may import whom, and what a light import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import panoptic_occ

SOURCE = Path(panoptic_occ.__file__).parent
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
# From the ground up: a room imports only from rooms of the floors below its own.
FLOORS = (
    ("common",),
    ("structures",),
    ("config", "ops"),
    ("data", "backbone", "fusion", "visuals"),
    ("thing", "stuff", "metrics"),
    ("exchange", "occlusion"),
    ("network",),
    ("runs",),
    ("evaluation",),
    ("training",),
    ("commands",),
)
DOORS = {"__init__", "cli", "evaluate", "pq", "predict", "prepare", "testing", "train"}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}


def module_name(path: Path, root: Path = SOURCE) -> str:
    return ".".join([root.name, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(text: str, module: str, *, top: bool = False) -> Iterator[str]:
    """Absolute names of everything that the source ``text`` of ``module`` imports; inside functions too, or at its top
    only, where it is loaded with the module."""
    nodes = ast.parse(text).body if top else ast.walk(ast.parse(text))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def our_imports(module: str) -> set[str]:
    """Modules of ours that a module of ours imports."""
    return set(imports(MODULES[module].read_text(encoding="utf-8"), module)) & MODULES.keys() - {module}


def room_of(module: str) -> str:
    """The package below the root that a module lies in, or the module itself where it is a door."""
    return [*module.split("."), "__init__"][1]


def backward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a module from a room that lies as high as its own or higher."""
    arrows = ((module, other) for module, others in graph.items() for other in others if other != "panoptic_occ")
    high = len(FLOORS)
    return [
        f"{module} -> {other}"
        for module, other in arrows
        if room_of(module) != room_of(other)
        and FLOOR_OF.get(room_of(module), high) <= FLOOR_OF.get(room_of(other), high)
    ]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of a circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


GRAPH = {module: our_imports(module) for module in MODULES}


def test_no_import_runs_back() -> None:
    # what a library user may subclass is tested with all that its contract touches
    assert backward({module: others for module, others in GRAPH.items() if room_of(module) not in DOORS}) == []


def test_no_modules_import_each_other() -> None:
    assert circle({module: others - {"panoptic_occ"} for module, others in GRAPH.items()}) == []


def test_rooms_do_not_import_each_other() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        rooms.setdefault(room_of(module), set()).update({room_of(other) for other in others} - {room_of(module)})
    assert circle({room: others - DOORS for room, others in rooms.items()}) == []


def test_scripts_import_no_circle() -> None:
    files = {module_name(path, SCRIPTS): path for path in SCRIPTS.rglob("*.py")}
    graph = {name: set(imports(path.read_text(), name)) & files.keys() - {name} for name, path in files.items()}
    assert circle(graph) == []
    ours = chain.from_iterable(imports(path.read_text(), name) for name, path in MODULES.items())
    assert not [name for name in ours if name.startswith("scripts")]


def test_the_root_holds_doors_only() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} <= DOORS
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == FLOOR_OF.keys()


def test_the_walk_sees_every_kind_of_import() -> None:
    text = "import panoptic_occ.a.x\nfrom panoptic_occ import b\nfrom panoptic_occ.c import y\nfrom ..d import z\n"
    inner = "def f():\n    from .. import e\n    from . import sibling\n    import panoptic_occ.g as h\n"
    ours = {name for name in imports(text + inner, "panoptic_occ.home.module") if name.startswith("panoptic_occ.")}
    assert {room_of(name) for name in ours} == {"a", "b", "c", "d", "e", "g", "home"}
    assert {room_of(name) for name in imports(text + inner, "panoptic_occ.home.module", top=True)} >= {"a", "b"}
    assert "panoptic_occ.g" not in imports(text + inner, "panoptic_occ.home.module", top=True)


def test_what_is_forbidden_is_found() -> None:
    graph = {
        "panoptic_occ.ops.x": {"panoptic_occ.data.y"},
        "panoptic_occ.data.y": {"panoptic_occ.ops.x", "panoptic_occ.backbone.z"},
    }
    assert backward(graph) == [
        "panoptic_occ.ops.x -> panoptic_occ.data.y",
        "panoptic_occ.data.y -> panoptic_occ.backbone.z",
    ]
    assert circle(graph)


LIBRARIES = ["structures", "ops", "fusion", "metrics", "occlusion", "visuals", "thing", "stuff", "backbone", "network"]


@pytest.mark.parametrize("room", LIBRARIES)
def test_libraries_know_no_framework_and_light_ones_load_no_torchvision(room: str) -> None:
    for module, path in MODULES.items():
        if room_of(module) == room:
            text = path.read_text(encoding="utf-8")
            used = {name.partition(".")[0] for name in imports(text, module)}
            assert not used & FRAMEWORKS, f"{path} imports {sorted(used & FRAMEWORKS)}"
            loaded = {name.partition(".")[0] for name in imports(text, module, top=True)}
            assert room not in LIBRARIES[:3] or "torchvision" not in loaded, path


def test_the_package_is_light() -> None:
    """One process asks in three steps: the bare package loads no torch at all, the fusion little beside torch."""
    program = """
import sys, time
start = time.perf_counter()
import panoptic_occ
assert time.perf_counter() - start < 0.2, "slow import"
heavy = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "pycocotools", "matplotlib", "torchvision"}
assert not (heavy | {"torch", "numpy"}) & set(sys.modules), "bare import"
import torch
start = time.process_time()
from panoptic_occ import FusionPolicy, InstanceSet, Relation, fuse
assert time.process_time() - start < 0.3, "fusion: seconds beside torch"
assert not heavy & set(sys.modules), f"fusion: {heavy & set(sys.modules)}"
from panoptic_occ import PanopticQuality, panoptic_quality
late = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "pycocotools"}
assert not late & set(sys.modules), f"metrics: {late & set(sys.modules)}"
"""
    for _ in range(3):  # the first one may have to compile the modules
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    raise AssertionError(done.stderr)


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
