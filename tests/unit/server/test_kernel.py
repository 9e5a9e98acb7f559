"""A kernel's own environment: made, renewed, and done without when the home has no room."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nblauncher.server import class_files, kernel, kernel_sockets
from nblauncher.server.class_files import PIP_PREFIX, Kernels

SHOW = "import sys, webcolors; print(sys.prefix); print(webcolors.__file__)"


def run(home: str | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **({"HOME": home} if home is not None else {})}
    return subprocess.run(
        [sys.executable, "-I", kernel.__file__, PIP_PREFIX, "-c", SHOW],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_kernel_runs_in_an_environment_of_its_own_with_the_courses_packages(tmp_path):
    prefix, package = run(str(tmp_path)).stdout.splitlines()
    assert prefix == str(tmp_path / PIP_PREFIX)
    assert not package.startswith(prefix)


def test_a_package_of_the_students_comes_before_the_courses(tmp_path):
    kernel.prepare(tmp_path / PIP_PREFIX)
    packages = next((tmp_path / PIP_PREFIX / "lib").iterdir()) / "site-packages"
    (packages / "webcolors.py").write_text("")
    assert run(str(tmp_path)).stdout.splitlines()[1] == str(packages / "webcolors.py")


def test_what_is_missing_or_spoilt_is_made_again_and_the_rest_is_kept(tmp_path):
    folder = tmp_path / "python"
    python = kernel.prepare(folder)
    packages = next((folder / "lib").iterdir()) / "site-packages"
    (packages / "mine.py").write_text("kept")
    python.unlink()
    python.write_text("spoilt")
    (folder / "pyvenv.cfg").write_bytes(b"\xff")
    assert kernel.prepare(folder) == python
    assert python.is_symlink() and (packages / "mine.py").read_text() == "kept"
    assert "home = " in (folder / "pyvenv.cfg").read_text()


def test_pip_of_the_environment_is_that_of_its_python(tmp_path):
    folder = tmp_path / "my python"
    python = kernel.prepare(folder)
    (folder / "bin/pip").write_text("spoilt")
    kernel.prepare(folder)
    for name in ("pip", "pip3"):
        said = subprocess.run([folder / "bin" / name, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith("pip ")
        assert str(python) in (folder / "bin" / name).read_text()


def test_the_students_programs_come_first_then_the_courses_then_the_hosts(tmp_path):
    course = str(Path(sys.executable).parent)
    assert kernel.search_path(tmp_path, f"/usr/bin:{course}::/bin") == f"{tmp_path}/bin:{course}:/usr/bin:/bin"


@pytest.mark.parametrize("way", ["a file in its place", "a dangling link", "no HOME"])
def test_a_home_without_room_still_has_kernels(tmp_path, way):
    home: str | None = str(tmp_path)
    if way == "a file in its place":
        (tmp_path / ".local").write_text("")
    elif way == "a dangling link":
        (tmp_path / ".local").symlink_to("/nonexistent/nowhere")
    else:
        home = None
    done = run(home)
    assert "%pip has no place" in done.stderr
    assert done.stdout.splitlines()[0] == sys.prefix


def test_class_files_are_readable_by_every_account_whatever_the_umask(tmp_path):
    run_folder = tmp_path / "nblauncher" / "course"
    before = os.umask(0o077)
    try:
        for _ in range(2):
            spec = {"argv": ["python", "-m", "ipykernel_launcher", "--profile=x"], "language": "python"}
            class_files.write(run_folder, Kernels(spec))
    finally:
        os.umask(before)
    assert run_folder.stat().st_mode & 0o777 == 0o711
    for path in run_folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    spec = json.loads((class_files.data_folder(run_folder) / "kernels/python3/kernel.json").read_text())
    assert spec["argv"][1:] == ["-I", kernel.__file__, PIP_PREFIX, "-m", "ipykernel_launcher", "--profile=x"]
    overrides = json.loads((class_files.settings_folder(run_folder) / "overrides.json").read_text())
    assert overrides["@jupyterlab/docmanager-extension:plugin"] == {"autosaveInterval": 15}


def test_a_class_without_a_debugger_says_so_in_its_kernelspec(tmp_path):
    said = {}
    for has_debugger in (True, False):
        class_files.write(tmp_path, Kernels(has_debugger=has_debugger))
        file = class_files.data_folder(tmp_path) / "kernels/python3/kernel.json"
        said[has_debugger] = json.loads(file.read_text())["metadata"]["debugger"]
    assert said == {True: True, False: False}


def test_it_is_seen_whether_new_kernels_are_what_the_config_says(tmp_path):
    physics = Kernels(None, "/opt/physics/bin/python", tmp_path / "kernels.sock", ("numpy",))
    assert not class_files.are_current(tmp_path / "none", Kernels())
    class_files.write(tmp_path / "course", physics)
    assert class_files.are_current(tmp_path / "course", physics)
    for change in (
        {"python": "/x"},
        {"spec": {"argv": ["x", "-m", "y"]}},
        {"socket": None},
        {"preload": ()},
        {"has_debugger": False},
    ):
        assert not class_files.are_current(tmp_path / "course", replace(physics, **change))


@pytest.mark.parametrize("module", [kernel, kernel_sockets])
def test_the_kernels_files_need_nothing_but_python(module):
    modules = {
        alias.name for node in ast.walk(ast.parse(Path(module.__file__).read_text())) for alias in names_of(node)
    }
    assert modules <= {"annotations", "Path", "ModuleType", "Any", "Iterator", *sys.stdlib_module_names}


def names_of(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
