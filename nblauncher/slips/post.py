"""A connection to the mail server, as long as it lasts. Runs as the teacher, or as nblauncher for a course of root's.

What would be wrong for the next student as well (no connection, a certificate, the login, the sender) is tried once: a
wrong password tried forty times locks the mail account.
"""

from __future__ import annotations

import base64
import ipaddress
import smtplib
import socket
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage

from nblauncher.model import Secret
from nblauncher.printable import printable

STARTTLS, TLS, NONE = SECURITY = ("starttls", "tls", "none")
TIMEOUT = 60.0
"""Seconds for one answer of the server."""

_LONGEST_REPLY = 200
_GONE = 421
"""The server ends the connection (RFC 5321)."""


@dataclass(frozen=True, slots=True)
class MailServer:
    host: str
    port: int
    security: str
    authority: bytes = b""
    """PEM; empty: the authorities of the system."""
    username: str = ""
    """Empty: no login."""
    password: Secret = field(default=Secret(""), repr=False)

    @property
    def words(self) -> str:
        return f"{self.host}:{self.port}"


class Unsent(Exception):
    """This mail was not sent; says why."""


class Useless(Unsent):
    """No mail can be sent; says why."""


class Post:
    """Sends one mail after the other."""

    def __init__(self, server: MailServer, sender: str, timeout: float = TIMEOUT) -> None:
        self._server = server
        self._sender = sender
        self._timeout = timeout
        self._smtp: smtplib.SMTP | None = None
        self._hopeless = ""

    def send(self, to: str, mail: EmailMessage) -> None:
        """Returns when the server has taken the mail over. Unsent, or Useless: then every later one fails like it."""
        if self._hopeless:
            raise Useless(self._hopeless)
        try:
            smtp = self._at_the_sender(["SMTPUTF8"] if not to.isascii() else [])
            self._hand_over(smtp, to, mail)
        except Useless as error:
            self._hopeless = str(error)
            self.close()
            raise
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise Unsent(f"{self._server.words}: {_words(error)}") from error

    def close(self) -> None:
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            try:
                smtp.quit()
            except (OSError, smtplib.SMTPException):
                smtp.close()

    def _at_the_sender(self, options: list[str]) -> smtplib.SMTP:
        """A connection that has accepted the sender. One that the server had ended meanwhile is made again."""
        for is_old in (self._smtp is not None, False):
            smtp = self._smtp = self._smtp or self._connected()
            if options and not smtp.has_extn("smtputf8"):
                raise Unsent(f"{self._server.words} takes no address with these letters")
            try:
                code, reply = smtp.mail(self._sender, options)
            except (OSError, smtplib.SMTPServerDisconnected):
                code, reply = _GONE, b"the connection was ended"
            if code == 250:
                return smtp
            if is_old and code == _GONE:
                self.close()
                continue
            break
        words = f"{self._server.words} refuses mail from {self._sender}: {_reply(code, reply)}"
        if code >= 500:
            raise Useless(words)
        self.close()
        raise Unsent(words)

    def _hand_over(self, smtp: smtplib.SMTP, to: str, mail: EmailMessage) -> None:
        code, reply = smtp.rcpt(to)
        if code not in (250, 251):
            self._forget(smtp, code)
            raise Unsent(f"{to} was refused: {_reply(code, reply)}")
        try:
            code, reply = smtp.data(mail.as_bytes())
        except smtplib.SMTPServerDisconnected:
            self.close()
            words = "ended the connection while it took the mail, which may have arrived all the same"
            raise Unsent(f"{self._server.words} {words}") from None
        if code != 250:
            self._forget(smtp, code)
            raise Unsent(f"{self._server.words} did not take it: {_reply(code, reply)}")

    def _forget(self, smtp: smtplib.SMTP, code: int) -> None:
        """The refused mail, not the connection."""
        if code == _GONE:
            self.close()
        else:
            smtp.rset()

    def _connected(self) -> smtplib.SMTP:
        server = self._server
        smtp: smtplib.SMTP
        try:
            context = ssl.create_default_context(cadata=server.authority.decode("ascii", "replace") or None)
            if server.security == TLS:
                smtp = smtplib.SMTP_SSL(server.host, server.port, timeout=self._timeout, context=context)
            else:
                smtp = smtplib.SMTP(server.host, server.port, timeout=self._timeout)
        except ssl.SSLError as error:
            raise Useless(f"no encrypted connection to {server.words}: {_tls_words(error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise Useless(f"no connection to the mail server {server.words}: {_words(error)}") from error
        self._smtp = smtp
        try:
            if server.security == STARTTLS:
                smtp.starttls(context=context)
            elif server.security == NONE and not _is_loopback(smtp.sock):
                raise Useless(f"{server.words} is another machine, and mail.security is none")
            if server.username:
                _log_in(smtp, server)
            smtp.ehlo_or_helo_if_needed()
        except smtplib.SMTPNotSupportedError:
            missing = "login" if server.security != STARTTLS or isinstance(smtp.sock, ssl.SSLSocket) else "STARTTLS"
            raise Useless(f"{server.words} offers no {missing}") from None
        except smtplib.SMTPAuthenticationError as error:
            reply = _reply(error.smtp_code, error.smtp_error)
            raise Useless(f"{server.words} refused the login of {printable(server.username)}: {reply}") from None
        except ssl.SSLError as error:
            raise Useless(f"no encrypted connection to {server.words}: {_tls_words(error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise Useless(f"{server.words}: {_words(error)}") from error
        return smtp


def _log_in(smtp: smtplib.SMTP, server: MailServer) -> None:
    """Once: smtplib's own `login` tries a wrong password with every mechanism, and takes ASCII only."""
    smtp.ehlo_or_helo_if_needed()
    mechanisms = smtp.esmtp_features.get("auth", "").upper().split()
    name, password = server.username.encode(), server.password.reveal().encode()
    if "PLAIN" in mechanisms:  # RFC 4616
        code, reply = smtp.docmd("AUTH", f"PLAIN {_base64(b'%c%b%c%b' % (0, name, 0, password))}")
    elif "LOGIN" in mechanisms:
        code, reply = smtp.docmd("AUTH", f"LOGIN {_base64(name)}")
        if code == 334:
            code, reply = smtp.docmd(_base64(password))
    else:
        raise smtplib.SMTPNotSupportedError
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, reply)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _is_loopback(connection: socket.socket | None) -> bool:
    if connection is None:
        return False
    peer = connection.getpeername()
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified ({printable(error.verify_message)[:_LONGEST_REPLY]})"
    return printable(error.reason or str(error))[:_LONGEST_REPLY].lower().replace("_", " ")


def _words(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return _reply(error.smtp_code, error.smtp_error)
    if isinstance(error, TimeoutError) or (
        isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError)
    ):
        return "no answer in time"
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):
        return printable(error.strerror or str(error))[:_LONGEST_REPLY].lower()
    return printable(str(error))[:_LONGEST_REPLY]


def _reply(code: int, reply: bytes | str) -> str:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return f"{code} {printable(' '.join(text.split()))[:_LONGEST_REPLY]}"
