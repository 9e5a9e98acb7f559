"""What the browser tests do with Chromium, and in a notebook."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: the package playwright is missing")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CERTUTIL = shutil.which("certutil")
# The new headless mode is the whole browser, with the warning pages that the old one did not have.
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


def require_browser() -> None:
    if CHROMIUM is None or CERTUTIL is None:
        pytest.skip("NO BROWSER TEST: install chromium and certutil (libnss3-tools)")


@contextlib.contextmanager
def browser_page(home: Path, authority: Path | None, *flags: str, **context: Any) -> Iterator[Any]:
    """A page of a fresh Chromium with a home of its own, in which the class CA was installed, or not."""
    assert CHROMIUM is not None and CERTUTIL is not None
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    database = ["-d", f"sql:{store}"]
    subprocess.run([CERTUTIL, *database, "-N", "--empty-password"], check=True)
    if authority is not None:
        subprocess.run([CERTUTIL, *database, "-A", "-t", "C,,", "-n", "class", "-i", authority], check=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, *flags], env={**os.environ, "HOME": str(home)}
        )
        opened = chromium.new_context(**context)
        opened.set_default_timeout(60_000)
        yield opened.new_page()
        chromium.close()


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
