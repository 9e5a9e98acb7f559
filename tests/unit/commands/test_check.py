"""The preflight: every check says ok, warning or problem, and what to do."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nblauncher.auth.texts import shipped
from nblauncher.commands import check, inputs, wording
from nblauncher.commands.check import CheckFacts, checks
from nblauncher.commands.check_facts import ledger_facts
from nblauncher.config import assignments, roster, settings
from nblauncher.config.settings import AccountSettings, TlsSettings
from nblauncher.frontends.class_ca import ensure_class_ca, issue_leaf
from nblauncher.ledger import CourseLedger, CourseRecord, HostLedger
from nblauncher.model import Account, Route
from nblauncher.paths import CoursePaths
from nblauncher.planning.host import Host
from nblauncher.preflight import firewall, identities, machine, ports, storage, web
from nblauncher.preflight.finding import Answer, Ask, Finding, ask
from nblauncher.system.memory import Room
from tests.fakes import FakeAccounts

TOP = Path(__file__).parents[3]
_OURS = 18100 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
FREE_PORTS = range(_OURS, _OURS + 10)
"""Of this worker alone: another one's test could take a port between two looks at it."""


def asking(answers: Mapping[str, tuple[int, str]]) -> Ask:
    """A host with these programs only: the beginning of the command line → how it ends and what it says."""

    def answer(command: Sequence[str]) -> Answer | None:
        line = " ".join(command)
        return next((Answer(*said) for start, said in answers.items() if line.startswith(start)), None)

    return answer


def levels(findings: Sequence[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@dataclass(frozen=True)
class Page:
    """A front end that answers under one name."""

    host: str = "lab.example.org"

    @property
    def front_page(self) -> str:
        return f"https://{self.host}:8000/"

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.host,)

    def front_page_for(self, username: str) -> str:
        return f"{self.front_page}{username}"

    def route(self, username: str, port: int) -> Route:
        return Route(username, port, f"https://{self.host}:{port}/user/{username}/")

    is_proxy = False

    def certified(self, _students: object) -> tuple[str, ...]:
        return ()


# The whole.


def test_the_whole_preflight_of_the_example_class_says_what_to_do_about_everything() -> None:
    file = TOP / "notebooks.cfg"
    course = settings.parse(file.read_bytes(), file)
    students = roster.parse(course.students.read_bytes(), "students.csv")
    before = sorted(os.listdir("/proc/self/fd"))
    found = checks(course, students, [], CheckFacts(frontend=Page()))
    assert {finding.subject for finding in found} >= {
        *("root", "account tools", "pidfd", "cgroups", "interpreter", "versions", "ports", "firewall"),
        *("outgoing connections", "names", "certificate", "disk space", "accounts", "uid range"),
    }
    assert all(finding.hint for finding in found if finding.level != "ok")
    assert all(finding.message.isprintable() and finding.hint.isprintable() for finding in found)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_every_problem_of_roster_and_config_is_a_finding_and_the_machine_is_looked_at_all_the_same() -> None:
    found = checks(None, None, ["students.csv line 3: x", "notebooks.cfg line 1: y"])
    assert [finding.message for finding in found[:2]] == ["students.csv line 3: x", "notebooks.cfg line 1: y"]
    assert levels(found[:2]) == ["problem", "problem"]
    assert any(finding.subject == "pidfd" for finding in found)
    assert not check.is_good(found)


def test_a_bad_config_does_not_hide_a_bad_roster(tmp_path: Path) -> None:
    (tmp_path / "notebooks.cfg").write_text("course: A\nprot: 1\n")
    (tmp_path / "students.csv").write_text("username\nA\nb c\n")
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    read = inputs.read(tmp_path / "notebooks.cfg", None, allowed_uids=frozenset({os.geteuid()}))
    assert read[:2] == (None, None)
    assert [words[:22] for words in read[2]] == [
        "notebooks.cfg line 1: ",
        "notebooks.cfg line 2: ",
        "students.csv line 2: u",
        "students.csv line 3: u",
    ]


@pytest.mark.parametrize(("written", "better"), [("anna.schmidt", "anna-schmidt"), ("ada@uni.edu", "ada")])
def test_the_only_bad_username_gets_its_suggestion_too(tmp_path: Path, written: str, better: str) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "notebooks.cfg").write_text("course: a\n")
    (tmp_path / "students.csv").write_text(f"username\n{written}\n")
    read = inputs.read(tmp_path / "notebooks.cfg", None, allowed_uids=frozenset({os.geteuid()}))
    assert read[2][0].endswith(f'Try "{better}".')


