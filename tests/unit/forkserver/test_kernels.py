"""Parts of the kernels' fork server: what root may import, what a child renews, and waiting for it."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nblauncher.config import settings
from nblauncher.config.settings import DEFAULT_PRELOAD, NotebookSettings, Settings
from nblauncher.forkserver import kernel_child
from nblauncher.forkserver.kernel_child import BadRequest, Ordinary, Request
from nblauncher.forkserver.renewal import HomePaths
from nblauncher.preflight import kernels
from nblauncher.supervisor.spawners import Preload
from nblauncher.system.unix_server import Budget, Limits

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several owners")


def settings_of(notebook: NotebookSettings) -> Settings:
    text = b"course: nbt-kernels"
    return replace(settings.parse(text, Path("/srv/class/notebooks.cfg")), notebook=notebook)


def test_a_student_has_so_many_requests_at_once_and_more_with_time():
    budget = Budget(Limits(children=1, burst=3, per_second=2))
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take(100.5) and not budget.take(100.5)
    assert [budget.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_paths_below_the_home_are_renewed_wherever_a_module_keeps_them(monkeypatch):
    old, new = "/run/nblauncher/x/kernels", "/home/ada"

    def remembering(value):
        return lambda: value

    class Kind:
        cache = f"{old}/.cache/kind"

    Kind.__module__ = "some_module"
    shared = ["/usr/share", f"{old}/styles"]
    names = {
        "__name__": "some_module",
        "text": f"{old}/.config",
        "path": Path(old) / "fonts",
        "shared": shared,
        "Kind": Kind,
        "get": remembering(f"{old}/.cache"),
        "other": "/usr/lib",
    }
    module = SimpleNamespace(**names)
    monkeypatch.setitem(sys.modules, "some_module", module)
    found = HomePaths.here(old)
    found.renew(new)
    assert (module.text, module.path, module.other) == (f"{new}/.config", Path(new) / "fonts", "/usr/lib")
    assert shared == ["/usr/share", f"{new}/styles"] and module.shared is shared
    assert Kind.cache == f"{new}/.cache/kind" and module.get() == f"{new}/.cache"


def test_what_the_student_has_of_the_own_is_named(tmp_path):
    (tmp_path / "pandas").mkdir()
    (tmp_path / "numpy-9.dist-info").mkdir()
    with pytest.raises(Ordinary, match=r"pandas in .* comes before the class's"):
        kernel_child._look_for_own(frozenset({"pandas", "numpy"}), [str(tmp_path / "none"), str(tmp_path)], "/none")
    kernel_child._look_for_own(frozenset({"numpy"}), [str(tmp_path)], "/none")


@pytest.mark.parametrize(
    "change",
    [{"command": []}, {"command": ["a\0"]}, {"environment": {"A": 1}}, {"folder": None}, {"command": "sh"}],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_none(change):
    good = {"command": ["true"], "environment": {"A": "b"}, "folder": "/"}
    assert Request.parse(good).folder == "/"
    with pytest.raises(BadRequest):
        Request.parse({**good, **change})


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A virtual environment that has what this one has, where root alone can write."""
    with tempfile.TemporaryDirectory(prefix="nbt-", dir="/opt") as made:
        folder = Path(made) / "physics"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "all.pth").write_text(f"import site; site.addsitedir({site.getsitepackages()[0]!r})\n")
        folder.parent.chmod(0o755)
        yield folder


@needs_root
def test_check_says_what_kernels_are_forked_with(environment):
    notebook = NotebookSettings(kernel_python=environment / "bin/python", preload=("numpy", "no_such_module"))
    ok, missing = list(kernels.preloading(settings_of(notebook), DEFAULT_PRELOAD))
    assert (ok.level, ok.message) == ("ok", "kernels are forked from a preloaded process with numpy")
    assert missing.level == "warning" and "has no no_such_module" in missing.message
    assert kernels.preload(settings_of(notebook)) == Preload(str(environment / "bin/python"), notebook.preload)
    assert [one.level for one in kernels.preloading(settings_of(notebook), ("no_such_module",))] == ["ok"]


@needs_root
@pytest.mark.parametrize("what", ["bin", "lib/python{}.{}/site-packages", "lib/python{}.{}/site-packages/all.pth"])
def test_an_interpreter_that_others_can_write_is_never_run_as_root(environment, what):
    place = environment / what.format(*sys.version_info)
    os.chown(place, 65534, -1)
    try:
        notebook = NotebookSettings(kernel_python=environment / "bin/python")
        assert kernels.preload(settings_of(notebook)) is None
        (finding,) = kernels.preloading(settings_of(notebook), DEFAULT_PRELOAD)
        assert finding.level == "warning" and f"{place} belongs to uid 65534" in finding.message
        assert "every kernel is started as a program" in finding.message
    finally:
        os.chown(place, 0, -1)


@needs_root
def test_an_interpreter_that_others_can_write_is_not_even_tried_as_root(tmp_path):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nid -u > {tmp_path}/ran-as\n")
    script.chmod(0o777)
    assert "is writable by accounts other than root" in kernels.objections(str(script))[-1]
    assert not (tmp_path / "ran-as").exists()


def test_with_the_spawner_process_nothing_is_preloaded():
    assert kernels.preload(settings_of(NotebookSettings(spawner="process"))) is None
