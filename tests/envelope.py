"""The one object of `--json`, held against what each command may answer: these keys, of these kinds, and no others.

docs/reference.md says the same in tables; tests/unit/test_docs.py compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Kind = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def number(value: Any) -> bool:
    return type(value) is int and value >= 0


def fact(value: Any) -> bool:
    return type(value) is bool


def seconds(value: Any) -> bool:
    return type(value) is float and value >= 0


def points(value: Any) -> bool:
    return type(value) is float


def time(value: Any) -> bool:
    """ISO 8601 with a zone."""
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def optional(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def one_of(*words: str) -> Kind:
    return lambda value: value in words


def many(kind: Kind) -> Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def by_name(kind: Kind) -> Kind:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def exactly(kinds: Mapping[str, Kind]) -> Kind:
    return lambda value: isinstance(value, dict) and not problems(value, kinds)


def problems(value: Mapping[str, Any], kinds: Mapping[str, Kind]) -> list[str]:
    """What is missing, unknown or of another kind, a line each."""
    found = [f"{key} is missing" for key in kinds if key not in value]
    found += [f"{key} is unknown" for key in value if key not in kinds]
    return found + [f"{key} is {value[key]!r}" for key, kind in kinds.items() if key in value and not kind(value[key])]


EXCEPTION = {"path": text, "reason": text, "incomplete": fact}
CHANGE = {
    "path": text,
    "change": one_of("new", "updated", "merged", "kept", "conflict", "blocked", "not trusted"),
    "detail": text,
}
FILES = {"files": number, "bytes": number, "exceptions": many(exactly(EXCEPTION))}
MATERIAL = {**FILES, "changes": many(exactly(CHANGE))}
STATES = one_of("ready", "starting", "queued", "asleep", "stopped", "failed", "unknown", "frozen")
SERVER = {"server": STATES, "port": optional(number), "url": optional(text)}
STOPPED = {"server": STATES, "unproven": many(number)}
HISTORY = {"history_bytes": number, "history_share": number, "history_above_share": fact}
CAPTURE = {
    "deadline": text,
    "at": time,
    "state": one_of("captured", "incomplete", "late", "not stored", "not captured", "superseded"),
    "captured": optional(time),
    "folder": optional(text),
    "reason": optional(text),
}
COUNTS = ("to_come", "not_captured", "not_stored", "captured", "late", "incomplete")
OWN_DEADLINE = {
    "deadline": text,
    "folder": text,
    "at": time,
    "extra_seconds": number,
    "state": one_of(*(one.replace("_", " ") for one in COUNTS)),
    "captured": optional(time),
    "late": fact,
    "remark": text,
}
DEADLINE = {
    "deadline": text,
    "folder": text,
    "at": time,
    "starts": optional(time),
    "in_material": fact,
    "students": number,
    **dict.fromkeys(COUNTS, number),
}
SUBMISSION = {
    "state": one_of("new", "replaced", "unchanged", "nothing", "kept", "failed"),
    "time": optional(time),
    "renamed": by_name(text),
    "others": many(text),
    "missing": many(text),
    "kept": optional(text),
}
SNAPSHOT = {"time": time, "files": number, "bytes": number, "changed": number, "complete": fact}
VERSION = {"first": time, "last": time, "present": fact, "bytes": number, "sha256": text}
GRADE = {
    "assignment": text,
    "score": seconds,
    "max_score": seconds,
    "late_seconds": seconds,
    "late_penalty": seconds,
    "manual_score": optional(points),
    "extra_credit": optional(points),
    "needs_manual_grade": fact,
}
FINDING = {"level": one_of("ok", "warning", "problem"), "subject": text, "message": text, "hint": text}

STUDENT: Mapping[str, Mapping[str, Kind]] = {
    "setup": {
        "uid": optional(number),
        "home": optional(text),
        "port": optional(number),
        "url": optional(text),
        **MATERIAL,
    },
    "send": MATERIAL,
    "launch": SERVER,
    "reload": {**SERVER, **MATERIAL},
    "status": {
        **SERVER,
        "pid": optional(number),
        "job": optional(number),
        "node": optional(text),
        "memory_bytes": optional(number),
        "cpu_seconds": optional(seconds),
        "kernels": optional(number),
        "busy_kernels": optional(number),
        "last_activity": optional(time),
        "last_save": optional(time),
        "last_sign_in": optional(time),
        "never_signed_in": fact,
        "disk_bytes": optional(number),
        "disk_limit": optional(number),
        "frozen": fact,
        "reason": text,
        "deadlines": many(exactly(CAPTURE)),
        **HISTORY,
    },
    "restart": {**SERVER, "unproven": many(number), "kernels_ended": optional(number)},
    "shutdown": STOPPED,
    "retrieve": {**FILES, "changed": optional(number), "gone": optional(number), "since": optional(text)},
    "retrieve --assignment": {
        **FILES,
        "handed_in": optional(fact),
        "late": optional(fact),
        "folder_missing": optional(fact),
        "capture": optional(exactly({**CAPTURE, "is_again": fact})),
        "until": optional(time),
        "submission": optional(exactly(SUBMISSION)),
    },
    "retrieve --at": {**FILES, "deadline": optional(text), "captured": optional(time), "late": optional(fact)},
    "snapshot": {**FILES, "changed": number, **HISTORY},
    "deadlines": {"deadlines": many(exactly(OWN_DEADLINE))},
    "roster import": {
        "change": one_of("new", "changed", "kept", "absent", "dropped"),
        **dict.fromkeys(("name", "email", "student_id", "section"), text),
        "line": optional(number),
    },
    "grade init": {"imported": many(text)},
    "grade": {
        "score": optional(seconds),
        "max_score": optional(seconds),
        "late_seconds": optional(seconds),
        "needs_manual_grade": optional(fact),
        "graded_at": optional(time),
        "failure": optional(text),
        "warnings": many(text),
        "flags": many(text),
    },
    "slips": {"has_password": fact},
    "mail": {"address": optional(text), "mailed": optional(time)},
    "freeze": {},
    "thaw": {},
    "passwd": {"server": optional(one_of("kept", "restarted", "frozen")), "credentials": optional(text)},
    "lock": {"locked": optional(fact), "server": optional(STATES)},
    "unlock": {"locked": optional(fact), "server": optional(STATES)},
    "export": {},
    "import": {"keeps_password": fact},
    "feedback": MATERIAL,
    "grades": {"grades": many(exactly(GRADE))},
    "remove": {
        **STOPPED,
        **FILES,
        "deleted": many(text),
        "schedules": many(text),
        "left": many(text),
        "not_searched": many(text),
    },
}
"""Of each student, besides `username`, `status` and `error`."""

ROSTER = {
    "not_set_up": many(text),
    "not_in_roster": many(text),
    "changed": by_name(many(text)),
    "problem": text,
}
WAY_IN = {"state": one_of("ok", "failed", "not tried"), "reason": text}
LOGIN = {"username": text, "system": exactly(WAY_IN), "notebook": exactly(WAY_IN)}
SHARES = ("score", "one_in_other", "other_in_one")
FRONT_PAGE = {"front_page": text}
MOMENT = {"deadline": text, "at": time}
OBJECT: Mapping[str, Mapping[str, Kind]] = {
    "setup": FRONT_PAGE,
    "launch": FRONT_PAGE,
    "reload": FRONT_PAGE,
    "status": {
        **FRONT_PAGE,
        "front_page_state": STATES,
        "kernels": text,
        "next_deadline": optional(exactly({"deadline": text, "at": time})),
        "roster": exactly(ROSTER),
    },
    "deadlines": {"deadlines": many(exactly(DEADLINE))},
    "retrieve --at": {**MOMENT, "later": many(exactly({"username": text, "at": time}))},
    "retrieve --cancel": MOMENT,
    "extend": MOMENT,
    "history NAME": {"snapshots": many(exactly(SNAPSHOT)), "paths": by_name(number)},
    "history NAME FILE": {"versions": many(exactly(VERSION))},
    "restore": {"path": text},
    "slips": {"file": text},
    "export": {"folder": text, "files": number, "bytes": number, "left_out": many(text)},
    "grade --similar": {
        "page": text,
        "pairs": many(exactly({"one": text, "other": text, **dict.fromkeys(SHARES, seconds)})),
        "notes": many(text),
    },
    "grade serve": {"url": text, "tunnel": text, "password": text},
    "message": {"message": text, "until": optional(time), "seen_by": many(text)},
    "open": {"link": optional(text)},
    "verify-receipt": {"receipt": lambda value: isinstance(value, dict)},
    "check": {"findings": many(exactly(FINDING)), "verdict": text},
    "check --logins": {"findings": many(exactly(FINDING)), "verdict": text, "logins": many(exactly(LOGIN))},
    "roster import": {
        "file": text,
        "system": text,
        "left_out": many(exactly({"line": number, "reason": text})),
        "ignored_columns": many(text),
        "notes": many(text),
    },
}
"""Of the object, besides the envelope."""

DRY_RUN = {"plan": many(text), "notes": many(text)}
STATUS = {0: ["ok"], 1: ["failed"], 3: ["refused"], 4: ["refused"], 5: ["partial"], 6: ["refused"], 70: ["failed"]}


def checked(answer: str, exit_code: int, form: str, *, is_dry_run: bool = False) -> dict[str, Any]:
    """The object in `answer`, which is all of it. `form` is as in STUDENT and OBJECT: the command with what decides.

    AssertionError with everything that is not as it should be.
    """
    given: dict[str, Any] = json.loads(answer)
    assert answer.isascii(), answer
    is_over = exit_code not in (0, 5) and not given["students"] and form.partition(" ")[0] != "check"
    more = DRY_RUN if is_dry_run and not is_over else {} if is_over else OBJECT.get(form, {})
    of_student = {
        "username": text,
        "status": one_of("done", "unchanged", "failed", "skipped"),
        "error": optional(text),
        **STUDENT.get(form, {}),
    }
    kinds = {
        "nblauncher": lambda value: value == 1,
        "command": lambda value: value == form.partition(" ")[0],
        "status": one_of(*STATUS.get(exit_code, ["partial", "failed"])),
        "exit_code": lambda value: value == exit_code,
        **more,
        "students": many(lambda one: isinstance(one, dict)),
        "errors": many(text),
    }
    found = problems(given, kinds)
    for one in given["students"]:
        found += [f"{one.get('username')}: {problem}" for problem in problems(one, of_student)]
        if (one.get("status") == "failed") != bool(one.get("error")):
            found.append(f"{one.get('username')}: {one.get('status')} with error {one.get('error')!r}")
    if exit_code not in (0, 5) and not given["errors"]:
        found.append("it does not say why")
    if exit_code == 0 and given["errors"]:
        found.append("it has errors and says 0")
    if given["students"] and (is_dry_run or form not in STUDENT):
        found.append("it has students")
    assert not found, "\n".join([f"{form} ({exit_code}):", *found])
    return given
