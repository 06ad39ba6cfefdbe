"""The notebooks run as they are committed."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANOPTIC_OCC_CACHE", str(tmp_path))
    monkeypatch.setattr(plt, "show", plt.close)
    names: dict[str, object] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), names)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    quality = {" ".join(row[:-3]): float(row[-2]) for row in rows[1:] if len(row) > 3}
    assert max(quality, key=quality.__getitem__) == "true order" and quality["true order"] > 95
