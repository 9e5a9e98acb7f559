"""Imports point down only, wherever in a file they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nblauncher

PACKAGE = Path(nblauncher.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    # L0: values and errors.
    ("model", "errors"),
    # L½: doors to the system, and inputs.
    (
        *(
            "interruption",
            "processes",
            "privileges",
            "workers",
            "cgroups",
            "owners",
            "sockets",
            "files",
            "roster",
            "settings",
            "passwords",
        ),
        *("inputs", "printable", "logs", "hashes", "allot", "tickets", "tls", "tls_files"),
        *(
            "descriptors",
            "children",
            "limits",
            "leftovers",
            "system_folders",
            "quotas",
            "namespaces",
            "enclosure",
            "sandbox",
            "root_files",
            "memory",
            "reasons",
            "plain_http",
            "classfiles",
            "kernel_transport",
            "runtime_folders",
            "wire",
            "fork_requests",
            "requirements",
            "reception",
            "tcp_diag",
            "clients",
        ),
        # what `homes` is made of
        *("tree", "leases", "scope", "store", "manifest", "tracing", "gathering", "receiving", "intake", "deletion"),
        # what `delivery` is made of
        *(
            "streams",
            "packing",
            "material",
            "drafts",
            "given_folders",
            "swaps",
            "standing",
            "placing",
            "outcomes",
            "updating",
            "spool",
        ),
        *(
            "merging",
            "bounds",
            "examining",
            "news",
            "objects",
            "signing",
            "notary",
            "keeping",
            "shares",
            "restoring",
            "moments",
            "accommodations",
            "assignments",
            "deadlines",
            "freezing",
            "ice",
            "replaying",
            "arranging",
            "receipts",
        ),
    ),
    # L1: what a course is made of. No edges sideways.
    ("accounts", "spawners", "frontends", "homes", "delivery", "profile", "ledger", "credentials", "course"),
    # The processes of a running class, each started by module name.
    (
        "supervisor",
        "web",
        "server",
        "server_activity",
        "server_auth",
        "server_channels",
        "server_kernels",
        "shared_data",
        "terminal",
        "attacks",
        "server_config",
        "server_pages",
        "server_sessions",
        "kernel",
        "kernel_sockets",
        "forkserver",
        "provisioner",
        "environments",
        "wheels",
        "source_package",
    ),
    # L2: the only place that chooses implementations.
    ("host",),
    # L3
    ("plan", "survey", "preflight"),
    # L4
    ("commands",),
    # L5
    ("render",),
    # L6: what a person starts.
    ("cli", "__main__", "ipython_dir"),
)
NOT_SIDEWAYS = 2
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
"""A unit is a module or a subpackage directly below `nblauncher`."""


def unit_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_of(file: Path) -> tuple[str, ...]:
    return ("nblauncher", *file.relative_to(PACKAGE).parent.parts)


def imported_units(source: bytes, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and unit of every import of our own package in a module of `package`."""
    for node in ast.walk(ast.parse(source)):
        modules: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            modules = [(*base, alias.name) for alias in node.names] if len(base) == 1 else [base]
        for module in modules:
            if module[0] == "nblauncher" and len(module) > 1 and is_unit(module[1]):
                yield node.lineno, module[1]


def is_unit(name: str) -> bool:
    """Names such as `__version__` are the package's own."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down_only(file):
    unit = unit_of(file)
    assert unit in LEVEL, f"{unit} has no place in LAYERS yet"
    for line, imported in imported_units(file.read_bytes(), package_of(file)):
        assert imported in LEVEL, f"{imported} has no place in LAYERS yet"
        if imported == unit:
            continue
        where = f"{file.relative_to(PACKAGE)}:{line} imports {imported}"
        assert LEVEL[imported] <= LEVEL[unit], f"{where}, which is above it"
        if LEVEL[unit] == NOT_SIDEWAYS:
            assert LEVEL[imported] != NOT_SIDEWAYS, f"{where}, which is beside it"


def test_only_the_host_chooses_implementations():
    seams = {"accounts", "spawners", "frontends"}
    for file in FILES:
        if unit_of(file) in seams | {"host"}:
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nblauncher."):
                seam, _, implementation = node.module.removeprefix("nblauncher.").partition(".")
                assert not (seam in seams and implementation), f"{file}:{node.lineno} imports {node.module}"


@pytest.mark.parametrize(
    "source, units",
    [
        ("import nblauncher.cli", ["cli"]),
        ("from nblauncher import cli, __version__", ["cli"]),
        ("from nblauncher.ledger.locks import locked", ["ledger"]),
        ("def late():\n    from nblauncher.host import Host", ["host"]),
        ("from ..host import Host", ["host"]),
        ("from .. import host", ["host"]),
        ("import os, click", []),
    ],
)
def test_every_form_of_import_is_seen(source, units):
    assert [unit for _, unit in imported_units(source.encode(), ("nblauncher", "ledger"))] == units


def test_no_deadline_depends_on_a_clock_that_can_be_set():
    """A jump of the host's clock must end no server, ticket or wait: time.time() only says when something began."""
    lines = [line for file in PACKAGE.rglob("*.py") for line in file.read_text().splitlines() if "time.time()" in line]
    assert lines and all("started_at" in line for line in lines)


def test_one_function_names_a_students_control_group():
    """A test that makes the name by hand passes when the product makes another one."""
    by_hand = re.compile(r"student-(\{|[0-9])")
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    assert [file.name for file in files if by_hand.search(file.read_text())] == []
