"""A real mail server on loopback, with STARTTLS, a login, and a will of its own."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from nblauncher.frontends import class_ca

USER, PASSWORD = "kim", "s3cret-of-kim"


@dataclass
class MailServer:
    """What it was sent, and what it refuses."""

    port: int
    authority: Path
    refused: set[str] = field(default_factory=set)
    """Recipients."""
    ends_after: int = 0
    """Mails of a connection after which the server ends it; 0: never."""
    refuses_sender: bool = False
    thinks: float = 0.0
    """Seconds before it takes a mail over, except the first one."""
    mails: list[tuple[str, EmailMessage]] = field(default_factory=list)
    """Recipient and mail."""
    senders: list[str] = field(default_factory=list)
    logins: list[bool] = field(default_factory=list)
    connections: int = 0
    _of_this_connection: int = 0

    @property
    def recipients(self) -> list[str]:
        return [to for to, _mail in self.mails]

    def to(self, recipient: str) -> EmailMessage:
        (mail,) = [mail for to, mail in self.mails if to == recipient]
        return mail

    # What aiosmtpd calls.

    async def handle_EHLO(
        self, server: Any, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        self._of_this_connection = 0
        return responses

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.ends_after and self._of_this_connection >= self.ends_after:
            server.transport.close()
            return "421 too many mails"
        if self.refuses_sender:
            return "553 5.7.1 not your address"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        self.senders.append(address)
        return "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 5.1.1 no such user here\x1b[2J"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        if self.mails:
            await asyncio.sleep(self.thinks)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self._of_this_connection += 1
        self.mails += [(to, mail) for to in envelope.rcpt_tos]
        return "250 OK"

    def authenticate(self, server: Any, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        is_right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins.append(is_right)
        return AuthResult(success=is_right, handled=False)


@contextmanager
def mail_server(
    folder: Path, *, security: str = "starttls", needs_login: bool = True, name: str = "localhost"
) -> Iterator[MailServer]:
    """At 127.0.0.1, which `localhost` is; its certificate, for `name`, is signed by `authority`."""
    authority = class_ca.ensure_class_ca(folder / "ca", ["localhost", name], ["127.0.0.1"], "mail")
    leaf = class_ca.issue_leaf(authority, [name], [])
    (folder / "leaf.pem").write_bytes(leaf.certificate + leaf.key)
    (folder / "authority.pem").write_bytes(authority.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "leaf.pem")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = MailServer(port, folder / "authority.pem")
    more: dict[str, Any] = {"starttls": {"tls_context": context}, "tls": {"ssl_context": context}}.get(security, {})
    if security == "starttls":
        more["require_starttls"] = True
    if needs_login:
        more |= {
            "authenticator": server.authenticate,
            "auth_required": True,
            "auth_require_tls": security == "starttls",
        }
    controller = Controller(server, hostname="127.0.0.1", port=port, **more)
    controller.start()
    server.connections = 0
    try:
        yield server
    finally:
        controller.stop()