def test_good_inputs_are_read_and_a_refused_one_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notebooks.cfg").write_text("course: a\n")
    (tmp_path / "mine.csv").write_text("username\nada\n")
    (tmp_path / "notebooks.cfg").chmod(0o644)
    (tmp_path / "mine.csv").chmod(0o666)
    course, students, problems, _contents = inputs.read(
        tmp_path / "notebooks.cfg", tmp_path / "mine.csv", allowed_uids=frozenset({os.geteuid()})
    )
    assert course is not None and course.course == "a" and students is None
    assert len(problems) == 1 and "chmod o-w" in problems[0]


def test_warnings_do_not_keep_a_class_from_starting() -> None:
    assert check.is_good([Finding("ok", "a", "b"), Finding("warning", "a", "b", "c")])
    assert not check.is_good([Finding("problem", "a", "b", "c")])


def test_the_last_word_is_whether_a_class_can_start() -> None:
    fine, doubt, bad = Finding("ok", "a", "b"), Finding("warning", "a", "b", "c"), Finding("problem", "a", "b", "c")
    assert check.verdict([fine], is_root=True) == "Ready."
    assert check.verdict([fine, doubt], is_root=True) == "Ready, with 1 warning."
    assert check.verdict([bad, doubt, bad, doubt], is_root=True) == (
        "2 problems: setup or launch would refuse. 2 warnings."
    )
    assert "Without root" in check.verdict([fine], is_root=False)


@pytest.mark.parametrize(
    ("header", "cells", "meant"),
    [
        ("E-Mail", "ada@uni.edu", "email"),
        ("Contact", "ada@uni.edu", "email"),
        ("Full name", "Ada", "name"),
        ("Extra time (%)", "25", "extra_time"),
        ("Matrikelnummer", "1815", "student_id"),
    ],
)
def test_a_column_that_looks_like_one_of_ours_and_is_not_used_is_told(header: str, cells: str, meant: str) -> None:
    students = roster.parse(f"username,{header}\nada,{cells}\n".encode(), "students.csv")
    _count, found = check.inputs(None, students, [])
    assert found.level == "warning" and f'"{header}"' in found.message and meant in found.message


@pytest.mark.parametrize("header", ["Login name", "Group name", "notes", "name", "mail"])
def test_other_columns_are_named_and_no_reason_to_worry(header: str) -> None:
    students = roster.parse(f"username,email,{header}\nada,ada@uni.edu,x\n".encode(), "students.csv")
    found = list(check.inputs(None, students, []))
    assert set(levels(found)) == {"ok"}
    named = [one.message for one in found if "not used" in one.message]
    assert named == ([] if header == "name" else [f"columns that are kept and not used: {header}"])


def test_a_column_that_is_told_as_overlooked_is_not_told_twice() -> None:
    students = roster.parse(b"username,\x1bfoo,Matrikelnummer\nada,x,4711\n", "students.csv")
    _count, unused, overlooked = check.inputs(None, students, [])
    assert unused.message == "columns that are kept and not used: \\x1bfoo"
    assert overlooked.level == "warning" and "Matrikelnummer" in overlooked.message


def test_material_in_a_students_home_is_a_problem() -> None:
    course = settings.parse(b"course: a\nmaterial: {source: /data/ada/x}\n", Path("/srv/class/notebooks.cfg"))
    (first, *_) = check.places(course, None, CheckFacts(homes={"ada": Path("/data/ada")}))
    assert (first.level, first.subject) == ("problem", "folders")


def test_what_the_ledger_knows_of_this_course_and_of_others(tmp_path: Path) -> None:
    ledger = HostLedger(tmp_path / "host.db")
    ada = Account("ada", 20000, 20000, Path("/data/ada"), nonce="nbl-x")
    ledger.claim_accounts([ada], is_guest=False)
    for course, front in (("a", 8000), ("b", 9000)):
        ledger.record_course(CourseRecord(course, "kim", 1000, "/srv/notebooks.cfg", front, True))
    ledger.join("a", {"ada": 8001})
    ledger.join("b", {"ada": 9001})
    people = FakeAccounts({"ada": ada, "www": Account("www", 33, 33, Path("/var/www"))})
    course = settings.parse(b"course: a\n", Path("/srv/class/notebooks.cfg"))
    kim = Account("kim", 1000, 1000, Path("/home/kim"))
    host = Host(course, kim, people, Page(), ledger, CourseLedger(tmp_path / "a.db"), CoursePaths("a"))
    students = roster.parse(b"username\nada\nbob\nwww\n", "students.csv")
    known = ledger_facts(host, students)
    assert known.allotted_ports == {8001} and known.other_courses == {"b": {9000, 9001}}
    assert known.own_uids == {20000} and known.members == {"ada"}
    assert known.homes == {"ada": Path("/data/ada"), "bob": Path("/home/bob"), "www": Path("/home/www")}
    assert known.objections == [
        'students.csv line 4: "www" is an existing account that is not ours (its uid 33 is below 1000)'
    ]
    (first, *_) = check.accounts(course, students, known)
    assert (first.level, first.message) == ("problem", known.objections[0])


