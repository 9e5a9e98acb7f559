"""What every notebook server of a class reads from disk: Jupyter's config folder, the kernelspec, Lab's defaults.

Root-owned, readable by everybody, below the course's runtime folder; nothing in here is secret. JUPYTER_CONFIG_PATH
and JUPYTER_PATH lead here and come before what students have in their homes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTOSAVE_SECONDS = 15

PIP_PREFIX = ".local/share/nblauncher/python"
"""Where `%pip install` of a student lands, below the home: a virtual environment on top of the course's."""

KERNEL_NAME = "python3"

PROVISIONER = "nblauncher"
"""The name of the entry point."""

_KERNEL_FILE = "kernel.json"
_KERNEL_SCRIPT = str(Path(__file__).with_name("kernel.py"))

_SERVER_CONFIG = {
    "ServerApp": {"open_browser": False, "quit_button": False},
    "FileContentsManager": {"delete_to_trash": False},
    # Students cannot install what needs a build or a restart, and a class does not ask the internet for news.
    "LabApp": {
        "extension_manager": "readonly",
        "news_url": None,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    },
    # Where language servers from npm may be: the home, conda's and Debian's folders. jupyter_lsp itself asks
    # `npm prefix -g`, which takes longer than the rest of a server's start. `extra_node_roots` are the student's.
    "LanguageServerManager": {"node_roots": [".", f"{sys.prefix}/lib", "/usr/local/lib", "/usr/lib"]},
}
_LAB_DEFAULTS = {
    "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": AUTOSAVE_SECONDS},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def config_folder(run: Path) -> Path:
    """JUPYTER_CONFIG_PATH of the class whose runtime folder is `run`."""
    return run / "etc" / "jupyter"


def data_folder(run: Path) -> Path:
    """JUPYTER_PATH."""
    return run / "share" / "jupyter"


def settings_folder(run: Path) -> Path:
    """The app_settings_dir of Notebook and Lab: defaults that a student's own settings may change."""
    return data_folder(run) / "lab" / "settings"


@dataclass(frozen=True, slots=True)
class Kernels:
    """`spec` is a kernel.json as a mapping (with `--profile` in its argv, say); None: IPython's own."""

    spec: Mapping[str, Any] | None = None
    python: str = sys.executable
    """What runs them."""
    socket: Path | None = None
    """Where they are asked for; None: every server starts its own."""
    preload: tuple[str, ...] = ()
    """What those that are asked for have in memory; here so that a change of it is seen."""
    has_debugger: bool = True


def write(run: Path, kernels: Kernels) -> None:
    """Write or renew all of it, as root, below a root-owned `run`. Running servers see the new files at once."""
    _put(config_folder(run), "jupyter_server_config.json", _SERVER_CONFIG, run)
    _put(settings_folder(run), "overrides.json", _LAB_DEFAULTS, run)
    _put(_kernel_folder(run), _KERNEL_FILE, _kernelspec(kernels), run)


def are_current(run: Path, kernels: Kernels) -> bool:
    """Whether new kernels are what `write` would make them."""
    try:
        return bool(json.loads((_kernel_folder(run) / _KERNEL_FILE).read_bytes()) == _kernelspec(kernels))
    except (FileNotFoundError, ValueError):
        return False


def _kernel_folder(run: Path) -> Path:
    return data_folder(run) / "kernels" / KERNEL_NAME


def _kernelspec(kernels: Kernels) -> dict[str, Any]:
    spec = dict(kernels.spec) if kernels.spec is not None else default_kernelspec()
    spec["argv"] = [kernels.python, "-I", _KERNEL_SCRIPT, PIP_PREFIX, *spec["argv"][1:]]
    if not kernels.has_debugger:
        spec["metadata"] = {**spec.get("metadata", {}), "debugger": False}
    if kernels.socket is not None:
        # See nblauncher.provisioner and, for the format, jupyter_client's documentation of kernel provisioning.
        provisioner = {"provisioner_name": PROVISIONER, "config": {"kernels_socket": str(kernels.socket)}}
        about = {"kernel_provisioner": provisioner, "nblauncher_preload": list(kernels.preload)}
        spec["metadata"] = {**spec.get("metadata", {}), **about}
    return spec


def default_kernelspec() -> dict[str, Any]:
    """IPython with the course's packages."""
    return {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }


def _put(folder: Path, name: str, content: Mapping[str, Any], run: Path) -> None:
    run.mkdir(parents=True, exist_ok=True)
    run.chmod(0o711)
    for one in reversed([folder, *folder.parents]):
        if run in one.parents:
            one.mkdir(mode=0o755, exist_ok=True)
            one.chmod(0o755)
    temporary = folder / f".{name}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o644)
        json.dump(content, stream, indent=1)
    temporary.replace(folder / name)
