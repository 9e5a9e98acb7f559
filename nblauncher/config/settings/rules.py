"""Rules for several keys of notebooks.cfg together, and where a course's folders must not be."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path

from nblauncher.config import assignments
from nblauncher.config.settings.values import Settings
from nblauncher.model import LANGUAGES
from nblauncher.paths import PRIVATE
from nblauncher.printable import printable
from nblauncher.system import memory, system_folders
from nblauncher.system.blocked_ports import BLOCKED_PORTS

_NO_MATERIAL = frozenset(map(Path, ("/", "/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/var")))


def violations(settings: Settings, uid_min: int) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for everything that the file alone shows."""
    first = settings.accounts.uid_range.start
    if first < uid_min:
        yield (
            "accounts.uid_range",
            f"accounts.uid_range: {first} is below {uid_min}, where this host's own accounts are",
        )
    if why := system_folders.why_no_homes(settings.accounts.home):
        yield "accounts.home", f"accounts.home: {_shown(settings.accounts.home)} is not a folder for homes: {why}"
    if why := _overlap(settings.grading.uid_range, settings.accounts.uid_range, uid_min):
        yield "grading.uid_range", f"grading.uid_range: {why}"
    if settings.notebook.requirements is not None and settings.notebook.kernel_python is not None:
        yield (
            "notebook.requirements",
            "notebook.requirements: kernel_python names another Python; choose one",
        )
    if settings.web.port in BLOCKED_PORTS:
        yield "web.port", f"web.port: no browser opens port {settings.web.port}; it is one of those that they block"
    if settings.web.routing != "ports" and settings.web.frontend != "nginx":
        yield "web.routing", f"web.routing: {settings.web.routing} needs `frontend: nginx`"
    if settings.web.texts is None and settings.web.language.partition("-")[0].lower() not in LANGUAGES:
        yield (
            "web.language",
            f"web.language: for {settings.web.language} name a file with the texts in web.texts; without one there are "
            f"{' and '.join(LANGUAGES)}",
        )
    for deadline in settings.deadlines:
        if why := assignments.objection(deadline.name, settings.material):
            yield "deadlines", f"deadlines: {why}"
    yield from _limit_violations(settings)
    yield from _grading_violations(settings)
    yield from _tls_violations(settings)
    yield from _mail_violations(settings)
    yield from _folder_violations(settings)


def _overlap(graders: range, students: range, uid_min: int) -> str:
    """Why submissions cannot be graded as these uids."""
    if graders.start < uid_min:
        return f"{graders.start} is below {uid_min}, where this host's own accounts are"
    if graders.start < students.stop and students.start < graders.stop:
        return f"it shares uids with accounts.uid_range, {students.start}-{students.stop - 1}"
    return "" if len(graders) >= 4 else "it needs four uids at least"


