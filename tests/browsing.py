"""What the browser tests do in a notebook."""

from __future__ import annotations

from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: the package playwright is missing")


def run_until_it_answers(tab: Any, cell: Any, words: str = "") -> None:
    """On a busy machine the first key may come before the notebook listens; running a cell twice does no harm."""
    output = cell.locator(".jp-OutputArea-output", has_text=words).first
    for _ in range(6):
        cell.locator(".cm-content").click()
        tab.keyboard.press("Shift+Enter")
        try:
            output.wait_for(timeout=10_000)
            return
        except sync_api.TimeoutError:
            continue
    output.wait_for()
