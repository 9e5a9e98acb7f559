"""What the course's packages bring for the browser: files in the `share/jupyter` of the kernels' Python.

The students' servers run in nblauncher's own Python, where they find only its packages. So the class's data folder gets
a link to each extension of Notebook and Lab, the kernels' icons, and the other kernels' kernelspecs. These are data: no
server imports them. They run in every student's browser, so they are used only if root alone can change them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.server.class_files import KERNEL_FILE, KERNEL_NAME, Extras
from nblauncher.system import trusted

log = logging.getLogger(__name__)

_EXTENSIONS = ("labextensions", "nbextensions")
_KERNELS = "kernels"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SCOPE = re.compile(r"@[A-Za-z0-9_.-]{1,99}")
_PYTHON = re.compile(r"python([0-9](\.[0-9]+)?)?")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Offered:
    """What there is to link, and what is not linked and why."""

    extras: Extras
    left_out: tuple[tuple[str, str], ...] = ()
    """(name, reason in words that follow it)."""


def offered(prefix: Path, python: str) -> Offered:
    """What a Python with this prefix has; `python` is how kernels run it. Looks only."""
    folder = prefix / "share" / "jupyter"
    links: dict[str, str] = {}
    files: dict[str, bytes] = {}
    left_out: list[tuple[str, str]] = []
    for path in _extensions(folder) if prefix != Path(sys.prefix) else ():
        name = str(path.relative_to(folder))
        why = _objection(path, Path(sys.prefix) / "share" / "jupyter" / name)
        if why is None:
            links[name] = str(path)
        elif why:
            left_out.append((path.name, why))
    specs: dict[str, dict[str, Any]] = {}
    for path in _named(folder / _KERNELS, _NAME):
        if not _is_roots(path):
            left_out.append((f"the kernel {path.name}", "can be changed by accounts other than root"))
            continue
        if path.name != KERNEL_NAME:
            if prefix == Path(sys.prefix) or not (spec := _kernelspec(path / KERNEL_FILE, python)):
                continue
            specs[path.name] = spec
        files |= _pictures(path)
    if not any(name.startswith(f"{_KERNELS}/{KERNEL_NAME}/logo-") for name in files):
        # A letter would stand in its place.
        files |= _pictures(Path(sys.prefix) / "share" / "jupyter" / _KERNELS / KERNEL_NAME)
    return Offered(Extras(links, files, specs), tuple(left_out))


def _pictures(kernel: Path) -> dict[str, bytes]:
    """What Jupyter serves beside a kernel's spec."""
    files = [file for file in _named(kernel, _NAME) if file.name != KERNEL_FILE and file.is_file()]
    return {f"{_KERNELS}/{kernel.name}/{file.name}": _read(file) for file in files}


def kernelspecs(folder: Path) -> dict[str, dict[str, Any]]:
    """Those in a `share/jupyter`, by name, without the one that the class replaces."""
    found = {path.name: _kernelspec(path / KERNEL_FILE, "") for path in _named(folder / _KERNELS, _NAME)}
    return {name: spec for name, spec in found.items() if spec is not None and name != KERNEL_NAME}


def _extensions(folder: Path) -> Iterator[Path]:
    for kind in _EXTENSIONS:
        yield from (path for path in _named(folder / kind, _NAME) if path.is_dir())
        for scope in _named(folder / kind, _SCOPE):
            yield from (path for path in _named(scope, _NAME) if path.is_dir())


def _objection(extension: Path, own: Path) -> str | None:
    """Why it is not linked; None if it is. Empty if the server has it itself, which needs no message."""
    if own.exists():
        return ""
    if not _is_roots(extension):
        return "can be changed by accounts other than root"
    try:
        about = json.loads(_read(extension / "package.json"))
        if about["jupyterlab"]["discovery"]["server"]:
            return "needs a part in the server, and servers have only nblauncher's own packages"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # most extensions do not say
    return None


def _kernelspec(file: Path, python: str) -> dict[str, Any] | None:
    """Of a kernel other than the class's own. In it `python` means the Python that it was installed for."""
    try:
        spec = json.loads(_read(file))
        argv = [str(word) for word in spec["argv"]]
        if _PYTHON.fullmatch(argv[0]) and python:
            argv[0] = python
        return {**spec, "argv": argv, "metadata": dict(spec.get("metadata", {}))}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        log.warning("%s is not a kernelspec: %s", file, error)
        return None


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_MOST_BYTES)


def _is_roots(path: Path) -> bool:
    return not any(trusted.objections_to(path))


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if pattern.fullmatch(name)]
    except OSError:
        return []
