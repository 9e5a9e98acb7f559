"""The requests to the supervisor: what one side sends the other one reads, and their names stay."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.supervisor import client, requests
from nblauncher.supervisor.control_socket import UNKNOWN
from nblauncher.supervisor.handlers import Handlers
from nblauncher.supervisor.nginx import ProxySpec, ProxyWanted
from nblauncher.supervisor.notice_requests import EndVisits, Invite, Say, Tell
from nblauncher.supervisor.requests import (
    Appoint,
    Bind,
    Drop,
    End,
    EndKernels,
    FailServer,
    KeepOrder,
    MarkReady,
    PortWanted,
    Prepare,
    RenewFrontPage,
    RenewJobs,
    Servers,
    StartFrontPage,
    StartProxy,
    StartServer,
    StopServers,
)
from nblauncher.supervisor.schedule import Wanted
from nblauncher.supervisor.spawners import Preload
from nblauncher.supervisor.specs import FrontPageSpec, ServerSpec, SpecError
from nblauncher.system import wire

WEB = Account("nblauncher", 990, 990, Path("/"))
PROXY = ProxySpec("/usr/sbin/nginx", WEB, "/run/nblauncher/c/nginx.conf", ("nblauncher", "launch"))
QUESTIONS: list[Any] = [
    Bind((PortWanted(8000), PortWanted(8001, "ada", 1001)), ("127.0.0.1",), ProxyWanted(33, {8000: ""})),
    Bind(()),
    Drop(("ada",)),
    Servers(),
    Servers(("ada", "bob")),
    StopServers(None, 2.0),
    StopServers(("ada",)),
    StopServers(("ada",), keeps_sessions=True),
    EndKernels(("ada", "bob")),
    Prepare("forkserver", True, Preload("/opt/c/bin/python", ("numpy",))),
    Prepare("process"),
    StartServer(ServerSpec("ada", 1001, 1001, "/home/ada", 8001), on_demand=True),
    KeepOrder(ServerSpec("ada", 1001, 1001, "/home/ada", 8001)),
    RenewFrontPage(),
    RenewJobs(("ada", "bob")),
    MarkReady("ada", 4711),
    MarkReady("ada", None),
    FailServer("ada", 4711, "does not answer", 1.0),
    StartFrontPage(FrontPageSpec(WEB, 8000, ("nblauncher", "launch"))),
    StartProxy(PROXY),
    Appoint(),
    Appoint(Wanted(10, (1_900_000_000,), (("lab", 1_900_000_000),))),
    Say(None, "Five minutes left", 1_900_000_000),
    Say(("ada",), ""),
    Tell("ada", changed=("tutorial/a.ipynb",)),
    Tell("ada", disk=(9, 10)),
    Invite("ada", "0f" * 32, 300, 3600),
    EndVisits(("ada",)),
    EndVisits(),
    End(5.0),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_the_supervisor_reads_what_a_command_sends(question):
    assert type(question).from_json(json.loads(json.dumps(question.to_json()))) == question


def test_every_request_has_a_handler_and_every_handler_a_request():
    handlers = Handlers(SimpleNamespace(seats=None)).by_name  # type: ignore[arg-type]
    plain = {requests.HELLO.name, requests.FRONT_PAGE.name, requests.STOP_FRONT_PAGE.name}
    assert set(handlers) == plain | {question.name for question in QUESTIONS}


def test_names_and_fields_are_those_of_classes_that_run_already():
    """A supervisor may be older than the command that asks it."""
    assert {question.name: set(question.to_json()) for question in QUESTIONS} == {
        "bind": {"ports", "addresses", "proxy"},
        "drop": {"usernames"},
        "servers": {"usernames"},
        "stop_servers": {"usernames", "grace", "keeps_sessions"},
        "end_kernels": {"usernames"},
        "prepare": {"spawner", "at_first_use", "kernels"},
        "start_server": {"server", "on_demand"},
        "keep_order": {"server"},
        "renew_front_page": set(),
        "renew_jobs": {"usernames"},
        "mark_ready": {"username", "pid", "job"},
        "fail_server": {"username", "pid", "reason", "grace", "job"},
        "start_front_page": {"front"},
        "start_proxy": {"proxy"},
        "appoint": {"appointments"},
        "say": {"usernames", "text", "until"},
        "tell": {"username", "changed", "disk"},
        "invite": {"username", "digest", "valid", "lasts"},
        "end_visits": {"usernames"},
        "end": {"grace"},
    }


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Bind, {}),
        (Bind, {"ports": ["ada"]}),
        (Bind, {"ports": [{"port": 0}]}),
        (Bind, {"ports": [{"port": 8001, "username": "ada", "uid": 0}]}),
        (Drop, {}),
        (Drop, {"usernames": [1]}),
        (Servers, {"usernames": "ada"}),
        (EndKernels, {}),
        (StopServers, {"usernames": None}),
        (MarkReady, {"username": "../ada"}),
        (FailServer, {"username": "ada", "grace": -1}),
        (End, {"grace": "5"}),
        (Say, {"text": 5}),
        (Say, {"text": "x" * 301}),
        (Say, {"text": "x", "until": -1}),
        (Tell, {"username": "ada", "disk": [1]}),
        (Tell, {"username": "ada", "disk": [1, -1]}),
        (Invite, {"username": "ada", "digest": "0F" * 32, "valid": 300, "lasts": 3600}),
        (Invite, {"username": "ada", "digest": "0f" * 32, "valid": 0, "lasts": 3600}),
        (Invite, {"username": "ada", "digest": "0f" * 32, "valid": 300, "lasts": 10**6}),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(kind, fields):
    with pytest.raises(SpecError):
        kind.from_json(fields)


def test_a_class_of_an_older_release_is_named_as_the_reason():
    """Its supervisor answers as `ControlSocket` does for a name that it does not know."""
    ours, theirs = socket.socketpair()
    with ours, theirs, client.Client(ours) as supervisor:
        wire.send(theirs, {"id": 1, "problem": f"the supervisor refused: {UNKNOWN}", "hint": ""})
        with pytest.raises(HostError, match="older release") as found:
            supervisor.say(None, "hello", None)
        assert "nblauncher launch" in found.value.hint
