"""`PYTHON -I source_package.py STEP ...`: make a wheel of one source distribution, as the account that owns nothing.

    prepare NAME SUBFOLDER   with a network: fetch it (wanted.txt) and its build requirements into the working folder
    build                    without one: have its build backend make the wheel, in `wheels`

pip does both at once and would need the network throughout. The working folder belongs to this distribution only, so
its code can change nothing but its own wheel. Runs in nblauncher's Python and in the distribution's, and imports the
standard library only.
Sources: PEP 517, PEP 518.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LEGACY = "setuptools.build_meta:__legacy__"
_LEGACY_NEEDS = ["setuptools>=40.8.0", "wheel"]
_FACTS, _MORE = Path("facts.json"), Path("more.json")
_TREE, _OWN, _WHEELS = Path("tree"), Path("own"), Path("wheels")


def main(arguments: list[str]) -> None:
    step, *rest = arguments
    steps: dict[str, Callable[..., None]] = {"prepare": prepare, "build": build, "hook": hook}
    steps[step](*rest)


def prepare(name: str, subfolder: str) -> None:
    """Everything that needs the network."""
    _pip("download", "--no-deps", "--no-binary", name, "--dest", "source", "--requirement", "wanted.txt")
    (archive,) = Path("source").iterdir()
    shutil.unpack_archive(archive, _TREE)
    (top,) = _TREE.iterdir()
    facts = _build_system(top / subfolder)
    _FACTS.write_text(json.dumps(facts))
    _run(sys.executable, "-I", "-m", "venv", "--without-pip", str(_OWN))
    _install(facts["requires"])
    _hook("requires", facts)
    _install(json.loads(_MORE.read_text()))


def build() -> None:
    _hook("wheel", json.loads(_FACTS.read_text()))


def hook(kind: str, source: str, backend: str, place: str, *path: str) -> None:
    """In the distribution's environment and tree: the backend's requirements, or the wheel."""
    home = Path(place)
    os.chdir(source)
    sys.path[:0] = [str(Path(source, entry)) for entry in path]
    module, _, attributes = backend.partition(":")
    found = functools.reduce(getattr, filter(None, attributes.split(".")), importlib.import_module(module))
    if kind == "wheel":
        found.build_wheel(str(home / _WHEELS), {}, None)
    else:
        ask = getattr(found, "get_requires_for_build_wheel", None)
        (home / _MORE).write_text(json.dumps(list(ask({})) if ask else []))


def _build_system(source: Path) -> dict[str, Any]:
    """As pip reads it: setuptools is the default."""
    file = source / "pyproject.toml"
    table = _toml(file.read_text(encoding="utf-8")).get("build-system", {}) if file.is_file() else {}
    return {
        "source": str(source.resolve()),
        "requires": table.get("requires", _LEGACY_NEEDS),
        "backend": table.get("build-backend", _LEGACY),
        "path": table.get("backend-path", []),
    }


def _toml(text: str) -> dict[str, Any]:
    # Python 3.10 has no tomllib, but pip brings its own.
    name = "tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli"
    loaded: dict[str, Any] = importlib.import_module(name).loads(text)
    return loaded


def _install(requirements: list[str]) -> None:
    if requirements:
        Path("needed.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        _pip("--python", str(_OWN / "bin" / "python"), "install", "--requirement", "needed.txt")


def _hook(kind: str, facts: dict[str, Any]) -> None:
    folder = (_OWN / "bin").absolute()
    words = (kind, facts["source"], facts["backend"], os.getcwd(), *facts["path"])
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    _run(str(folder / "python"), "-I", os.path.abspath(__file__), "hook", *words, environment=environment)


def _pip(*arguments: str) -> None:
    before, words = (arguments[:2], arguments[2:]) if arguments[0] == "--python" else ((), arguments)
    general = ("--disable-pip-version-check", "--no-input", *before)
    command, *rest = words
    _run(sys.executable, "-I", "-m", "pip", *general, command, "--no-cache-dir", "--progress-bar", "off", *rest)


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    """Its errors go to our standard error; nothing is added when it fails."""
    status = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
    if status != 0:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
