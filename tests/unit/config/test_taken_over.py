"""What the config says of a change (restart, reload, ...) is what a running class does about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nblauncher.auth import hashes
from nblauncher.commands.running import classroom
from nblauncher.config import settings
from nblauncher.config.settings import Settings
from nblauncher.config.settings.keys import Taken
from nblauncher.config.settings.schema import SCHEMA
from nblauncher.frontends.direct import HostNames, direct
from nblauncher.frontends.nginx import nginx
from nblauncher.ledger import CourseLedger, CourseRecord, HostLedger
from nblauncher.model import Account
from nblauncher.paths import CoursePaths
from nblauncher.planning.host import Host
from tests.fakes import FakeAccounts

ADA = Account("ada", 20000, 20000, Path("/home/ada"), "/bin/bash", "nbl-x")
KIM = Account("kim", 1000, 1000, Path("/home/kim"))
NAMES = HostNames("class.example.org", ("192.0.2.7",), ("192.0.2.7",))

CHANGED = {
    "course": "other",
    "students": "others.csv",
    "owner": "lise",
    "credentials": "others.csv",
    "accounts.create": "false",
    "accounts.home": "/srv",
    "accounts.shell": "/bin/sh",
    "accounts.system_password": "none",
    "accounts.uid_range": "30000-30999",
    "profile": "lab",
    "material.source": "others",
    "material.target": "others",
    "material.trust": "true",
    "retrieve.target": "others",
    "retrieve.layout": "nbgrader",
    "retrieve.max_file": "1 MB",
    "retrieve.max_student": "2 MB",
    "retrieve.max_files": "2",
    "retrieve.max_depth": "2",
    "deadlines": "{ps1: 2036-11-27 17:00}",
    "history.every": "5",
    "history.keep": "5",
    "history.days": "5",
    "history.budget": "1 GB",
    "web.names": "[other.example.org]",
    "web.bind": "[192.0.2.8]",
    "web.port": "9000",
    "web.frontend": "nginx",
    "web.routing": "hosts",
    "web.title": "Waves",
    "web.greeting": "Welcome",
    "web.contact": "Kim",
    "web.language": "de",
    "web.texts": "texts.yaml",
    "web.time_zone": "Europe/Berlin",
    "tls.mode": "off",
    "notebook.interface": "lab",
    "notebook.spawner": "process",
    "notebook.environment": '{OMP_NUM_THREADS: "1"}',
    "notebook.start_deadline": "60",
    "notebook.start": "on-demand",
    "notebook.idle_stop": "60",
    "notebook.preload": "[]",
    "notebook.preload_when": "first-use",
    "notebook.requirements": "[numpy]",
    "notebook.kernel_python": "/opt/physics/bin/python",
    "limits.memory": "3 GB",
    "limits.cpus": "2",
    "limits.processes": "99",
    "limits.disk": "3 GB",
    "isolation": "false",
    "slurm.partition": "class",
    "slurm.account": "physics",
    "slurm.qos": "teaching",
    "slurm.reservation": "physics101",
    "slurm.time": "240",
    "slurm.gres": '"gpu:1"',
    "slurm.constraint": "intel",
    "slurm.options": "[--exclude=n7]",
    "slurm.prologue": "[module load python]",
    "slurm.python": "/opt/nblauncher/bin/python",
    "slurm.config": "/etc/slurm/slurm.conf",
    "slurm.programs": "/opt/slurm/bin",
    "grading.course": "other",
    "grading.requirements": "[nbgrader, nbconvert]",
    "grading.command": "[pytest]",
    "grading.parallel": "3",
    "grading.seconds": "60",
    "grading.memory": "2 GB",
    "grading.cpus": "2",
    "grading.processes": "99",
    "grading.disk": "1 GB",
    "grading.output": "1 MB",
    "grading.uid_range": "58000-58999",
    "grading.name": "grading.class.example.org",
    "grading.port": "7000",
    "mail.host": "smtp.example.org",
    "mail.port": "25",
    "mail.security": "tls",
    "mail.from": "Physics <kim@example.org>",
    "mail.reply_to": "kim@example.org",
    "mail.login": "login",
    "mail.authority": "ca.pem",
}
NOT_TOLD_TO_A_SERVER = {
    "course",  # another course altogether
    "notebook.preload_when",  # for the class's fork servers, which live as long as the class
    "tls.certificate",
    "tls.key",
    "tls.share_key_with_students",  # need files that are there
}


class Paths(CoursePaths):
    """Of a class that a test may write to."""

    folder = Path()

    @property
    def state(self) -> Path:
        return self.folder

    @property
    def run(self) -> Path:
        return self.folder


def config(**values: str) -> Settings:
    groups: dict[str, list[str]] = {}
    for name, value in {"course": "physics101", **values}.items():
        group, _, last = name.rpartition(".")
        groups.setdefault(group or name, []).append(f"{last}: {value}")
    lines = [f"{group}: {{{', '.join(keys)}}}" for group, keys in groups.items() if not keys[0].startswith(f"{group}:")]
    lines += [keys[0] for group, keys in groups.items() if keys[0].startswith(f"{group}:")]
    return settings.parse("\n".join(lines).encode(), Path("/srv/class/notebooks.cfg"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A class in which ada's server was started with the defaults."""
    ledger = HostLedger(tmp_path / "host.db")
    ledger.claim_accounts([ADA], is_guest=False)
    ledger.made_account(ADA)
    ledger.record_course(CourseRecord("physics101", "kim", 1000, "/srv/class/notebooks.cfg", 8000, True))
    ledger.join("physics101", {"ada": 8001})
    monkeypatch.setattr(Paths, "folder", tmp_path)
    paths = Paths("physics101")
    hashes.update(paths.hashes, {"ada": "argon2:x"})
    with_proxy = config(**{"web.frontend": "nginx"})
    made = Host(
        with_proxy, KIM, FakeAccounts({"ada": ADA}), nginx(with_proxy, NAMES), ledger, CourseLedger(paths.ledger), paths
    )
    return started(made, config())


def with_config(host: Host, given: Settings) -> Host:
    return replace(host, settings=given, frontend=(nginx if given.web.frontend == "nginx" else direct)(given, NAMES))


def started(host: Host, given: Settings) -> Host:
    host = with_config(host, given)
    order = classroom.server_order(host, "ada", 8001, "argon2:x", lambda _username: None)
    classroom.record_started(host, [order])
    return host


def base_of(name: str) -> dict[str, str]:
    if name.startswith("slurm."):
        return {"notebook.spawner": "slurm"}
    return {
        "web.routing": {"web.frontend": "nginx"},
        "grading.name": {"web.names": "[class.example.org]"},
        "mail.host": {"mail.from": "kim@example.org"},
    }.get(name, {})


def test_a_change_is_tried_of_every_key_that_needs_no_file() -> None:
    assert set(CHANGED) | NOT_TOLD_TO_A_SERVER == set(SCHEMA)


@pytest.mark.parametrize("name", sorted(CHANGED.keys() - NOT_TOLD_TO_A_SERVER))
def test_servers_are_outdated_by_a_change_of_what_needs_a_restart_and_by_nothing_else(host: Host, name: str) -> None:
    host = started(host, config(**base_of(name)))
    changed = with_config(host, config(**{**base_of(name), name: CHANGED[name]}))
    expected = SCHEMA[name].taken is Taken.RESTART or name == "limits.disk"  # told to servers with the other limits
    assert bool(classroom.outdated(changed, ["ada"])) == expected
