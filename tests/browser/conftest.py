"""One Chromium for the tests of a file, in which its class's CA was installed, and a fresh page for each test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.browsing import chromium, fresh_page, sync_api
from tests.classroom import Classroom


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Playwright's. It ends with the file: meanwhile nothing else in this thread can run an asyncio loop."""
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def flags() -> Sequence[str]:
    """More words for Chromium's command line; a file's own fixture of this name says others."""
    return ()


@pytest.fixture(scope="module")
def browser(
    driver: Any, room: Classroom, flags: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """With the class CA of the file's `room`, as docs/browser.md says."""
    with chromium(driver, tmp_path_factory.mktemp("browser"), room.paths.tls / "ca.pem", *flags) as one:
        yield one


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with fresh_page(browser, viewport={"width": 1280, "height": 900}) as one:
        yield one
