"""What the front page is given at its start, over descriptors: nothing about the class is read from disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from nblauncher.auth.appearance import Appearance
from nblauncher.auth.texts import Texts
from nblauncher.web.visitors import Arrival, form_target


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the front page needs to know of a student."""

    uid: int
    port: int
    hashed: str = field(repr=False)
    """Jupyter's argon2 hash of the notebook password."""
    is_locked: bool = False
    """By the teacher: the right password leads nowhere."""


@dataclass(frozen=True, slots=True)
class ClassPage:
    """The class of this front page."""

    course: str
    interface: str
    """notebook | lab"""
    front_port: int
    hosts: frozenset[str]
    """The hosts for which it answers, in canonical spelling."""
    has_tls: bool
    ca_pem: bytes | None
    ca_fingerprint: str | None
    students: Mapping[str, Enrolled]
    routing: str = ""
    """ports | hosts | paths: behind a proxy, and its headers are believed; empty: there is no proxy."""
    host: str = ""
    """The one that stands in every address."""
    appearance: Appearance = field(default_factory=Appearance)
    greeting: str = ""
    contact: str = ""
    time_zone: str = ""
    """On whose clock times are shown; empty: the host's."""
    has_sealed_tickets: bool = False
    """Students' servers run on nodes, and check tickets themselves (nblauncher.auth.sealed_tickets)."""

    @property
    def title(self) -> str:
        return self.appearance.title or self.course

    @property
    def texts(self) -> Texts:
        return self.appearance.words

    def server_of(self, username: str, came: Arrival) -> tuple[str, str]:
        """Origin of the student's server for a browser that came in this way, and the CSP source for it."""
        if self.routing == "hosts":
            origin = f"{self.scheme}://{username}.{self.host}:{self.front_port}"
            return origin, origin
        if self.routing == "paths":
            return f"{self.scheme}://{came.authority}", "'self'"
        port = self.students[username].port
        return f"{self.scheme}://{came.in_url}:{port}", form_target(self.scheme, came.host, port)

    @property
    def scheme(self) -> str:
        return "https" if self.has_tls else "http"


def parse_config(content: bytes) -> ClassPage:
    """The class from the supervisor's JSON. KeyError, TypeError or ValueError are bugs of its writer."""
    given = json.loads(content)
    return ClassPage(
        course=str(given["course"]),
        interface=str(given["interface"]),
        front_port=int(given["front_port"]),
        hosts=frozenset(map(str, given["hosts"])),
        has_tls=bool(given["tls"]),
        ca_pem=None if given["ca_pem"] is None else str(given["ca_pem"]).encode("ascii"),
        ca_fingerprint=given["ca_fingerprint"],
        routing=str(given["routing"]),
        host=str(given["host"]),
        appearance=Appearance(**given["appearance"]),
        greeting=str(given["greeting"]),
        contact=str(given["contact"]),
        time_zone=str(given["time_zone"]),
        has_sealed_tickets=given.get("sealed_tickets") is True,
        students={
            username: Enrolled(
                int(student["uid"]), int(student["port"]), str(student["hash"]), student.get("locked") is True
            )
            for username, student in given["students"].items()
        },
    )


def render_config(page: ClassPage) -> bytes:
    """The JSON for `parse_config`, from the command that starts a front page. With hashes: for sealed memfds only."""
    content = {
        "course": page.course,
        "interface": page.interface,
        "front_port": page.front_port,
        "hosts": sorted(page.hosts),
        "tls": page.has_tls,
        "ca_pem": None if page.ca_pem is None else page.ca_pem.decode("ascii"),
        "ca_fingerprint": page.ca_fingerprint,
        "routing": page.routing,
        "host": page.host,
        "appearance": asdict(page.appearance),
        "greeting": page.greeting,
        "contact": page.contact,
        "time_zone": page.time_zone,
        **({"sealed_tickets": True} if page.has_sealed_tickets else {}),
        "students": {
            username: {
                "uid": student.uid,
                "port": student.port,
                "hash": student.hashed,
                **({"locked": True} if student.is_locked else {}),
            }
            for username, student in page.students.items()
        },
    }
    return json.dumps(content).encode("ascii")
