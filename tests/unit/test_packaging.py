"""The package holds what it needs, and the files at the top say the same things."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nblauncher

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = ("install.sh", "quickstart.sh", "run-tests.sh", ".ci/run")


def package_files() -> set[str]:
    package = Path(nblauncher.__file__).parent
    return {str(file.relative_to(package)) for file in package.rglob("*") if is_ours(file)}


def is_ours(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def test_the_installed_package_holds_every_file_of_the_checkout():
    source = CHECKOUT / "nblauncher"
    assert {str(file.relative_to(source)) for file in source.rglob("*") if is_ours(file)} <= package_files()


def test_every_requirement_has_a_version_that_was_tried():
    setup = (CHECKOUT / "setup.py").read_text().partition("install_requires")[2]
    wanted = {normal(name) for name in re.findall(r'^\s+"([A-Za-z0-9_.-]+)(?:[<>=,.0-9]*)",$', setup, re.MULTILINE)}
    tried = {normal(line.split("==")[0]) for line in (CHECKOUT / "constraints.txt").read_text().splitlines()}
    assert len(wanted) > 15
    assert wanted <= tried


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run_and_is_sound_bash(script):
    assert os.access(CHECKOUT / script, os.X_OK)
    subprocess.run(["bash", "-n", CHECKOUT / script], check=True)


@pytest.mark.parametrize("script", SCRIPTS[:3])
def test_help_needs_no_root_and_changes_nothing(script):
    output = subprocess.run(
        [CHECKOUT / script, "--help"], check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    ).stdout
    assert output.startswith(f"Usage: ./{script}")


def test_the_changelog_has_a_place_for_what_is_not_released():
    assert "## Unreleased" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_the_version_is_one_that_install_sh_can_read():
    assert re.fullmatch(r"[0-9A-Za-z.+-]+", nblauncher.__version__)
    assert f'__version__ = "{nblauncher.__version__}"\n' in (CHECKOUT / "nblauncher" / "__init__.py").read_text()


@pytest.mark.parametrize("command", ["nblauncher", "ipython_dir"])
def test_an_installed_command_imports_nothing_that_the_callers_environment_names(tmp_path, command):
    """As `sudo -E` hands it on: PYTHONPATH, a folder to start in, a user's own site-packages."""
    took = tmp_path / "took"
    own = tmp_path / f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    own.mkdir(parents=True)
    for folder in (tmp_path, own):
        for module in ("sitecustomize", "usercustomize", "click", "nblauncher"):
            (folder / f"{module}.py").write_text(f"open({str(took)!r}, 'w')\n")
    environment = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "PYTHONUSERBASE": f"{tmp_path}/.local",
        "PYTHONSTARTUP": str(tmp_path / "click.py"),
        "PYTHONINSPECT": "1",
        "PYTHONHOME": "/nonexistent",
    }
    link = tmp_path / "link"
    link.symlink_to(Path(sys.executable).with_name(command))
    for program in (link, Path(sys.executable).with_name(command)):
        words = ["--version"] if command == "nblauncher" else []
        said = subprocess.run(
            [program, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert said.stdout.startswith("nblauncher, version" if words else f"{tmp_path}/.ipython")
    assert not took.exists()


def test_the_package_can_be_used_without_the_checkout_as_working_directory(tmp_path):
    subprocess.run([sys.executable, "-I", "-c", "import nblauncher.cli.main"], check=True, cwd=tmp_path)
