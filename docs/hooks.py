"""Files of the repository that the site shows beside docs/: results, contributing, changes, citation, notebooks.

In the repository a page of docs/ links to them by ``../``, so that the links work where the Markdown is read as it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SHOWN = ("results/**/*.md", "notebooks/*.ipynb", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the files of ``SHOWN`` under their path in the repository."""
    root = Path(config.config_file_path).parent
    for path in sorted(path for pattern in SHOWN for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Points links at the places of the site, where docs/ and the root of the repository are one folder, and makes the
    bold first line of a table of results the title of its page."""
    if page.file.generated_by is None:
        return re.sub(r"\]\(\.\./", "](", markdown)
    return re.sub(r"\A\*\*(.+)\*\*", r"# \1", re.sub(r"\]\(docs/", "](", markdown))
