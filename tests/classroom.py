"""A real class for tests: a teacher's folder, a config, a roster of nbt... students, and the real command line."""

from __future__ import annotations

import csv
import grp
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from nblauncher.paths import RUN_ROOT, STATE_ROOT, CoursePaths
from tests import commands, preloading
from tests.running import remove_account

COMMAND = [sys.executable, "-I", "-m", "nblauncher"]

QUICK = {"preload": [], "preload_when": "first-use"}
"""The section `notebook` of most tests: what is preloaded otherwise takes two thirds of a launch."""


class Classroom:
    """A root-owned folder that students can reach; everything on the host goes in `close`."""

    def __init__(self, course: str, names: list[str], *, port: int, first_uid: int) -> None:
        self.folder = folder = Path(tempfile.mkdtemp(prefix=f"{course}-", dir="/opt"))
        folder.chmod(0o755)
        self.course, self.names, self.port = course, list(names), port
        self.config: dict[str, Any] = {
            "course": course,
            "accounts": {"uid_range": f"{first_uid}-{first_uid + 49}"},
            "material": {"source": "material", "target": "tutorial"},
            "web": {"port": port},
            "notebook": QUICK,
        }
        self.paths = CoursePaths(course)
        (folder / "material").mkdir()
        (folder / "material" / "lab1.txt").write_text("measure the pendulum\n")
        self.write()

    @property
    def credentials(self) -> dict[str, dict[str, str]]:
        with (self.folder / "credentials.csv").open(encoding="utf-8", newline="") as stream:
            return {row["username"]: row for row in csv.DictReader(stream)}

    def write(self, names: list[str] | None = None, **more: Any) -> None:
        """Write config and roster; `more` replaces whole sections of the config."""
        self.names = list(names) if names is not None else self.names
        self.config.update(more)
        (self.folder / "notebooks.cfg").write_text(yaml.safe_dump(self.config))
        rows = "".join(f"{name},Student {name}\n" for name in self.names)
        (self.folder / "students.csv").write_text(f"username,name\n{rows}")

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        environment = _environment()
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": environment,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        return subprocess.Popen([*COMMAND, *arguments], **{**options, **popen})

    def run(
        self, *arguments: str, expect: int | None = 0, timeout: float = 240, **popen: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `nblauncher ARGUMENTS` in the folder and check its exit code."""
        if arguments[:1] == ("launch",):
            preloading.lend(self.paths)
        if commands.is_served() and _can_be_forked(popen):
            folder, environment = popen.get("cwd", self.folder), popen.get("env", _environment())
            try:
                done = commands.run(arguments, folder, environment, timeout)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{arguments} did not end in {timeout} s") from None
            said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            assert expect is None or done.returncode == expect, said
            return done
        process = self.start(*arguments, **popen)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} did not end in {timeout} s:\n{out}\n{err}") from None
        assert expect is None or process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, expect: int | None = 0) -> dict[str, Any]:
        return json.loads(self.run(*arguments, "--json", expect=expect).stdout)

    def home(self, name: str) -> Path:
        return Path(pwd.getpwnam(name).pw_dir)

    def close(self) -> None:
        """Whatever the test left: servers, accounts, groups, state."""
        preloading.keep(self.paths)
        if self.folder.exists():
            self.run("shutdown", "--yes", expect=None)
        for supervisor in psutil.process_iter(["cmdline"]):
            if supervisor.info["cmdline"] and supervisor.info["cmdline"][-2:] == ["nblauncher.supervisor", self.course]:
                supervisor.kill()
        names = set(self.names) | {entry.pw_name for entry in pwd.getpwall() if self._is_ours(entry)}
        for name in names:
            remove_account(name)
        for group in (f"nbl-{self.course}",):
            if any(entry.gr_name == group for entry in grp.getgrall()):
                subprocess.run(["groupdel", group], check=True)
        for folder in (self.paths.state, self.paths.logs, RUN_ROOT / self.course, self.folder):
            subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], check=True)
        if STATE_ROOT.is_dir() and not any(entry.is_dir() for entry in STATE_ROOT.iterdir()):
            for file in STATE_ROOT.iterdir():
                file.unlink()

    def _is_ours(self, entry: pwd.struct_passwd) -> bool:
        first = int(self.config["accounts"]["uid_range"].split("-")[0])
        return entry.pw_name.startswith("nbt") and first <= entry.pw_uid < first + 50


def _can_be_forked(popen: dict[str, Any]) -> bool:
    """Nothing is wanted that the interpreter looks at when it starts."""
    different = popen.get("env", _environment()).items() ^ _environment().items()
    return popen.keys() <= {"env", "cwd"} and all(key.startswith("SUDO_") for key, _value in different)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("SUDO_")}


@contextmanager
def set_up_class(course: str, names: list[str], *, port: int, first_uid: int) -> Iterator[Classroom]:
    """A class after `setup`."""
    made = Classroom(course, names, port=port, first_uid=first_uid)
    try:
        made.run("setup")
        yield made
    finally:
        made.close()


def system_lines(file: str, own: str) -> list[str]:
    """A file such as /etc/shadow, but for accounts and groups that tests beside this one make: ours begin with `own`.

    Theirs are `nbt...`, and what nblauncher itself makes: `nbl-trial-a`, `nbl-COURSE`.
    """
    lines = Path("/etc", file).read_text().splitlines()
    return [line for line in lines if not line.startswith(("nbt", "nbl-")) or line.startswith(own)]
