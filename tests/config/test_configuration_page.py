"""The page of all settings is the table of settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.configuration import COMMAND, page
from scripts.documents import ROOT, fill


def test_the_page_of_all_settings_is_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "configuration.md", tmp_path / "docs")
    (document,) = fill("settings", page(), COMMAND, tmp_path)
    now = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document.read_text(encoding="utf-8") == now, "run: python -m scripts.configuration"
