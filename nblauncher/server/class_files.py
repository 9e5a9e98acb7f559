"""What every notebook server of a class reads from disk: Jupyter's config folder, the kernelspec, Lab's defaults.

Root-owned, readable by every account, below the course's runtime folder; nothing in here is secret. JUPYTER_CONFIG_PATH
and JUPYTER_PATH lead here and come before what students have in their homes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.system import root_files

AUTOSAVE_SECONDS = 15

PIP_PREFIX = ".local/share/nblauncher/python"
"""Where a student's `%pip install` puts packages, below the home: a virtual environment on top of the course's."""

KERNEL_NAME = "python3"

PROVISIONER = "nblauncher"
"""The name of the entry point."""

KERNEL_FILE = "kernel.json"
_KERNEL_SCRIPT = str(Path(__file__).with_name("kernel.py"))
_TERMINAL_SCRIPT = str(Path(__file__).with_name("terminal.py"))

_SERVER_CONFIG: dict[str, dict[str, Any]] = {
    "ServerApp": {"open_browser": False, "quit_button": False},
    "FileContentsManager": {"delete_to_trash": False},
    # Students cannot install what needs a build or a restart, and a class must not fetch news from the internet.
    "LabApp": {
        "extension_manager": "readonly",
        "news_url": None,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    },
    # Where language servers from npm may be: the home, conda's and Debian's folders. jupyter_lsp itself asks
    # `npm prefix -g`, which takes longer than the rest of a server's start. `extra_node_roots` are the student's.
    "LanguageServerManager": {"node_roots": [".", f"{sys.prefix}/lib", "/usr/local/lib", "/usr/lib"]},
}
_OWN_EXTENSIONS = {
    "labextensions/nblauncher": str(Path(__file__).with_name("labextension")),
    "labextensions/nblauncher-notices": str(Path(__file__).with_name("notices_extension")),
}
"""Name and log-out button, and the strip of notices: their links below the data folder, and the targets."""
_LINKED = ("labextensions", "nbextensions")
"""Folders of the data folder that contain links."""

_LAB_DEFAULTS = {
    "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": AUTOSAVE_SECONDS},
    "@jupyterlab/apputils-extension:themes": {"adaptive-theme": True},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/mainmenu-extension:plugin": {
        "menus": [{"id": "jp-mainmenu-file", "items": [{"command": "nblauncher:log-out", "rank": 100}]}]
    },
}


def config_folder(run: Path) -> Path:
    """JUPYTER_CONFIG_PATH of the class with the runtime folder `run`."""
    return run / "etc" / "jupyter"


def data_folder(run: Path) -> Path:
    """JUPYTER_PATH."""
    return run / "share" / "jupyter"


def settings_folder(run: Path) -> Path:
    """The app_settings_dir of Notebook and Lab: defaults that a student's own settings may change."""
    return data_folder(run) / "lab" / "settings"


@dataclass(frozen=True, slots=True)
class Extras:
    """What the course's packages bring for the browser (see shared_data): paths below the data folder → what
    they are links to, kernels' pictures (which Jupyter serves only where they lie) with their contents, and the
    kernelspecs of other kernels by name.
    """

    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    specs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kernels:
    """`spec` is a kernel.json as a mapping (with `--profile` in its argv, say); None: IPython's own."""

    spec: Mapping[str, Any] | None = None
    python: str = sys.executable
    """The Python that runs them."""
    socket: Path | None = None
    """The socket of the kernels' fork server; None: every server starts its own kernels."""
    preload: tuple[str, ...] = ()
    """The modules that forked kernels have in memory; here so that a change of it is noticed."""
    has_debugger: bool = True
    extras: Extras = field(default_factory=Extras)


