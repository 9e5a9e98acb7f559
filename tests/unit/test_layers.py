"""Which room of the package may import which, and what must never be loaded where, through any number of imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import nblauncher

PACKAGE = Path(nblauncher.__file__).parent
GROUND = frozenset({"model", "errors", "printable", "paths"})
"""Every room may import these, and they import only each other."""

ROOMS = {
    "cli": "commands preflight planning config system",
    "commands": "preflight planning supervisor grading slurm environments exchange frontends server slips web accounts"
    " auth config isolation ledger system",
    "preflight": "planning supervisor slurm forkserver environments frontends server accounts auth config isolation"
    " ledger system",
    "planning": "environments exchange frontends accounts config ledger system",
    "supervisor": "slurm forkserver server isolation system",
    "grading": "forkserver environments exchange server config isolation system",
    "slurm": "system",
    "forkserver": "server auth isolation system",
    "environments": "config isolation system",
    "exchange": "config system",
    "frontends": "config system",
    "server": "auth isolation system",
    "slips": "auth system",
    "web": "auth system",
    "accounts": "system",
    "auth": "system",
    "config": "system",
    "isolation": "system",
    "ledger": "system",
    "system": "",
}
"""A room → the other rooms that it may import. A row names only rows below it, so there is no cycle."""

JUPYTER = "jupyter_server jupyter_client jupyter_core notebook jupyterlab ipykernel IPython traitlets nbformat"
NEVER = {
    # Root's long-lived process, and what it forks from.
    "supervisor": f"{JUPYTER} tornado yaml cryptography jinja2 passlib click rich"
    " accounts auth config exchange ledger web",
    "forkserver.kernel_child": f"{JUPYTER} tornado yaml psutil accounts auth config exchange ledger supervisor web",
    "forkserver.rehearsal": f"{JUPYTER} tornado yaml psutil accounts auth config exchange ledger supervisor web",
    "forkserver.servers": "yaml cryptography click rich accounts config exchange ledger supervisor web",
    "isolation": f"{JUPYTER} tornado yaml psutil cryptography click",
    "slurm": f"{JUPYTER} tornado yaml psutil cryptography jinja2 passlib click rich",
    # What runs as the student.
    "server.app": "yaml cryptography click accounts config exchange ledger supervisor web",
    "server.provisioner": "accounts auth config exchange isolation ledger supervisor web",
    "server.kernel": f"{JUPYTER} tornado model system auth isolation",
    "server.kernel_sockets": f"{JUPYTER} tornado model system auth isolation",
    "server.terminal": f"{JUPYTER} tornado model system auth isolation",
    "server.ipython_dir": f"{JUPYTER} tornado model system auth isolation",
    "exchange.send.student_side": "accounts auth config ledger supervisor yaml psutil",
    "exchange.send.notary": "accounts auth config ledger supervisor yaml psutil",
    "exchange.retrieve.student_side": f"{JUPYTER} accounts auth ledger supervisor",
    "exchange.history.restore": "accounts auth config ledger supervisor yaml psutil",
    "preflight.attacks": "accounts config exchange ledger supervisor system",
    # What runs as the teacher, as the front page's account, or as the one that builds packages.
    "exchange.send.teacher_side": f"{JUPYTER} accounts auth config ledger supervisor",
    "exchange.retrieve.teacher_side": f"{JUPYTER} accounts auth ledger supervisor",
    "web": f"{JUPYTER} yaml cryptography click accounts config exchange isolation ledger server supervisor",
    "slips": f"{JUPYTER} yaml cryptography click accounts config exchange isolation ledger server supervisor",
    "environments.source_package": "model errors system config",
    "grading.similarity": f"{JUPYTER} accounts auth config environments exchange isolation ledger supervisor web yaml",
    "grading.filling": f"{JUPYTER} accounts auth ledger supervisor web yaml click",
    "grading.judge_side": "accounts auth config exchange ledger supervisor web yaml click",
    "grading.teacher_side": "accounts auth config ledger supervisor web yaml click",
    # Root's memory of the course, and what everything stands on.
    "ledger": f"{JUPYTER} yaml psutil tornado",
    "system": f"{JUPYTER} tornado yaml passlib jinja2 cryptography",
}
"""A module, or a room with all of its modules → rooms and third-party packages that are never loaded there, wherever
in a function an import stands. What those packages import themselves is not looked at.
"""

MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
"""`room.module`, or `room` for its `__init__`, → file."""


def package_of(file: Path) -> tuple[str, ...]:
    return ("nblauncher", *file.relative_to(PACKAGE).parent.parts)


def imports(source: bytes, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, in a function or not, by a module of `package`.

    Of `from a import b` both a and a.b are told: b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *(node.module.split(".") if node.module else ())))
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


@cache
def imported_by(module: str) -> tuple[tuple[int, str], ...]:
    return tuple(imports(MODULES[module].read_bytes(), package_of(MODULES[module])))


def own_modules(found: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Of these imports the package's own modules."""
    for line, name in found:
        module = name.removeprefix("nblauncher.")
        if name.startswith("nblauncher.") and module in MODULES:
            yield line, module


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def loaded_with(module: str) -> frozenset[str]:
    """Rooms, ground modules and third-party packages that come with a module, in the end."""
    seen: set[str] = set()
    others: set[str] = set()
    to_see = [module]
    while to_see:
        if (current := to_see.pop()) in seen:
            continue
        seen.add(current)
        parents = current.split(".")[:-1]
        to_see += [".".join(parents[:depth]) for depth in range(1, len(parents) + 1)]
        to_see += [own for _, own in own_modules(imported_by(current))]
        tops = {name.partition(".")[0] for _, name in imported_by(current)}
        others |= tops - set(sys.stdlib_module_names) - {"nblauncher", ""}
    return frozenset({room_of(one) for one in seen} | others)