def _grading_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where the teacher's session must not be: at a name that a student's server, or a student's program, shares
    (docs/decisions/grading-by-hand.md).
    """
    name, port, web = settings.grading.name, settings.grading_port, settings.web
    if name is None:
        return
    above = [other.lower().removesuffix(".") for other in web.names if name.endswith(f".{other.lower().rstrip('.')}")]
    labels = min((name.removesuffix(f".{other}").count(".") + 1 for other in above), default=0)
    if name == "localhost" or name in (other.lower().removesuffix(".") for other in web.names):
        yield "grading.name", f"grading.name: {name} is a name of the students' servers, which would get its cookie"
    elif settings.tls.mode == "off":
        yield "grading.name", "grading.name: without TLS a student could take over the teacher's session"
    elif settings.tls.mode == "files" and web.frontend != "nginx":
        yield "grading.name", "grading.name: with tls.share_key_with_students a student could pose as this name"
    elif settings.tls.mode == "class-ca" and not above:
        yield "grading.name", f"grading.name: the class CA vouches for names below those of web.names, not for {name}"
    elif web.routing == "hosts" and labels == 1:
        yield (
            "grading.name",
            f"grading.name: with routing hosts a student may have the name {name}; use two labels more",
        )
    if port in BLOCKED_PORTS:
        yield "grading.port", f"grading.port: no browser opens port {port}; it is one of those that they block"
    if port == web.port:
        yield "grading.port", f"grading.port: {port} is web.port"


def conflicts(settings: Settings, homes: Mapping[str, Path], owner_home: Path | None) -> list[str]:
    """What only the host can show: a path of the course inside a student's home, or a whole home as material.

    `homes` are the students' by username, `owner_home` is the teacher's. In a home the student could swap what root's
    commands hand to others. Empty when there is no conflict.
    """
    found = []
    source = settings.material.source
    if owner_home is not None and (source == owner_home or source in owner_home.parents):
        found.append(f"material.source: {_shown(source)} holds the teacher's whole home; name a folder in it")
    for key, path in _places(settings):
        around = {path, *path.parents}
        for username, home in homes.items():
            if home in around:
                found.append(f"{key}: {_shown(path)} is inside the home of the student {username}")
    for username, home in homes.items():
        if home != source and home.parts[: len(source.parts)] == source.parts:
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
    if settings.web.frontend != "nginx" and not tls.share_key_with_students:
        yield (
            "tls.mode",
            "tls.mode: with files and the front end direct every student's server holds this key, so every student "
            "can read it and pose as this host; write share_key_with_students: true if that is acceptable, or use "
            "class-ca",
        )


def _mail_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    mail = settings.mail
    if mail.host is None:
        return
    if mail.sender is None:
        yield "mail.host", "mail.from: the sender of the mails is missing"
    if mail.security == "none" and mail.host != "localhost" and not _is_loopback(mail.host):
        yield (
            "mail.security",
            f"mail.security: none is for a mail server on this host; every machine on the way to {mail.host} could "
            "read the passwords",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _folder_violations(settings: Settings) -> Iterator[tuple[str, str]]:
    source, target, home_root = settings.material.source, settings.retrieve.target, settings.accounts.home
    is_home = source.parent in (home_root, Path("/home"))
    if source in _NO_MATERIAL or is_home or _is_within(home_root, source):
        what = "a whole home" if is_home else "not a folder to hand out"
        yield "material.source", f"material.source: {_shown(source)} is {what}; name a folder with the material alone"
    else:
        # What is inside the material reaches every student.
        for key, path in _places(settings):
            if key != "material.source" and _is_within(path, source):
                where = f"{key}: {_shown(path)} is inside material.source"
                yield "material.source", f"{where} and would be handed out to every student"
    if target == Path("/") or target in (home_root, Path("/home"), Path("/root")):
        yield "retrieve.target", f"retrieve.target: {_shown(target)} is not a folder for students' work"
    elif source != target and _is_within(source, target):
        yield "material.source", f"material.source: {_shown(source)} is inside retrieve.target"
    for key, path in (
        ("retrieve.target", target),
        ("credentials", settings.credentials),
        ("grading.course", settings.grading.course),
    ):
        if why := system_folders.why_nothing_of_a_course(path):
            yield key, f"{key}: nothing of a course may be in {_shown(path)}: {why}"
    if settings.credentials in (settings.students, settings.file):
        yield (
            "credentials",
            f"credentials: {_shown(settings.credentials)} is the roster or the config and would be lost",
        )


def _places(settings: Settings) -> Iterator[tuple[str, Path]]:
    """All paths of the course."""
    yield "material.source", settings.material.source
    yield "students", settings.students
    yield "credentials", settings.credentials
    yield "retrieve.target", settings.retrieve.target
    yield "grading.course", settings.grading.course
    if settings.file is not None:
        yield "the config", settings.file
    if isinstance(settings.notebook.requirements, Path):
        yield "notebook.requirements", settings.notebook.requirements
    if settings.web.texts is not None:
        yield "web.texts", settings.web.texts
    if settings.tls.certificate is not None:
        yield "tls.certificate", settings.tls.certificate
    if settings.tls.key is not None:
        yield "tls.key", settings.tls.key
    if settings.mail.login is not None:
        yield "mail.login", settings.mail.login
    if settings.mail.authority is not None:
        yield "mail.authority", settings.mail.authority


def _is_within(path: Path, folder: Path) -> bool:
    """Lexically; both are absolute and normal."""
    return path == folder or folder in path.parents


def _shown(path: Path) -> str:
    return printable(str(path))
