"""The supervisor's requests to fork servers: one packet of a SOCK_SEQPACKET socket each, with descriptors."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import USERNAME, Account
from nblauncher.system import wire

MAX_PACKET = 60_000
"""Bytes. A socket's buffer holds several of them, so that a request does not block."""


class RequestError(ValueError):
    """A request that makes no sense."""


@dataclass(frozen=True, slots=True)
class Place:
    """The account of a forked process, and what confines it."""

    account: Account
    sandbox: Sandbox
    umask: int = 0o077

    def to_json(self) -> dict[str, Any]:
        return {
            "username": self.account.username,
            "uid": self.account.uid,
            "gid": self.account.gid,
            "home": str(self.account.home),
            "umask": self.umask,
            "sandbox": self.sandbox.to_json(),
        }

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Place:
        """RequestError if anything is missing, of another type, or would be root's."""
        username, home, uid, gid = (given.get(key) for key in ("username", "home", "uid", "gid"))
        if type(uid) is not int or type(gid) is not int or uid <= 0 or gid <= 0:
            raise RequestError("an id is missing, or is root's")
        if not isinstance(username, str) or not USERNAME.fullmatch(username):
            raise RequestError("not a username")
        umask = given.get("umask")
        if type(umask) is not int or not 0 <= umask <= 0o777:
            raise RequestError("not a umask")
        if not isinstance(home, str) or not home.startswith("/") or "\0" in home:
            raise RequestError("not a home")
        try:
            sandbox = Sandbox.parse(given.get("sandbox"))
        except ValueError as error:
            raise RequestError(str(error)) from error
        return cls(Account(username, uid, gid, Path(home)), sandbox, umask)


@dataclass(frozen=True, slots=True)
class Request:
    """A server to be forked. With it come output, config, certificate and key (with TLS), news, listening sockets."""

    number: int
    place: Place
    environment: Mapping[str, str]
    has_tls: bool

    @property
    def least(self) -> int:
        """How many descriptors it must bring."""
        return 6 if self.has_tls else 4

    def pack(self, descriptors: int) -> bytes:
        """ValueError when it is too long for one packet."""
        return pack(
            {
                **self.place.to_json(),
                "id": self.number,
                "environment": dict(self.environment),
                "tls": self.has_tls,
                "descriptors": descriptors,
            }
        )

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Request:
        """RequestError if anything is missing, of another type, or would be root's."""
        number, environment = given.get("id"), given.get("environment")
        if type(number) is not int:
            raise RequestError("an id is missing")
        if not isinstance(environment, dict) or not all(map(_is_word, environment.values())):
            raise RequestError("the environment holds something else than text")
        return cls(number, Place.parse(given), environment, given.get("tls") is True)


def know(place: Place, asking: int | None = None) -> bytes:
    """The packet from which on kernels may be forked for a student, into this sandbox.

    `asking` is the uid that asks for them; None: the student's own.
    """
    return pack({"know": place.to_json(), "asking": place.account.uid if asking is None else asking})


def forget(uid: int) -> bytes:
    """The packet after which no kernel is forked for this uid."""
    return pack({"forget": uid})


def pack(message: Mapping[str, Any]) -> bytes:
    """ValueError when it is too long for one packet."""
    data = wire.pack(message)
    if len(data) > MAX_PACKET:
        raise ValueError(f"a request of {len(data)} bytes")
    return data


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet; None when the other side hung up. WireError for one that is not a message, which is consumed.

    The descriptors are the caller's to close.
    """
    reader = wire.Reader()
    try:
        if not reader.feed(link):
            return None
        message = reader.next()
        if message is None:
            raise wire.WireError("a packet that is not whole")
        return message
    finally:
        reader.close()


def answer(link: socket.socket, message: Mapping[str, Any]) -> None:
    link.send(wire.pack(message))


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value