# The machine.


def test_root_and_nobody() -> None:
    assert (machine.root(0).level, machine.root(1000).level) == ("ok", "warning")


def test_another_system_than_linux_is_told_plainly() -> None:
    assert "accounts are Linux-only so far" in machine.platform_is_linux("Darwin").message


USEADD = (0, "  -K, --key KEY=VALUE  override /etc/login.defs defaults\n")


@pytest.mark.parametrize(
    ("answers", "missing", "expected", "words"),
    [
        ({"useradd": USEADD, "dpkg-query": (0, "1:4.13+dfsg1-1+deb12u1")}, (), ["ok"], "shadow 4.13"),
        ({"useradd": USEADD, "dpkg-query": (1, ""), "rpm": (0, "4.15.0")}, (), ["ok"], "shadow 4.15.0"),
        ({"useradd": USEADD, "pacman": (0, "shadow 4.16.0-1\n")}, (), ["ok"], "shadow 4.16.0"),
        ({"useradd": USEADD}, (), ["ok"], "unknown version"),
        ({"useradd": USEADD, "rpm": (0, "4.6")}, (), ["warning"], "may not know HOME_MODE"),
        ({"useradd": (0, "Usage: adduser [OPTIONS]")}, (), ["problem"], "does not take -K"),
        ({"useradd": USEADD}, ("gpasswd",), ["problem"], "not found: gpasswd"),
        ({}, ("useradd", "chpasswd"), ["problem"], "not found: useradd, chpasswd"),
    ],
)
def test_account_tools(
    answers: dict[str, tuple[int, str]], missing: tuple[str, ...], expected: list[str], words: str
) -> None:
    found = list(machine.shadow_tools(asking(answers), lambda tool: None if tool in missing else f"/sbin/{tool}"))
    assert levels(found) == expected and words in found[0].message


def test_pidfds_of_this_host_are_looked_at_without_a_trace() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    assert machine.pidfds().level in ("ok", "warning")
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("mounts", "kind", "level"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "v2", "ok"),
        ("cgroup /sys/fs/cgroup/memory cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", "hybrid", "ok"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", "v1", "ok"),
        ("proc /proc proc rw 0 0\n\n", "none", "warning"),
    ],
)
def test_cgroups(mounts: str, kind: str, level: str) -> None:
    assert machine.cgroup_kind(mounts) == kind
    assert machine.cgroups(mounts, has_systemd=True).level == level


