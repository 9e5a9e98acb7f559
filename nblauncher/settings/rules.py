"""What several keys of notebooks.cfg must be together, and where no folder of a course may lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nblauncher import assignments, memory, system_folders
from nblauncher.allot import BLOCKED_PORTS
from nblauncher.namespaces import PRIVATE
from nblauncher.printable import printable
from nblauncher.settings.values import Settings

_NO_MATERIAL = frozenset(map(Path, ("/", "/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/var")))


def violations(settings: Settings, uid_min: int) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for everything that the file alone tells."""
    first = settings.accounts.uid_range.start
    if first < uid_min:
        yield (
            "accounts.uid_range",
            f"accounts.uid_range: {first} is below {uid_min}, where this host's own accounts are",
        )
    if why := system_folders.why_no_homes(settings.accounts.home):
        yield "accounts.home", f"accounts.home: {_shown(settings.accounts.home)} is not a folder for homes: {why}"
    if settings.notebook.requirements is not None and settings.notebook.kernel_python is not None:
        yield (
            "notebook.requirements",
            "notebook.requirements: kernel_python names another Python; choose one",
        )
    if settings.web.port in BLOCKED_PORTS:
        yield "web.port", f"web.port: no browser opens port {settings.web.port}; it is one of those that they block"
    if settings.web.routing != "ports" and settings.web.frontend != "nginx":
        yield "web.routing", f"web.routing: {settings.web.routing} needs `frontend: nginx`"
    for deadline in settings.deadlines:
        if why := assignments.objection(deadline.name, settings.material):
            yield "deadlines", f"deadlines: {why}"
    yield from _limit_violations(settings)
    yield from _tls_violations(settings)
    yield from _folder_violations(settings)


def conflicts(settings: Settings, homes: Mapping[str, Path], owner_home: Path | None) -> list[str]:
    """What only the host can tell: a path of the course inside a student's home, or a whole home as material.

    `homes` are the students' by username, `owner_home` is the teacher's. A student could otherwise swap what root's
    commands hand to others. Empty when all is well.
    """
    found = []
    source = settings.material.source
    if owner_home is not None and (source == owner_home or source in owner_home.parents):
        found.append(f"material.source: {_shown(source)} holds the teacher's whole home; name a folder in it")
    for key, path in _places(settings):
        for username, home in homes.items():
            if _is_within(path, home):
                found.append(f"{key}: {_shown(path)} is inside the home of the student {username}")
    for username, home in homes.items():
        if home != source and _is_within(home, source):
            found.append(f"material.source: {_shown(source)} holds the home of the student {username}")
    return found


def _limit_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    least = memory.student_bytes(settings.notebook.spawner)
    if settings.limits.memory is not None and settings.limits.memory < least:
        yield (
            "limits.memory",
            f"limits.memory: a server and one kernel with pandas need {memory.words(least)} (spawner "
            f"{settings.notebook.spawner})",
        )
    for folder in PRIVATE:
        if settings.isolation and _is_within(settings.accounts.home, Path(folder)):
            yield (
                "accounts.home",
                f"accounts.home: with isolation a student's server sees its own {folder}, and no homes in it",
            )


def _tls_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    tls = settings.tls
    if tls.mode != "files":
        for key, value in (("tls.certificate", tls.certificate), ("tls.key", tls.key)):
            if value is not None:
                yield key, f"{key} is used with `mode: files` only, and the mode is {tls.mode}"
        return
    for key, value in (("tls.certificate", tls.certificate), ("tls.key", tls.key)):
        if value is None:
            yield "tls.mode", f"tls.mode: files needs {key}"
    if settings.web.frontend == "direct" and not tls.share_key_with_students:
        yield (
            "tls.mode",
            "tls.mode: with files and the front end direct every student's server holds this key, so every student "
            "can read it and pose as this host; write share_key_with_students: true if that is acceptable, or use "
            "class-ca",
        )


def _folder_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    source, target, home_root = settings.material.source, settings.retrieve.target, settings.accounts.home
    is_home = source.parent in (home_root, Path("/home"))
    if source in _NO_MATERIAL or is_home or _is_within(home_root, source):
        what = "a whole home" if is_home else "not a folder to hand out"
        yield "material.source", f"material.source: {_shown(source)} is {what}; name a folder with the material alone"
    else:
        # What lies inside the material reaches every student.
        for key, path in _places(settings):
            if key != "material.source" and _is_within(path, source):
                where = f"{key}: {_shown(path)} is inside material.source"
                yield "material.source", f"{where} and would be handed out to every student"
    if target == Path("/") or target in (home_root, Path("/home"), Path("/root")):
        yield "retrieve.target", f"retrieve.target: {_shown(target)} is not a folder for students' work"
    elif source != target and _is_within(source, target):
        yield "material.source", f"material.source: {_shown(source)} is inside retrieve.target"
    for key, path in (("retrieve.target", target), ("credentials", settings.credentials)):
        if why := system_folders.why_nothing_of_a_course(path):
            yield key, f"{key}: nothing of a course may be in {_shown(path)}: {why}"
    if settings.credentials in (settings.students, settings.file):
        yield (
            "credentials",
            f"credentials: {_shown(settings.credentials)} is the roster or the config and would be lost",
        )


def _places(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Everything of the course's that has a path."""
    yield "material.source", settings.material.source
    yield "students", settings.students
    yield "credentials", settings.credentials
    yield "retrieve.target", settings.retrieve.target
    if settings.file is not None:
        yield "the config", settings.file
    if isinstance(settings.notebook.requirements, Path):
        yield "notebook.requirements", settings.notebook.requirements
    if settings.tls.certificate is not None:
        yield "tls.certificate", settings.tls.certificate
    if settings.tls.key is not None:
        yield "tls.key", settings.tls.key


def _is_within(path: Path, folder: Path) -> bool:
    """Lexically; both are absolute and normal."""
    return path == folder or folder in path.parents


def _shown(path: Path) -> str:
    return printable(str(path))
