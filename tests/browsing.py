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
from PIL import Image

from tests.running import eventually

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: the package playwright is missing")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NO BROWSER TEST: axe-core is missing")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHELL = shutil.which("chromium-headless-shell") or CHROMIUM
"""The same without windows, tabs and warning pages: a page costs a quarter less."""

CERTUTIL = shutil.which("certutil")
# The new headless mode is the whole browser, with the warning pages that the shell does not have.
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--process-per-site",  # tabs share what was compiled: a third less of a processor for each page of Jupyter
]


def require_browser(program: str | None = SHELL) -> None:
    if program is None or CERTUTIL is None:
        pytest.skip("NO BROWSER TEST: install chromium and certutil (libnss3-tools)")


LOOKS = [
    (scheme, {"width": width, "height": height})
    for scheme in ("light", "dark")
    for width, height in ((1280, 900), (390, 844))
]
"""A desktop and a phone, by day and by night."""

STAYS = "HTMLFormElement.prototype.submit = () => {}"
"""With this as an init script a page that goes on by itself stays; buttons work."""


def accessibility_problems(page: Any) -> list[str]:
    """What axe-core finds in a page, in every look: rule, look and the elements."""
    found = []
    page.evaluate(axe.Axe().axe_script)
    for scheme, viewport in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(viewport)
        for rule in page.evaluate("axe.run({resultTypes: ['violations']}).then(found => found.violations)"):
            elements = [node["html"][:200] for node in rule["nodes"]]
            found.append(f"{page.url}: {rule['id']} ({scheme}, {viewport['width']}): {elements}")
    return found


def picture(page: Any, name: str, tmp_path: Path, **options: Any) -> None:
    """A screenshot for the documentation, with few colours, into the folder that NBT_PICTURES names."""
    shot = tmp_path / f"{name}.png"
    page.screenshot(path=shot, **options)
    folder = os.environ.get("NBT_PICTURES")
    if folder:
        with Image.open(shot) as image:
            small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
            small.save(Path(folder) / f"{name}.png", optimize=True)


_HAS_KERNEL = """async () => {
    const base = location.pathname.split(/\\/(?:notebooks|lab|tree)(?:\\/|$)/)[0];
    const answer = await fetch(`${base}/api/sessions`);
    const sessions = answer.ok ? await answer.json() : [];
    return sessions.some(one => one.kernel && ["idle", "busy"].includes(one.kernel.execution_state));
}"""
"""Whether the student's server has a session with a kernel that has started."""


@contextlib.contextmanager
def chromium(
    driver: Any, home: Path, authority: Path | None, *flags: str, program: str | None = SHELL
) -> Iterator[Any]:
    """A Chromium with a home of its own, in which the class CA was installed, or not. `driver`: Playwright's."""
    assert program is not None and CERTUTIL is not None
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    database = ["-d", f"sql:{store}"]
    subprocess.run([CERTUTIL, *database, "-N", "--empty-password"], check=True)
    if authority is not None:
        subprocess.run([CERTUTIL, *database, "-A", "-t", "C,,", "-n", "class", "-i", authority], check=True)
    browser = driver.chromium.launch(
        executable_path=program, args=[*FLAGS, *flags], env={**os.environ, "HOME": str(home)}
    )
    yield browser
    browser.close()


@contextlib.contextmanager
def fresh_page(browser: Any, **context: Any) -> Iterator[Any]:
    """A page of a browser that knows nothing of the visits before: neither cookies nor stored settings."""
    opened = browser.new_context(**context)
    opened.set_default_timeout(60_000)
    # pytest shows them below a test that failed.
    opened.on("requestfailed", lambda request: print(f"request failed: {request.url}: {request.failure}"))
    opened.on("response", lambda one: print(f"answer {one.status}: {one.url}") if one.status >= 400 else None)
    opened.on("weberror", lambda error: print(f"error in a page: {error.error}"))
    yield opened.new_page()
    for one in browser.contexts:  # also those that a test has opened
        one.close()


@contextlib.contextmanager
def browser_page(
    driver: Any, home: Path, authority: Path | None, *flags: str, program: str | None = SHELL, **context: Any
) -> Iterator[Any]:
    """A page of a Chromium that is started for it."""
    with chromium(driver, home, authority, *flags, program=program) as browser, fresh_page(browser, **context) as page:
        yield page


def run_until_it_answers(tab: Any, cell: Any, words: str = "", *, code: str | None = None) -> None:
    """On a busy machine the first key may come before the notebook listens; running a cell twice does no harm.

    Not before the kernel is there: JupyterLab asks which kernel to start when a cell is run earlier than the page knows
    the host's kernels (`NotebookActions` in @jupyterlab/notebook: `hasNoKernel`). The page shows an idle kernel before
    it has one, so the server is asked.
    """
    eventually(lambda: tab.evaluate(_HAS_KERNEL), patience=60)
    tab.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(state="attached")
    output = cell.locator(".jp-OutputArea-output", has_text=words).first
    dialog = tab.locator(".jp-Dialog-content")
    for _ in range(6):
        assert not dialog.count(), dialog.first.inner_text()
        if code is not None:  # every time: a page that is still loading may put the notebook's own text back
            cell.locator(".cm-content").fill(code)
        cell.locator(".cm-content").click()
        tab.keyboard.press("Shift+Enter")
        try:
            output.wait_for(timeout=10_000)
            return
        except sync_api.TimeoutError:
            continue
    output.wait_for()
