"""What root remembers of a course goes out and comes in again; what somebody else wrote into it does not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nblauncher.auth import passwords
from nblauncher.commands.moving import records
from nblauncher.commands.moving.records import Person, Records
from nblauncher.errors import InputError
from nblauncher.ledger import Brought, Capture, CourseLedger, Retrieval, imported
from nblauncher.ledger.imported import Imported, Student
from nblauncher.model import Deadline, Secret

AT = datetime(2026, 11, 20, 16, 0, 0, 123456, tzinfo=timezone.utc)
KEY = ("ps1", "ada", AT)
BROUGHT = Brought(
    ("ada", "bob"),
    (Deadline("2026-11-20", "", AT),),
    {("ps1", "bob"): timedelta(minutes=30)},
    (Capture("ps1", "ada", 0, AT, AT, "2026-11-20T170000+0100-deadline-ps1", "a" * 64, "<b>\x1b[31m"),),
    {("ps2", "bob", AT): "the home is not there"},
    {KEY: ("late", True)},
    (Retrieval("changed", "2026-11-20T170000+0100", "ada", 0, "b" * 64, True),),
)
RECORDS = Records(
    8000, (Person("ada", 70000, 70000, 8001, locked_since=AT.isoformat()), Person("bob", 7, 7, 9)), BROUGHT
)


def changed(where: str, **more: Any) -> bytes:
    """records.json with other values in the first row of a list, or ('') at the top."""
    content = json.loads(records.to_json(RECORDS))
    (content[where][0] if where else content).update(more)
    return json.dumps(content).encode()


def test_records_come_back_as_they_were():
    assert records.from_json(records.to_json(RECORDS)) == RECORDS
    hashes = {"ada": passwords.jupyter_hash(Secret("abcd-efgh-jkmn-pqrs"))}
    assert records.hashes_from_json(records.hashes_to_json(hashes)) == hashes


@pytest.mark.parametrize(
    "where, more",
    [
        ("", {"front_port": 0}),
        ("", {"front_port": 1 << 40}),
        ("", {"front_port": "8000"}),
        ("", {"students": {}}),
        ("", {"students": ["ada"]}),
        ("", {"captures": None}),
        ("students", {"username": "../ada"}),
        ("students", {"username": "bob"}),
        ("students", {"username": "ada\n"}),
        ("students", {"uid": 0}),
        ("students", {"uid": True}),
        ("students", {"uid": 10**30}),
        ("students", {"port": 70000}),
        ("students", {"guest": 1}),
        ("students", {"locked_since": "yesterday"}),
        ("deadlines", {"at": "2026-11-20T17:00:00"}),
        ("deadlines", {"at": "9999-12-31T23:59:59-23:59"}),
        ("deadlines", {"name": "x" * 5000}),
        ("deadlines", {"name": "\ud800"}),
        ("extensions", {"seconds": 10**15}),
        ("captures", {"retrieved": "../../etc"}),
        ("captures", {"retrieved": "a/b"}),
        ("captures", {"manifest_sha256": "A" * 64}),
        ("captures", {"at": 1.5}),
        ("remarks", {"complete": "yes"}),
        ("retrievals", {"scope": "everything"}),
        ("retrievals", {"folder": ".."}),
        ("retrievals", {"digest": ""}),
    ],
)
def test_a_record_that_is_not_one_is_refused(where, more):
    with pytest.raises(InputError, match=r"records\.json of the export"):
        records.from_json(changed(where, **more))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "argon2:$argon2id$v=19$m=4000000,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "argon2:$argon2id$v=19$m=99999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "argon2:$argon2id$v=19$m=8192,t=99,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "argon2:$argon2id$v=19$m=8192,t=1,p=8$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "sha1:salt:0000",
        7,
    ],
)
def test_a_hash_that_costs_too_much_or_is_none_is_refused(text):
    with pytest.raises(InputError, match="a hash that nblauncher did not make"):
        records.hashes_from_json(json.dumps({"ada": text}).encode())


def test_records_of_another_host_become_the_new_accounts(tmp_path: Path):
    ledger = CourseLedger(tmp_path / "course.db")
    for _again in range(2):
        ledger.take_in(BROUGHT)
    assert ledger.with_passwords() == frozenset() and len(ledger.last_retrievals("changed")) == 1
    ledger.begin_students({"ada": 71000})
    ledger.take_in(BROUGHT)
    assert ledger.uids()["ada"] == 71000
    (capture,) = ledger.captures()
    assert (capture.uid, capture.captured, capture.remark) == (71000, AT, "<b>\x1b[31m")
    assert ledger.last_retrievals("changed")["ada"].uid == 71000
    assert ledger.extensions() == BROUGHT.extensions and ledger.remarks() == BROUGHT.remarks
    ledger.begin_students({"ada": 71001})
    assert ledger.captures() == () and ledger.last_retrievals("changed") == {}


def test_what_setup_takes_over_is_forgotten_with_the_student(tmp_path: Path):
    file = tmp_path / "imported.json"
    assert imported.read(file) is None
    imported.drop(file, ["ada"])
    known = Imported("f" * 64, "/srv/notebooks.cfg", True, {"ada": Student("argon2:x", 1), "bob": Student("", 2)})
    imported.write(file, known)
    assert imported.read(file) == known and "argon2" not in repr(known)
    imported.drop(file, ["ada", "eve"])
    left = imported.read(file)
    assert left is not None and dict(left.students) == {"bob": Student("", 2)} and left.is_done
