"""Importing the server runs no node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("module", "calls"), [("nblauncher.server.app", 0), ("jupyterlab.labapp", 1)])
def test_jupyterlab_asks_yarn_when_it_is_imported_and_the_server_keeps_it_from_that(tmp_path: Path, module, calls):
    node, told = tmp_path / "node", tmp_path / "told"
    node.write_text(f'#!/bin/sh\necho "$*" >> {told}\n')
    node.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [sys.executable, "-I", "-c", f"import {module}"]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, cwd=tmp_path)
    found = told.read_text().splitlines() if told.exists() else []
    assert len(found) == calls and all("yarn" in line for line in found)
