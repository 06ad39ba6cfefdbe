"""The page of all settings is the table of settings."""

from __future__ import annotations

from scripts import configuration
from scripts.markers import fill


def test_the_page_of_all_settings_is_up_to_date() -> None:
    text = configuration.PAGE.read_text(encoding="utf-8")
    assert fill(text, "settings", configuration.page()) == text, "run: python -m scripts.configuration"
