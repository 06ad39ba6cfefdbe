"""Writes the table of settings into docs/configuration.md: ``python -m scripts.configuration``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from panoptic_occ.config.compose import compose
from panoptic_occ.config.files import conf_dir, group_choices
from panoptic_occ.config.schema import GROUPS, Setting, table_of
from panoptic_occ.config.values import words
from scripts.documents import fill

COMMAND = "python -m scripts.configuration from the table of settings"
WIDE = ("preset", "method", "experiment", "sweep")
LINE = re.compile(r"^( *)(\w+):(?: +((?:[^#'\"]|'[^']*'|\"[^\"]*\")*?))?(?: +# (.*))?$")
HEADS = ("key", "value", "allowed", "scope", "meaning")


def page() -> str:
    """All settings: those without a group, then a table for each group, over all its choices."""
    plain = {key: setting for key, setting in table_of(compose()).items() if key.partition(".")[0] not in GROUPS}
    comments = dict(_comments(conf_dir() / "config.yaml"))
    parts = ["### Without a group", _table(plain, comments)]
    defaults = {group: choice for group, choice in compose().choices.items() if group not in WIDE}
    for group, choices in group_choices().items():
        if group not in defaults:
            continue
        choices.sort(key=lambda choice: choice != defaults[group])  # whose values are shown
        settings: dict[str, Setting] = {}
        comments = {}
        for choice in choices:
            for key, setting in table_of(compose([f"{group}={choice}"])).items():
                if key.startswith(f"{group}.") and not key.endswith("_"):
                    settings.setdefault(key, setting)
            for key, comment in _comments(conf_dir() / group / f"{choice}.yaml"):
                comments.setdefault(f"{group}.{key}", comment)
        named = ", ".join(f"`{choice}`" for choice in choices)
        parts += [f"### `{group}`", f"Choices, the default first: {named}.", _table(settings, comments)]
    return "\n\n".join(parts)


def _table(settings: dict[str, Setting], comments: dict[str, tuple[str, str]]) -> str:
    rows = []
    for key, setting in settings.items():
        value, meaning = comments.get(key, ("", ""))
        # unions of numbers have no order of their own
        kind = ", or ".join(sorted(words(setting.kind).split(", or "), key=lambda text: (text == "null", text)))
        allowed = "" if "typing" in kind or "collections" in kind or "<" in kind else kind
        rows.append([f"`{key}`", f"`{value}`" if value else "", allowed, setting.scope.value, meaning])
    return tabulate([[part.replace("|", "\\|") for part in row] for row in rows], HEADS, tablefmt="github")


def _comments(file: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every key of a YAML file, dotted, with its value and the comment behind it."""
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := LINE.match(line):
            indent, key, value, comment = len(match[1]), match[2], match[3] or "", match[4] or ""
            path = [*((depth, part) for depth, part in path if depth < indent), (indent, key)]
            yield ".".join(part for _, part in path), (value, comment)


if __name__ == "__main__":
    fill("settings", page(), COMMAND)
