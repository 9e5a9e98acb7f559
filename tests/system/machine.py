"""A machine made of copies: /etc, /opt, /root, /usr/local and our folders are covered in a mount namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

PREFIX = Path("/opt/nblauncher")
CHECKOUT = Path(__file__).parents[2]
COVERED = (
    *("etc", "opt", "root", "usr/local/bin", "usr/local/share"),
    *("var/lib/nblauncher", "run/nblauncher", "var/log/nblauncher"),
)
PATIENCE = 500.0
"""Seconds that one command may take."""

SETUP = """
from setuptools import setup
setup(name="nblauncher", version="0",
      packages=["nblauncher", "notebook"],
      package_dir={"notebook": "nblauncher/commands"},
      entry_points={"console_scripts": [
          "nblauncher = nblauncher.standin:main", "ipython_dir = nblauncher.standin:main"]})
"""
STAND_IN = """
import os, sys
def main():
    print(*sys.argv[1:], "in", os.getcwd(), flush=True)
    if "serve" in sys.argv:
        sys.stdin.read()
"""


class Machine:
    """Runs commands that see `root`'s folders instead of the host's. What they make stays for the next command."""

    def __init__(self, root: Path) -> None:
        self.root = root
        mounts = " && ".join(f"mkdir -p /{folder} && mount --bind '{root}/{folder}' /{folder}" for folder in COVERED)
        self._enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mounts} && exec "$@"', "-"]

    @classmethod
    def made(cls, root: Path) -> Machine:
        """As the host is, without nblauncher. The numbers of its system accounts stay taken, so that the processes
        of the host's front pages do not look like the machine's.
        """
        deadline = time.monotonic() + 20
        for folder in COVERED:
            (root / folder).mkdir(parents=True)
        # A file of the tools that other tests make accounts with may vanish meanwhile: then once more.
        while subprocess.run(["cp", "-a", "/etc/.", root / "etc"], stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < deadline, "/etc cannot be copied"
        for name in ("passwd", "group", "shadow", "gshadow"):
            lines = (root / "etc" / name).read_text().splitlines(keepends=True)
            (root / "etc" / name).write_text("".join(line.replace("nblauncher", "nbt-host", 1) for line in lines))
        return cls(root)

    def copied(self, root: Path) -> Machine:
        subprocess.run(["cp", "-a", self.root, root], check=True)
        return Machine(root)

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        """In a session of its own, under umask 077; its standard input stays open until somebody closes it."""
        return subprocess.Popen(
            [*self._enter, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0o077,
            start_new_session=True,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("SUDO_")}, **environment},
        )

    def run(self, *command: str | Path, status: int = 0, **environment: str) -> str:
        """Both outputs of the command, which must end with this status."""
        process = self.start(*command, **environment)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, output
        return output

    def seen(self, path: str | Path) -> Path:
        """Where a path of the machine is for us."""
        return self.root / str(path).lstrip("/")

    @property
    def current(self) -> str:
        return os.readlink(self.seen(PREFIX / "current"))

    @property
    def releases(self) -> set[str]:
        folder = self.seen(PREFIX / "releases")
        return {f"releases/{entry.name}" for entry in folder.iterdir()} if folder.is_dir() else set()

    @property
    def accounts(self) -> set[str]:
        return {line.split(":")[0] for line in self.seen("/etc/passwd").read_text().splitlines()}

    def contents(self) -> set[str]:
        """What is in the covered folders, without /etc."""
        return {
            str(path.relative_to(self.root))
            for folder in COVERED
            if folder != "etc"
            for path in (self.root / folder).rglob("*")
        }


def real_checkout(folder: Path) -> Path:
    """A clone as a newcomer has it in a closed home."""
    folder.mkdir(mode=0o700)
    for name in ("nblauncher", "examples"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("install.sh", "quickstart.sh", "setup.py", "pyproject.toml", "constraints.txt", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder / name)
    for name in ("students.csv", "notebooks.cfg"):
        shutil.copy(CHECKOUT / name, folder / name)
    return folder


def stand_in_checkout(folder: Path) -> Path:
    """The same with a command that only says where it is, without rooms and dependencies: builds in seconds."""
    real_checkout(folder)
    (folder / "setup.py").write_text(SETUP)
    (folder / "nblauncher" / "standin.py").write_text(STAND_IN)
    return folder