def test_every_module_is_in_a_room_or_on_the_ground():
    outside = {room_of(module) for module in MODULES} - set(ROOMS) - GROUND - {"", "__main__"}
    assert not outside, f"{outside} has no place yet: give it a row in ROOMS"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_row_allows(room):
    allowed = {room, *GROUND, *ROOMS[room].split()}
    for module, file in MODULES.items():
        if room_of(module) == room:
            for line, imported in own_modules(imported_by(module)):
                where = f"{file.relative_to(PACKAGE)}:{line} imports nblauncher.{imported}"
                assert room_of(imported) in allowed, f"{where}, which is not in the row of {room}"


@pytest.mark.parametrize("module", sorted(GROUND))
def test_the_ground_stands_on_itself(module):
    assert loaded_with(module) <= GROUND


def test_a_row_names_only_rows_below_it():
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        for other in allowed.split():
            assert order.index(other) > order.index(room), f"{room} may import {other}, which is above it"


def test_no_row_allows_what_nobody_needs():
    for room, allowed in ROOMS.items():
        used = {
            room_of(imported)
            for module in MODULES
            if room_of(module) == room
            for _, imported in own_modules(imported_by(module))
        }
        assert set(allowed.split()) <= used, f"{room} does not import {set(allowed.split()) - used}"


@pytest.mark.parametrize("start", NEVER)
def test_never_loaded(start):
    modules = [module for module in MODULES if module == start or module.startswith(f"{start}.")]
    assert modules
    for module in modules:
        found = loaded_with(module) & set(NEVER[start].split())
        assert not found, f"nblauncher.{module} loads {sorted(found)}"


@pytest.mark.parametrize("package", ["", "forkserver", "isolation", "server", "slurm", "supervisor", "system"])
def test_importing_one_module_of_these_imports_no_other(package):
    """A kernel's Python may have the standard library only, and the supervisor must not load Jupyter."""
    statements = ast.parse(MODULES[package].read_bytes()).body
    assert not [one for one in ast.walk(ast.Module(statements, [])) if isinstance(one, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_who_runs_it_and_what_it_may_import(room):
    lines = (ast.get_docstring(ast.parse(MODULES[room].read_bytes())) or "").splitlines()
    text = "\n".join(lines)
    assert "\nRun by: " in text and "\nMay import: " in text, f"the docstring of nblauncher.{room} lacks these lines"
    named = text.partition("\nMay import: ")[2].split("\n\n")[0].replace("\n", " ").rstrip(".")
    said = set() if named == "only the ground modules" else {word.strip() for word in named.split(",")}
    assert said == set(ROOMS[room].split())


def test_the_decision_has_the_same_table():
    page = (Path(__file__).parents[2] / "docs/decisions/rooms.md").read_text()
    table = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", page, re.M)
    assert {room: allowed_by(words, room) for room, words in table} == {
        room: set(ROOMS[room].split()) for room in ROOMS
    }


def allowed_by(words: str, room: str) -> set[str]:
    """Of a cell of the page: rooms, `none`, or `all below but` some."""
    if words.startswith("all below but "):
        return set(list(ROOMS)[list(ROOMS).index(room) + 1 :]) - allowed_by(words.removeprefix("all below but "), room)
    return set(words.split(", ")) - {"none"}


def test_only_the_host_chooses_implementations():
    seams = {"accounts": "accounts", "supervisor.spawners": "supervisor", "frontends": "frontends"}
    for module, file in MODULES.items():
        for line, imported in own_modules(imported_by(module)):
            for seam, room in seams.items():
                is_choice = imported.startswith(f"{seam}.") and imported in IMPLEMENTATIONS
                may = room_of(module) == room or module == "planning.host"
                assert may or not is_choice, f"{file}:{line} imports {imported}"


IMPLEMENTATIONS = frozenset(
    {
        *("accounts.linux", "frontends.direct", "frontends.nginx"),
        *(f"supervisor.spawners.{name}" for name in ("process", "forkserver", "kernel_fork_server")),
    }
)


@pytest.mark.parametrize(
    "source, modules",
    [
        ("import nblauncher.cli", ["cli"]),
        ("from nblauncher import cli, __version__", ["cli"]),
        ("from nblauncher.ledger.locks import locked", ["ledger.locks"]),
        ("from nblauncher.ledger import locks", ["ledger", "ledger.locks"]),
        ("def late():\n    from nblauncher.planning.host import Host", ["planning.host"]),
        ("from ..planning.host import Host", ["planning.host"]),
        ("from .. import model", ["model"]),
        ("import os, click", []),
    ],
)
def test_every_form_of_import_is_seen(source, modules):
    assert [module for _, module in own_modules(imports(source.encode(), ("nblauncher", "ledger")))] == modules


def test_no_deadline_depends_on_a_clock_that_can_be_set():
    """A jump of the host's clock must end no server, ticket or wait: time.time() only says when something began."""
    lines = [line for file in PACKAGE.rglob("*.py") for line in file.read_text().splitlines() if "time.time()" in line]
    assert lines and all("started_at" in line for line in lines)


def test_one_function_names_a_students_control_group():
    """A test that makes the name by hand passes when the product makes another one."""
    by_hand = re.compile(r"student-(\{|[0-9])")
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    assert [file.name for file in files if by_hand.search(file.read_text())] == []
