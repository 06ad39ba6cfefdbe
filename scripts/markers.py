"""Tables in documents, between markers ``<!-- name: who made it -->`` and ``<!-- end name -->``."""

from __future__ import annotations

import re

from panoptic_occ.common.errors import DataError


def fill(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between the markers of ``name``; DataError unless there is exactly one such pair."""
    pattern = rf"(<!-- {re.escape(name)}: [^>]*-->\n).*?(<!-- end {re.escape(name)} -->)"
    text, count = re.subn(pattern, lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise DataError(f"expected one pair of markers for '{name}', found {count}; add or remove some")
    return text
