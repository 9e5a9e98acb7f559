"""What the course's packages bring for the browser: which of it is offered to students, and how it is put in place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.server import class_files, shared_data
from nblauncher.server.class_files import Kernels

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs folders that root alone can change")


@pytest.fixture
def prefix() -> Iterator[Path]:
    """A Python's prefix with an extension, one in a scope, a kernel's picture and another kernel."""
    with tempfile.TemporaryDirectory(prefix="nbt-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        data = folder / "share/jupyter"
        for name in ("labextensions/plot", "labextensions/@some/slider", "kernels/python3", "kernels/other"):
            (data / name).mkdir(parents=True)
        (data / "labextensions/plot/package.json").write_text(json.dumps({"name": "plot", "jupyterlab": {}}))
        (data / "kernels/python3/logo-64x64.png").write_bytes(b"picture")
        (data / "kernels/python3/kernel.json").write_text("{}")
        (data / "kernels/other/kernel.json").write_text(
            json.dumps({"argv": ["python3", "-m", "other"], "language": "x"})
        )
        yield folder


def put(run: Path, offered: shared_data.Offered) -> Kernels:
    kernels = Kernels(extras=offered.extras)
    class_files.write(run, kernels)
    assert class_files.are_current(run, kernels)
    return kernels


@needs_root
def test_a_python_without_a_picture_of_its_own_has_that_of_nblauncher(prefix):
    shutil.rmtree(prefix / "share/jupyter/kernels/python3")
    own = Path(sys.prefix) / "share/jupyter/kernels/python3/logo-svg.svg"
    offered = shared_data.offered(prefix, "/opt/x/bin/python")
    assert offered.extras.files["kernels/python3/logo-svg.svg"] == own.read_bytes()


@needs_root
def test_extensions_pictures_and_other_kernels_are_offered(prefix, tmp_path):
    offered = shared_data.offered(prefix, "/opt/x/bin/python")
    assert offered.left_out == ()
    put(tmp_path, offered)
    data = class_files.data_folder(tmp_path)
    for name in ("labextensions/plot", "labextensions/@some/slider"):
        assert (data / name).is_symlink() and (data / name).resolve() == prefix / "share/jupyter" / name
    assert (data / "kernels/python3/logo-64x64.png").read_bytes() == b"picture"
    other = json.loads((data / "kernels/other/kernel.json").read_text())
    assert other["argv"] == ["/opt/x/bin/python", "-m", "other"]
    assert "ipykernel_launcher" in (data / "kernels/python3/kernel.json").read_text()


@needs_root
def test_what_is_gone_from_the_packages_goes_and_what_changed_is_seen(prefix, tmp_path):
    kernels = put(tmp_path, shared_data.offered(prefix, "python"))
    for name in ("labextensions/plot", "kernels/other"):
        shutil.rmtree(prefix / "share/jupyter" / name)
    (prefix / "share/jupyter/kernels/python3/logo-64x64.png").write_bytes(b"another")
    now = shared_data.offered(prefix, "python")
    assert not class_files.are_current(tmp_path, Kernels(extras=now.extras))
    put(tmp_path, now)
    assert not class_files.are_current(tmp_path, kernels)
    data = class_files.data_folder(tmp_path)
    assert not os.path.lexists(data / "labextensions/plot") and not (data / "kernels/other").exists()
    assert (data / "kernels/python3/logo-64x64.png").read_bytes() == b"another"


@needs_root
def test_what_others_can_change_and_what_needs_the_server_is_left_out_and_reported(prefix):
    data = prefix / "share/jupyter"
    os.chown(data / "labextensions/@some/slider", 65534, -1)
    about = {"jupyterlab": {"discovery": {"server": {"managers": ["pip"], "base": {"name": "x"}}}}}
    (data / "labextensions/plot/package.json").write_text(json.dumps(about))
    (data / "kernels/other").chmod(0o777)
    offered = shared_data.offered(prefix, "python")
    assert offered.extras.links == {} and offered.extras.specs == {}
    assert dict(offered.left_out) == {
        "slider": "can be changed by accounts other than root",
        "plot": "needs a part in the server, and servers have only nblauncher's own packages",
        "the kernel other": "can be changed by accounts other than root",
    }


@needs_root
def test_an_extension_that_the_server_has_itself_stays_its_own(prefix):
    (prefix / "share/jupyter/labextensions/@jupyter-notebook/lab-extension").mkdir(parents=True)
    assert Path(sys.prefix, "share/jupyter/labextensions/@jupyter-notebook/lab-extension").exists()
    offered = shared_data.offered(prefix, "python")
    assert sorted(offered.extras.links) == ["labextensions/@some/slider", "labextensions/plot"]


@needs_root
@pytest.mark.parametrize("spec", [b"{", b"[]", b'{"argv": []}', b'{"argv": 7}', b"\xff"])
def test_an_invalid_kernelspec_is_left_out(prefix, spec):
    (prefix / "share/jupyter/kernels/other/kernel.json").write_bytes(spec)
    assert shared_data.offered(prefix, "python").extras.specs == {}
