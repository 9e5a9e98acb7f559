"""`PYTHON -I kernel.py PREFIX ARGUMENTS`: run a kernel in the student's own environment, as the student.

PYTHON is the course's, which need not have nblauncher: this file imports the standard library only. PREFIX is
the environment's folder below the home.

`%pip install` needs a place that the student may write to. It is a virtual environment in the home on top of the
course's: pip then installs new packages there, upgrades one of the course's by putting the new version before it, and
refuses to uninstall what is root's. It is only two links and two small files and is made again when it is missing.
(`pip install --user` refuses inside a virtual environment; `--prefix` tries to uninstall the course's version first.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import site
import sys
from pathlib import Path

_PR_SET_THP_DISABLE = 41
_LINK = "_nblauncher_course.pth"
_SOCKETS = str(Path(__file__).with_name("kernel_sockets.py"))


def main(arguments: list[str]) -> None:
    """Become the kernel. If the home is full, it runs without a place for `%pip`."""
    prefix, *arguments = arguments
    _allow_huge_pages()
    _go_first()
    python = sys.executable
    try:
        folder = Path(os.environ["HOME"]) / prefix
        os.environ["PATH"] = search_path(folder, os.environ.get("PATH", os.defpath))
        python = str(prepare(folder))
    except (OSError, KeyError) as error:
        print(f"nblauncher: %pip has no place to install to: {error}", file=sys.stderr)
    os.execv(python, [python, *_with_private_sockets(arguments)])  # noqa: S606


def _with_private_sockets(arguments: list[str]) -> list[str]:
    """`-m MODULE` is run by kernel_sockets.py, which keeps the kernel from having a TCP listener."""
    options = next((number for number, word in enumerate(arguments) if not word.startswith("-") or word == "-m"), 0)
    if arguments[options : options + 1] != ["-m"]:
        return arguments
    return [*arguments[:options], _SOCKETS, *arguments[options:]]


def prepare(folder: Path) -> Path:
    """The interpreter of the virtual environment `folder`, made if missing. OSError when the home cannot hold it."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    _put(
        folder / "pyvenv.cfg",
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n",
    )
    # addsitedir, unlike a bare path, also reads the .pth files of the course's environment.
    course = [path for path in site.getsitepackages() if os.path.isdir(path)]
    _put(packages / _LINK, "".join(f"import site; site.addsitedir({path!r})\n" for path in course))
    for name in ("python", "python3"):
        link = folder / "bin" / name
        if not link.is_symlink() or os.readlink(link) != str(base):
            link.unlink(missing_ok=True)
            link.symlink_to(base)
    # The course's pip would install into the course's environment, which is root's.
    for name in ("pip", "pip3"):
        _put(folder / "bin" / name, f'#!/bin/sh\nexec "{folder}/bin/python" -m pip "$@"\n', mode=0o755)
    return folder / "bin" / "python"


def search_path(folder: Path, path: str) -> str:
    """PATH for what the student runs: programs of the virtual environment `folder`, then the course's, then `path`.

    Call it by the course's interpreter.
    """
    wanted = [str(folder / "bin"), str(Path(sys.executable).parent)]
    return os.pathsep.join([*wanted, *(entry for entry in path.split(os.pathsep) if entry and entry not in wanted)])


def _allow_huge_pages() -> None:
    """A server that was forked has them switched off, and what it starts would inherit that (prctl(2))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)


def _go_first() -> None:
    """As isolation.limits.go_first: when memory is used up, the kernel is killed and the server reports it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("400")


def _put(file: Path, content: str, mode: int = 0o644) -> None:
    try:
        if file.read_text(encoding="utf-8") == content and os.access(file, os.X_OK) == (mode == 0o755):
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    file.write_text(content, encoding="utf-8")
    file.chmod(mode)


if __name__ == "__main__":
    main(sys.argv[1:])