def write(run: Path, kernels: Kernels) -> None:
    """Write all of it, as root, below a root-owned `run`. Running servers see the new files at once."""
    # A terminal looks up the course's Python when it is opened.
    shell = [sys.executable, "-I", _TERMINAL_SCRIPT, str(_kernel_folder(run) / KERNEL_FILE)]
    server = {**_SERVER_CONFIG["ServerApp"], "terminado_settings": {"shell_command": shell}}
    _put(config_folder(run), "jupyter_server_config.json", {**_SERVER_CONFIG, "ServerApp": server}, run)
    _put(settings_folder(run), "overrides.json", _LAB_DEFAULTS, run)
    specs = _specs(kernels)
    for name, spec in specs.items():
        _put(_kernel_folder(run, name), KERNEL_FILE, spec, run)
    links = _wanted_links(kernels)
    for name, target in links.items():
        _link(data_folder(run) / name, target, run)
    for name, content in kernels.extras.files.items():
        path = data_folder(run) / name
        _put_bytes(path.parent, path.name, content, run)
    for name in (*_links(run), *_files(run)):
        if name not in links and name not in kernels.extras.files:
            (data_folder(run) / name).unlink(missing_ok=True)
    for folder in _kernel_folder(run).parent.iterdir():
        if folder.name not in specs:
            shutil.rmtree(folder)


def are_current(run: Path, kernels: Kernels) -> bool:
    """Whether the files are what `write` would write."""
    try:
        found = {
            folder.name: json.loads((folder / KERNEL_FILE).read_bytes())
            for folder in _kernel_folder(run).parent.iterdir()
        }
    except (FileNotFoundError, ValueError):
        return False
    has_its_files = _links(run) == _wanted_links(kernels) and _files(run) == kernels.extras.files
    return found == _specs(kernels) and has_its_files


def _wanted_links(kernels: Kernels) -> dict[str, str]:
    return {**kernels.extras.links, **_OWN_EXTENSIONS}


def _kernel_folder(run: Path, name: str = KERNEL_NAME) -> Path:
    return data_folder(run) / "kernels" / name


def _specs(kernels: Kernels) -> dict[str, Mapping[str, Any]]:
    return {**kernels.extras.specs, KERNEL_NAME: _kernelspec(kernels)}


def _links(run: Path) -> dict[str, str]:
    """The links that exist, in the form of Extras."""
    data = data_folder(run)
    return {str(path.relative_to(data)): os.readlink(path) for kind in _LINKED for path in _links_below(data / kind)}


def _files(run: Path) -> dict[str, bytes]:
    """The kernels' resources that exist, in the form of Extras."""
    data = data_folder(run)
    paths = [path for path in (data / "kernels").glob("*/*") if path.name != KERNEL_FILE]
    return {str(path.relative_to(data)): path.read_bytes() for path in paths}


def _links_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_symlink():
            yield path
        else:
            yield from _links_below(path)


def _link(path: Path, target: str, run: Path) -> None:
    """Replace it atomically: running servers find the old one until then."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    _make_folders(path.parent, run)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _kernelspec(kernels: Kernels) -> dict[str, Any]:
    spec = dict(kernels.spec) if kernels.spec is not None else default_kernelspec()
    spec["argv"] = [kernels.python, "-I", _KERNEL_SCRIPT, PIP_PREFIX, *spec["argv"][1:]]
    if not kernels.has_debugger:
        spec["metadata"] = {**spec.get("metadata", {}), "debugger": False}
    if kernels.socket is not None:
        # See nblauncher.server.provisioner and, for the format, jupyter_client's documentation of kernel provisioning.
        provisioner = {"provisioner_name": PROVISIONER, "config": {"kernels_socket": str(kernels.socket)}}
        about = {"kernel_provisioner": provisioner, "nblauncher_preload": list(kernels.preload)}
        spec["metadata"] = {**spec.get("metadata", {}), **about}
    return spec


def kernel_command(python: str) -> list[str]:
    """The argv of a kernelspec for IPython in this Python, with `{connection_file}` in it."""
    return list(_kernelspec(Kernels(python=python))["argv"])


def default_kernelspec() -> dict[str, Any]:
    """IPython with the course's packages."""
    return {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }


def _put(folder: Path, name: str, content: Mapping[str, Any], run: Path) -> None:
    _put_bytes(folder, name, json.dumps(content, indent=1).encode("ascii"), run)


def _put_bytes(folder: Path, name: str, content: bytes, run: Path) -> None:
    _make_folders(folder, run)
    root_files.replace(folder / name, content, mode=0o644)


def _make_folders(folder: Path, run: Path) -> None:
    run.mkdir(parents=True, exist_ok=True)
    run.chmod(0o711)
    for made in reversed([folder, *folder.parents]):
        if run in made.parents:
            made.mkdir(mode=0o755, exist_ok=True)
            made.chmod(0o755)