def test_an_interpreter_behind_a_closed_folder_cannot_be_reached(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    program = closed / "python3"
    program.write_text("")
    program.chmod(0o755)
    closed.chmod(0o750)
    found = list(machine.reachable("interpreter", {"Python": program}))
    assert any(f"{closed} is closed to others" in finding.message for finding in found)
    assert all(finding.level == "problem" for finding in found)


def test_the_real_place_behind_a_link_is_judged_too(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python3").write_text("")
    (tmp_path / "link").symlink_to(closed / "python3")
    found = list(machine.reachable("interpreter", {"Python": tmp_path / "link"}))
    assert any(f"{closed} is closed" in finding.message for finding in found)


def test_the_systems_own_interpreter_can_be_reached() -> None:
    assert levels(list(machine.reachable("interpreter", {"sh": Path("/bin/sh")}))) == ["ok"]


def test_what_is_not_there_cannot_be_reached(tmp_path: Path) -> None:
    (found,) = machine.reachable("interpreter", {"Python": tmp_path / "gone"})
    assert "does not exist" in found.message


def test_versions() -> None:
    good = {"notebook": "7.6.5", "jupyter_server": "2.21.1", "tornado": "6.6.1"}
    assert levels(list(machine.versions(good, (3, 11, 2)))) == ["ok"]
    assert levels(list(machine.versions({**good, "notebook": "8.0.0"}, (3, 11, 2)))) == ["problem", "ok"]
    assert levels(list(machine.versions({**good, "notebook": "6.5.4"}, (3, 11, 2)))) == ["problem", "ok"]
    assert levels(list(machine.versions({**good, "tornado": None}, (3, 9, 0)))) == ["problem", "problem", "ok"]
    assert levels(list(machine.versions(machine.installed(), (3, 10, 0)))) == ["ok"]


# Ports.


def test_students_with_a_port_keep_it_and_new_ones_get_the_next_free_ones() -> None:
    assert ports.class_ports(8000, 3, ()) == [8000, 8001, 8002, 8003]
    assert ports.class_ports(8000, 4, {8001, 8005}, taken={8006}) == [8000, 8001, 8005, 8007, 8008]
    assert ports.in_words([8000, 8001, 8005, 8007, 8008]) == "8000-8001, 8005, 8007-8008"


def test_ports_that_browsers_block_are_handed_to_nobody_and_told() -> None:
    assert ports.class_ports(5059, 2, ()) == [5059, 5062, 5063]
    (front,) = ports.blocked(6000, [6001])
    assert front.level == "problem" and "no browser opens port 6000" in front.message
    (students,) = ports.blocked(5999, [6000, 6001])
    assert students.level == "warning" and "6000" in students.message and "6001" not in students.message
    assert list(ports.blocked(8000, range(8001, 8100))) == []


def test_a_class_that_does_not_fit_below_the_last_port_is_a_problem() -> None:
    wanted = ports.class_ports(65000, 600, ())
    found = ports.enough(65000, 600, wanted)
    assert found is not None and found.level == "problem"
    assert ports.enough(8000, 600, ports.class_ports(8000, 600, ())) is None


def free_port(family: int = socket.AF_INET) -> int:
    return next(port for port in FREE_PORTS if not ports.bind_trouble(family, "127.0.0.1", port))


@pytest.fixture
def listener() -> Iterator[int]:
    """Somebody who listens on the loopback address alone, which also keeps the wildcard from being bound."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def test_a_port_that_somebody_listens_on_is_named_with_the_holder(listener: int) -> None:
    found = list(ports.free([listener], ["0.0.0.0"], (), ports.holder_of))
    assert levels(found) == ["problem"]
    assert f"port {listener} is taken on IPv4 by" in found[0].message and f"pid {os.getpid()}" in found[0].message


def test_a_students_port_that_is_taken_is_a_warning_and_the_front_pages_a_problem(listener: int) -> None:
    found = list(ports.free([listener - 1, listener], ["0.0.0.0"], (listener - 1,), lambda _port: "x"))
    assert levels(found) == ["warning"]


def test_the_running_classs_own_ports_are_no_problem(listener: int) -> None:
    assert levels(list(ports.free([listener], ["0.0.0.0"], {listener}, ports.holder_of))) == ["ok"]


def test_a_port_that_is_taken_on_v6_alone_is_found() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            taken.bind(("::1", 0))
        except OSError as error:
            assert error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            pytest.skip("IPv6 is off")
        taken.listen()
        port = taken.getsockname()[1]
        found = list(ports.free([port], ports.WILDCARDS, (), lambda _port: "x"))
    assert levels(found) == ["problem"] and "taken on IPv6" in found[0].message


def test_looking_at_a_port_leaves_it_free() -> None:
    port = free_port()
    list(ports.free([port], ["127.0.0.1"], (), ports.holder_of))
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", port))
        mine.listen()


def test_an_address_of_another_host_is_a_problem() -> None:
    (found,) = ports.free([free_port()], ["192.0.2.77"], (), ports.holder_of)
    assert found.level == "problem" and "192.0.2.77 is not an address of this host" in found.message


def test_another_courses_ports_are_named_with_a_free_place() -> None:
    (found,) = ports.other_courses(range(8000, 8010), {"chem": range(8005, 8050), "math": [9000]})
    assert "8005-8009 belong to the course chem" in found.message and "above 8049" in found.hint


@pytest.mark.parametrize(
    ("local", "reserved", "level", "command"),
    [
        ("32768\t60999\n", "", "ok", ""),
        ("1024 65535", "", "warning", "net.ipv4.ip_local_reserved_ports=8000-8002 "),
        ("8002 60999", "", "warning", "net.ipv4.ip_local_reserved_ports=8002 "),
        ("1024 65535", "22,7000-7001\n", "warning", "net.ipv4.ip_local_reserved_ports=22,7000-7001,8000-8002 "),
        ("1024 65535", "7999-8100", "ok", ""),
    ],
)
def test_outgoing_connections_must_leave_the_classs_ports_alone(
    local: str, reserved: str, level: str, command: str
) -> None:
    found = ports.ephemeral(range(8000, 8003), local, reserved, "physics101")
    assert found.level == level and command in found.hint


# Firewall.

CLASS_PORTS = range(8000, 8011)
UFW = "Status: active\nDefault: deny (incoming), allow (outgoing)\n\nTo  Action  From\n--  ------  ----\n"


@pytest.mark.parametrize(
    ("answers", "level", "words"),
    [
        ({}, "ok", "no firewall was found"),
        ({"ufw": (0, "Status: inactive\n")}, "ok", "no firewall was found"),
        ({"ufw": (1, "")}, "warning", "ufw is there and did not say"),
        ({"ufw": (0, UFW)}, "warning", "ufw allow 8000:8010/tcp"),
        ({"ufw": (0, UFW + "8000:8010/tcp  ALLOW IN  Anywhere\n")}, "ok", "ufw lets 8000-8010 through"),
        ({"ufw": (0, UFW + "7000:9000  ALLOW IN  Anywhere\n")}, "ok", "ufw lets"),
        ({"ufw": (0, UFW + "8000:8010/udp  ALLOW IN  Anywhere\n")}, "warning", "ufw allow"),
        ({"ufw": (0, UFW + "8000:8010/tcp  DENY IN  Anywhere\n")}, "warning", "ufw allow"),
        ({"ufw": (0, UFW + "8000:8010/tcp  ALLOW IN  10.0.0.0/8\n")}, "warning", "ufw allow"),
        ({"ufw": (0, UFW.replace("deny (incoming)", "allow (incoming)"))}, "ok", "ufw lets"),
        ({"firewall-cmd --state": (252, "")}, "ok", "no firewall was found"),
        (
            {"firewall-cmd --state": (0, "running\n"), "firewall-cmd --list-ports": (0, "22/tcp 8000-8005/tcp\n")},
            "warning",
            "firewall-cmd --permanent --add-port=8000-8010/tcp && firewall-cmd --reload",
        ),
        (
            {"firewall-cmd --state": (0, "running\n"), "firewall-cmd --list-ports": (0, "8000-8010/tcp\n")},
            "ok",
            "firewalld lets",
        ),
        ({"firewall-cmd --state": (0, "running\n")}, "warning", "did not say"),
        ({"nft": (1, "")}, "warning", "nftables is there and did not say"),
        ({"nft": (0, "not json")}, "warning", "nftables is there and did not say"),
        ({"nft": (0, '{"nftables": [{"metainfo": {}}]}')}, "ok", "no rules for input"),
    ],
)
def test_firewalls(answers: dict[str, tuple[int, str]], level: str, words: str) -> None:
    first, *_, last = firewall.firewall(CLASS_PORTS, asking(answers))
    assert first.level == level and words in f"{first.message} {first.hint}"
    assert "must let TCP 8000-8010 through" in last.message


def ruleset(policy: str, *rules: list[dict[str, Any]]) -> dict[str, tuple[int, str]]:
    """As `nft -j list ruleset` 1.0.6 prints it."""
    place = {"family": "inet", "table": "filter"}
    chain = {**place, "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    other = {"chain": {**place, "name": "forward", "hook": "forward", "policy": "drop"}}
    items = [{"metainfo": {"version": "1.0.6"}}, {"table": {**place, "name": "filter"}}, {"chain": chain}, other]
    items += [{"rule": {**place, "chain": "input", "expr": rule}} for rule in rules]
    return {"nft": (0, json.dumps({"nftables": items}))}


def dport(right: Any, verdict: str = "accept", operator: str = "==") -> list[dict[str, Any]]:
    left = {"payload": {"protocol": "tcp", "field": "dport"}}
    return [{"match": {"op": operator, "left": left, "right": right}}, {"counter": {"packets": 0}}, {verdict: None}]


FROM_CAMPUS = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.1.1.1"}}
ESTABLISHED = [
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
    {"accept": None},
]


@pytest.mark.parametrize(
    ("answers", "level"),
    [
        (ruleset("accept"), "ok"),
        (ruleset("drop", ESTABLISHED), "warning"),
        (ruleset("drop", dport({"range": [8000, 8010]})), "ok"),
        (ruleset("drop", dport({"set": [8000, {"range": [8001, 8010]}]})), "ok"),
        (ruleset("drop", dport({"range": [8000, 8005]}), dport({"range": [8006, 8010]})), "ok"),
        (ruleset("drop", dport({"range": [8000, 8009]})), "warning"),
        (ruleset("drop", dport("@allowed")), "warning"),
        (ruleset("drop", dport(22, operator="!=")), "warning"),
        (ruleset("drop", [FROM_CAMPUS, *dport({"range": [8000, 8010]})]), "warning"),
        (ruleset("accept", dport(8003, "drop")), "warning"),
        (ruleset("accept", [{"reject": {"type": "icmpx"}}]), "warning"),
        (ruleset("accept", dport({"range": [8000, 8010]}), [{"drop": None}]), "ok"),
        (ruleset("accept", [{"drop": None}], dport({"range": [8000, 8010]})), "warning"),
        (ruleset("accept", [{"jump": {"target": "more"}}]), "warning"),
    ],
)
def test_nftables_rules_are_read_in_their_order(answers: dict[str, tuple[int, str]], level: str) -> None:
    first, *_ = firewall.firewall(CLASS_PORTS, asking(answers))
    assert first.level == level
    assert level == "ok" or "nft insert rule inet filter input tcp dport 8000-8010 accept" in first.hint


def test_a_program_that_is_not_there_or_hangs_up_is_no_error() -> None:
    assert ask(["nblauncher-no-such-program"]) is None
    assert ask(["false"]) == Answer(1, "")
    assert ask(["echo", "x"]) == Answer(0, "x\n")


# Names and certificate.


def test_names_that_lead_here_elsewhere_and_nowhere() -> None:
    found = list(web.names(["127.0.0.1", "192.0.2.77", "no-such-name.invalid"], Page(), {"127.0.0.1"}))
    assert levels(found) == ["ok", "warning", "problem"]


@pytest.mark.parametrize(
    ("host", "level"), [("lab.example.org", "ok"), ("192.0.2.1", "warning"), ("localhost", "warning")]
)
def test_without_names_students_are_told_what_they_will_type(host: str, level: str) -> None:
    (found,) = web.names([], Page(host), set())
    assert found.level == level


def course_with_texts(folder: Path, texts: str, language: str = "fr") -> tuple[settings.Settings | None, list[str]]:
    folder.chmod(0o700)
    (folder / "notebooks.cfg").write_text(f"course: a\nweb: {{language: {language}, texts: texts.yaml}}\n")
    (folder / "texts.yaml").write_text(texts)
    (folder / "students.csv").write_text("username\nada\n")
    found, _roster, problems, contents = inputs.read(
        folder / "notebooks.cfg", None, allowed_uids=frozenset({os.geteuid()})
    )
    assert problems or contents[wording.CONTENT] == texts.encode()
    return found, problems


def test_texts_that_a_translation_lacks_are_named(tmp_path: Path) -> None:
    complete = dict(shipped("en")) | {"sign_in": "Se connecter"}
    for texts, expected in (
        (complete, [("ok", f"texts.yaml has all {len(complete)} texts")]),
        (
            {key: text for key, text in complete.items() if key not in ("username", "may")},
            [("warning", "texts.yaml lacks 2 texts, which students see in English: may, username")],
        ),
        (complete | {"usrname": "x"}, [("warning", "texts.yaml: there is no text called usrname")]),
    ):
        course, problems = course_with_texts(tmp_path, json.dumps(texts))
        assert course is not None and problems == []
        assert [(finding.level, finding.message) for finding in web.pages(course)] == expected


def test_a_few_words_instead_of_ours_lack_nothing(tmp_path: Path) -> None:
    course, _problems = course_with_texts(tmp_path, "sign_in: Moin\n", "de")
    assert course is not None and list(web.pages(course)) == []
    assert wording.appearance(course).words.plain("sign_in") == "Moin"
    assert wording.appearance(course).words.plain("username") == "Benutzername"


@pytest.mark.parametrize(
    ("texts", "words"),
    [("sign_in: [x]\n", "texts.yaml line 1: sign_in: not a text"), ("x" * 70_000, "larger than 65536 bytes")],
)
def test_texts_that_cannot_be_used_are_a_problem_of_the_config(tmp_path: Path, texts: str, words: str) -> None:
    _course, problems = course_with_texts(tmp_path, texts)
    assert len(problems) == 1 and words in problems[0]


def test_texts_that_are_gone_keep_nobody_from_stopping_a_class(tmp_path: Path) -> None:
    course = settings.parse(b"course: nbtnotthere\nweb: {texts: gone.yaml}\n", tmp_path / "notebooks.cfg")
    contents: dict[str, bytes] = {}
    assert wording.with_texts_or_accepted(course, contents, frozenset({os.geteuid()})).texts == {} and contents == {}


def test_deadlines_on_a_host_that_runs_on_utc_are_worth_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "course: a\ndeadlines: {ps1: 2036-11-27 17:00 Europe/Berlin}\n"
    try:
        for host, zone, count in (("UTC", "", 1), ("Europe/Berlin", "", 0), ("UTC", "Europe/Berlin", 0)):
            monkeypatch.setenv("TZ", host)
            time.tzset()
            named = f"web: {{time_zone: {zone}}}\n" if zone else ""
            found = list(web.pages(settings.parse(f"{text}{named}".encode(), TOP / "notebooks.cfg")))
            assert levels(found) == ["warning"] * count
    finally:
        monkeypatch.undo()
        time.tzset()


def test_this_hosts_addresses_hold_the_loopback_one() -> None:
    assert "127.0.0.1" in web.own_addresses()


@pytest.fixture
def files(tmp_path: Path) -> TlsSettings:
    leaf = issue_leaf(ensure_class_ca(tmp_path / "ca", ["lab.example.org"], [], "a"), ["lab.example.org"], [])
    (tmp_path / "cert.pem").write_bytes(leaf.certificate)
    (tmp_path / "key.pem").write_bytes(leaf.key)
    return TlsSettings("files", tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_good_certificate_says_until_when(files: TlsSettings) -> None:
    (found,) = web.certificate(files, ["lab.example.org"])
    assert found.level == "ok" and "valid until 20" in found.message


def test_a_certificate_that_ends_soon_is_a_warning(files: TlsSettings) -> None:
    later = datetime.now(timezone.utc) + timedelta(days=380)
    (found,) = web.certificate(files, ["lab.example.org"], now=later)
    assert found.level == "warning" and "it ends on" in found.message


def test_every_trouble_of_a_certificate_is_its_own_problem(files: TlsSettings, tmp_path: Path) -> None:
    other = issue_leaf(ensure_class_ca(tmp_path / "ca", ["lab.example.org"], [], "a"), ["lab.example.org"], [])
    assert files.key is not None
    files.key.write_bytes(other.key)
    found = list(web.certificate(files, ["other.example.org", "192.0.2.1"]))
    assert levels(found) == ["problem"] * 3


def test_a_missing_key_is_a_problem(files: TlsSettings) -> None:
    assert files.key is not None
    files.key.unlink()
    (found,) = web.certificate(files, [])
    assert found.level == "problem" and "key.pem" in found.message


def test_no_encryption_is_a_warning() -> None:
    assert levels(list(web.certificate(TlsSettings("off"), []))) == ["warning"]
    assert levels(list(web.certificate(TlsSettings(), []))) == ["ok"]


# Disks and accounts.


def test_room_is_told_for_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    (found,) = storage.room({"homes": tmp_path / "not" / "yet"}, 0)
    assert found.level in ("ok", "problem") and "GB free" in found.message
    (found,) = storage.room({"homes": tmp_path}, 10**9)
    assert found.level == "warning"


def test_a_disk_without_inodes_of_its_own_is_not_called_full() -> None:
    (found,) = storage.room({"proc": Path("/proc")}, 0)
    assert "inodes" not in found.message


@pytest.mark.parametrize(
    ("gigabytes", "spawner", "running", "on_demand", "level", "words"),
    [
        (16, "forkserver", 0, False, "ok", "about 242 students can work"),
        (2, "forkserver", 0, False, "warning", "about 30 students can work at the same time, of 60"),
        (2, "forkserver", 30, False, "ok", "about 60 students"),
        (4, "process", 0, False, "problem", "60 servers need 4.3 GB of memory and 4.0 GB are left"),
        (4, "process", 0, True, "warning", "more wait until one stops"),
        (0.5, "forkserver", 0, False, "problem", "60 servers need 1.6 GB of memory and 500 MB are left"),
        (0.5, "forkserver", 50, False, "warning", "of 60"),
    ],
)
def test_how_many_students_the_memory_holds_is_told(
    gigabytes: float, spawner: str, running: int, on_demand: bool, level: str, words: str
) -> None:
    room = Room(0, int(gigabytes * 1e9))
    found = storage.main_memory(room, spawner, 60, running, on_demand=on_demand)
    assert (found.level, words in found.message) == (level, True), found.message
    assert level == "ok" or found.hint


def test_a_class_leaves_some_memory_to_the_host() -> None:
    assert Room(100, 4).usable == 0
    assert Room(1_000_000_000_000, 51_000_000_000).servers("forkserver") == 1_000_000_000 // 26_000_000


@pytest.mark.parametrize(
    ("line", "creates", "level"),
    [
        ("passwd: files systemd\n", True, "ok"),
        ("# passwd: ldap\npasswd:\tfiles # sss\n", True, "ok"),
        ("", True, "ok"),
        ("passwd: files sss\n", True, "warning"),
        ("passwd: sss [SUCCESS=return] files\n", True, "warning"),
        ("passwd: sss files\n", False, "ok"),
    ],
)
def test_accounts_from_the_network(line: str, creates: bool, level: str) -> None:
    assert identities.account_sources(line, creates=creates).level == level


def test_a_network_that_is_asked_first_gets_its_own_words() -> None:
    assert "before this host" in identities.account_sources("passwd: ldap files\n", creates=True).message
    assert "before this host" not in identities.account_sources("passwd: files ldap\n", creates=True).message


LOGIN_DEFS = "# UID_MIN 5\nUID_MIN 1000\nUID_MAX\t60000\nSYS_UID_MAX 999\nSUB_UID_MIN 100000\n"


@pytest.mark.parametrize(
    ("wanted", "students", "taken", "ours", "expected"),
    [
        (range(20000, 30000), 30, {0: "root", 1000: "kim"}, (), ["ok"]),
        (range(20000, 30000), 30, {20003: "old"}, (), ["warning"]),
        (range(20000, 30000), 30, {20003: "ada"}, (20003,), ["ok"]),
        (range(20000, 20010), 10, {20003: "old"}, (), ["problem"]),
        (range(20000, 20010), 10, {}, (20001,), ["problem"]),
        (range(500, 2000), 3, {}, (), ["problem", "ok"]),
        (range(70000, 71000), 3, {}, (), ["ok"]),
        (range(60100, 60200), 3, {}, (), ["warning", "ok"]),
        (range(200000, 201000), 3, {}, (), ["warning", "ok"]),
    ],
)
def test_uid_ranges(
    wanted: range, students: int, taken: dict[int, str], ours: tuple[int, ...], expected: list[str]
) -> None:
    assert levels(list(identities.uid_range(wanted, students, LOGIN_DEFS, taken, ours))) == expected


def test_a_range_that_useradd_assigns_itself_is_told() -> None:
    for wanted, told in ((range(20000, 30000), True), (range(70000, 80000), False)):
        (found,) = identities.uid_range(wanted, 3, LOGIN_DEFS, {}, ())
        assert ("next ordinary useradd may take one of them" in found.message) == told


@pytest.mark.parametrize(
    ("login_defs", "expected"),
    [
        (LOGIN_DEFS, range(70000, 80000)),
        ("", range(70000, 80000)),
        ("UID_MAX 75000\n", range(80000, 90000)),
        ("UID_MAX 200000\nSUB_UID_MIN 1000000\n", range(210000, 220000)),
        ("SUB_UID_MIN 65536\nSUB_UID_MAX 99999\n", range(100000, 110000)),
        ("UID_MAX 4000000000\n", range(70000, 80000)),
    ],
)
def test_new_courses_get_uids_that_useradd_does_not_assign(login_defs: str, expected: range) -> None:
    assert identities.range_for(login_defs, AccountSettings().uid_range) == expected


def test_homes_and_shell_of_new_accounts(tmp_path: Path) -> None:
    shells = "# shells\n/bin/sh\n"
    assert levels(list(identities.new_accounts(AccountSettings(home=Path("/home"), shell="/bin/sh"), shells))) == []
    gone = AccountSettings(home=tmp_path / "gone", shell="/bin/no-such-shell")
    assert levels(list(identities.new_accounts(gone, shells))) == ["problem", "problem"]
    assert list(identities.new_accounts(AccountSettings(create=False, home=tmp_path / "gone"), shells)) == []
    tmp_path.chmod(0o777)
    found = list(identities.new_accounts(AccountSettings(home=tmp_path, shell="/usr/bin/env"), shells))
    assert levels(found) == ["problem", "warning"]


def test_a_deadline_that_is_past_is_told_and_one_that_was_not_captured_is_a_warning():
    now = datetime(2026, 11, 27, 16, tzinfo=timezone.utc)
    names = {"old": timedelta(days=-7), "wrong": timedelta(days=-365), "next": timedelta(days=7)}
    given = "course: waves\ndeadlines:\n" + "".join(
        f'  {name}: "{now + away:%Y-%m-%d %H:%M}Z"\n' for name, away in names.items()
    )
    parsed = settings.parse(given.encode(), Path("/x/notebooks.cfg"), uid_min=1000)
    found = list(check.past_deadlines(parsed, {"old"}, now))
    assert [(one.level, one.message.split(" ")[0]) for one in found] == [("ok", "old"), ("warning", "wrong")]
    assert "marked late" in found[1].hint


# Deadlines.


def of_class(deadlines: str, students: str = "") -> list[Finding]:
    """What check says of these deadlines of the sample class; the material has ps1 and ps2."""
    text = (TOP / "notebooks.cfg").read_text().replace("deadlines: {}", deadlines.strip())
    course = settings.parse(text.encode(), TOP / "notebooks.cfg")
    data = students.encode() or course.students.read_bytes()
    held = assignments.known(["ps1/lab.ipynb", "ps2/lab.ipynb"])
    return list(check.deadlines(course, roster.parse(data, "students.csv"), CheckFacts(folders=held)))


def test_the_sample_class_can_have_the_deadlines_of_the_docs() -> None:
    page = (TOP / "docs/deadlines.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    assert levels(of_class(example)) == ["warning"]  # the exam is not in the material yet


def test_check_names_a_near_miss_and_whose_percentage_is_one_of_nothing() -> None:
    found = of_class("deadlines: {PS2: 2036-11-27 17:00}", "username,extra_time\nada,25 %\n")
    assert levels(found) == ["problem", "problem"]
    assert "deadline PS2 has no `starts`" in found[0].message and "ada (line 2: 25 %)" in found[0].message
    assert "did you mean ps2?" in found[1].message and "it may be empty" in found[1].hint
