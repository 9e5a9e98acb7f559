"""The pages: sign-in, the way to one's own server, the class certificate. Plain words, no cookie, no roster.

Nothing a visitor can see depends on whether a name is on the roster until its password was right.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.client import responses
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import urlencode

import jinja2
from tornado.web import Application, Finish, HTTPError, RequestHandler

from nblauncher import reasons
from nblauncher.clients import Client, Clients
from nblauncher.model import ServerState
from nblauncher.tickets import TicketBook
from nblauncher.web.checker import PasswordChecker
from nblauncher.web.door import ANSWER, Stage, visit_of
from nblauncher.web.guesses import Guesses
from nblauncher.web.inputs import ClassPage
from nblauncher.web.supervisor_link import SupervisorLink
from nblauncher.web.visitors import Arrival, arrival, is_foreign

log = logging.getLogger(__name__)

WAITING_LIFETIME = 300.0
"""Seconds for which a sign-in is remembered between two looks at a starting server; background tabs look rarely."""

WAKING = 3.0
"""Seconds to wait for a server that starts before a page says so."""

CLIENT_ENDS = "X-Nblauncher-Ends"
"""Both ends of the connection to the proxy, as the proxy writes it: our end, port; its port."""

_LOOK_AGAIN = 0.1
_MOST_DEADLINES = 3
_LONGEST_NEXT = 1000
_ENDS = re.compile(r"(?P<host>[0-9a-f.:]{2,45}) (?P<port>[0-9]{1,5}) (?P<from>[0-9]{1,5})")
_USERNAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_HERE = Path(__file__).parent
_STATIC_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


async def _none_of_their_own(_username: str) -> Sequence[tuple[str, datetime]]:
    return ()


@dataclass(slots=True)
class FrontPage:
    """What the handlers share."""

    of: ClassPage
    checker: PasswordChecker
    guesses: Guesses
    tickets: TicketBook
    supervisor: SupervisorLink
    waiting: TicketBook = field(default_factory=lambda: TicketBook(lifetime=WAITING_LIFETIME))
    """Sign-ins that wait for a server to start, so that the password need not be typed again."""
    own_deadlines: Callable[[str], Awaitable[Sequence[tuple[str, datetime]]]] = _none_of_their_own
    """Where a student's moment is not the class's. Asked for whose password was right, and told to nobody else."""
    clients: Clients = field(default_factory=Clients)


def application(front_page: FrontPage) -> Application:
    """The tornado application. It writes no access log: that would be a list of who is in the class."""
    shared = {"front_page": front_page}
    static = {path.name: path.read_bytes() for path in (_HERE / "static").iterdir() if path.suffix in _STATIC_TYPES}
    # A username has neither dot nor slash: no student's page is hidden by one of ours.
    return Application(
        [
            (r"/", SignIn, shared),
            (r"/([^/.]+)/?", SignIn, shared),
            (r"/ca\.html", Certificate, shared),
            (r"/ca\.pem", CertificateFile, shared),
            (r"/static/([a-z]+\.[a-z]+)", Static, {**shared, "files": static}),
        ],
        default_handler_class=Nowhere,
        default_handler_args=shared,
        log_function=lambda handler: None,
        version=hashlib.sha256(b"".join(static[name] for name in sorted(static))).hexdigest()[:12],
    )


def deadlines_words(deadlines: Sequence[tuple[str, datetime]], now: datetime) -> list[tuple[str, str]]:
    """The next ones, soonest first: of what, and when in the host's zone."""
    to_come = sorted((at, folder) for folder, at in deadlines if at > now)[:_MOST_DEADLINES]
    return [(folder, f"{at.astimezone():%A %-d %B %Y, %H:%M (%Z)}") for at, folder in to_come]


class Page(RequestHandler):
    """What all pages have in common: who may come, and the headers."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST")
    arrival: Arrival

    def initialize(self, front_page: FrontPage) -> None:
        self.front_page = front_page

    def set_default_headers(self) -> None:
        self.set_header("Server", "nblauncher")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", _policy())
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        # no-referrer would make the browser send `Origin: null`, and the ticket handler checks the origin.
        self.set_header("Referrer-Policy", "strict-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")

    def prepare(self) -> None:
        came = arrival(self.request.headers.get("Host"), self.front_page.of.hosts)
        if came is None:
            self.message(
                400,
                "This address is not set up",
                "The server was reached by a name or address that it does not know as its own: "
                f"{(self.request.headers.get('Host') or '(none)')[:100]}",
                "If it is the right one, your teacher can add it to web.names in notebooks.cfg and launch again.",
            )
            raise Finish
        self.arrival = came
        if self.front_page.of.has_tls and self.request.protocol != "https":
            # Not permanent: nothing may outlive the class in a browser that other services of this host need.
            path = self.request.uri or "/"
            self.redirect(f"https://{came.authority}{path if path.startswith('/') else '/'}", status=303)
            raise Finish
        own_origin = f"{self.front_page.of.scheme}://{came.authority}"
        headers = self.request.headers
        if self.request.method == "POST" and is_foreign(
            headers.get("Origin"), headers.get("Sec-Fetch-Site"), own_origin
        ):
            self.message(
                403,
                "This sign-in came from another page",
                "Another web page tried to sign you in here. Nothing was done.",
                "To sign in yourself, start at the front page.",
            )
            raise Finish

    def show(self, template: str, *, form_action: str = "", script: bool = False, **values: Any) -> None:
        """Finish with a page. `form_action` is the CSP source of where its form may go."""
        nonce = secrets.token_urlsafe(16) if script else ""
        self.set_header("Content-Security-Policy", _policy(form_action, nonce))
        self.set_header("Content-Type", "text/html; charset=utf-8")
        given = {
            "page": self.front_page.of,
            "version": self.application.settings["version"],
            "nonce": nonce,
            **values,
        }
        self.finish(_TEMPLATES.get_template(template).render(given))

    def message(self, status: int, title: str, problem: str, hint: str) -> None:
        """Finish with a plain page that says what is wrong and what to do."""
        self.set_status(status)
        self.show("message.html", title=title, problem=problem, hint=hint)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        title, problem = {
            404: ("There is nothing here", "This page does not exist."),
            405: ("There is nothing here", "This page cannot be used in this way."),
            500: ("Something went wrong here", "This is a fault of the server, not yours. Your work is not affected."),
        }.get(status_code, (responses.get(status_code, "Error"), "The server did not understand this request."))
        self.message(status_code, title, problem, "Go to the front page and try again, or tell your teacher.")

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # Tornado's own words would quote the request, and its path is a student's name.
        if not isinstance(value, HTTPError) and typ is not None and value is not None:
            log.error("a request failed", exc_info=(typ, value, tb))

    async def head(self, *arguments: str) -> None:
        await self.get(*arguments)

    async def get(self, *arguments: str) -> None:
        raise HTTPError(405)


class SignIn(Page):
    """The form, and what a posted form leads to."""

    _work: asyncio.Task[None] | None = None
    _carried: Mapping[str, str] = MappingProxyType({})
    """Fields that are passed on from form to form to the student's server, which checks them: `keep`, the computer is
    the student's own; `next`, the page that they had asked for.
    """

    async def get(self, *arguments: str) -> None:
        username = "".join(arguments)
        if username and not _USERNAME.fullmatch(username):
            raise HTTPError(404)
        self._carry(self.get_query_argument)
        self.form(username)

    async def post(self, *arguments: str) -> None:
        """The work is a task of its own, so that it ends when the client goes away."""
        self._work = asyncio.ensure_future(self._post())
        try:
            await self._work
        except asyncio.CancelledError:
            raise Finish from None

    def on_connection_close(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _carry(self, argument: Callable[[str, str], str]) -> None:
        given = {"keep": "1" if argument("keep", "") else "", "next": argument("next", "")[:_LONGEST_NEXT]}
        self._carried = {name: value for name, value in given.items() if value}

    def form(self, username: str, *, problem: str = "") -> None:
        told = deadlines_words(self.front_page.supervisor.deadlines, datetime.now(timezone.utc))
        self.show(
            "sign_in.html",
            form_action="'self'",
            username=username,
            problem=problem,
            deadlines=told,
            carried=self._carried,
        )

    async def _post(self) -> None:
        self._carry(self.get_body_argument)
        token = self.get_body_argument("waiting", "")
        if token:
            username = self.front_page.waiting.redeem(token)
            if username is None:
                self.form("", problem="That took too long. Please sign in again.")
                return
        else:
            username = self.get_body_argument("username", "").lower()
            if not await self._is_right(username, self.get_body_argument("password", "", strip=False)):
                self.set_status(403)
                shown = username if _USERNAME.fullmatch(username) else ""
                self.form(shown, problem="That username and password do not belong together. Please try again.")
                return
        await self._go_on(username)

    async def _is_right(self, username: str, password: str) -> bool:
        address = self.request.remote_ip or ""
        client = self._client(address)
        known_shape = username if _USERNAME.fullmatch(username) else ""
        if await self.front_page.checker.is_right(client.share, known_shape, password):
            return True
        delay = self.front_page.guesses.wrong(client.group, known_shape)
        if delay:
            log.info("wrong guesses from %s: answering %.0f s later", address, delay)
            if self.request.connection is not None:
                visit_of(self.request.connection).enter(Stage.DELAYED, delay + ANSWER)
            await asyncio.sleep(delay)
        return False

    def _client(self, address: str) -> Client:
        """Whom this request counts for. Behind the proxy its word is taken, as for the address."""
        if not self.front_page.of.routing:
            if self.request.connection is None:
                return self.front_page.clients.at((address, 0), None)
            return visit_of(self.request.connection).client
        ends = _ENDS.fullmatch(self.request.headers.get(CLIENT_ENDS, ""))
        if ends is None:
            return self.front_page.clients.at((address, 0), None)
        return self.front_page.clients.at((address, int(ends["from"])), (ends["host"], int(ends["port"])))

    async def _go_on(self, username: str) -> None:
        """The password was right: to the student's server, when it is there."""
        state = await self._awake(username)
        own = deadlines_words(await self.front_page.own_deadlines(username), datetime.now(timezone.utc))
        if state is ServerState.READY:
            self._open(username, own)
        elif state in (ServerState.FAILED, ServerState.STOPPED):
            why = reasons.plain(await self.front_page.supervisor.reason(username))
            has_failed = state is ServerState.FAILED
            self.show("not_running.html", username=username, has_failed=has_failed, why=why, own=own)
        else:
            token = self.front_page.waiting.issue(username)
            self.show("waiting.html", form_action="'self'", script=True, waiting=token, own=own, carried=self._carried)

    async def _awake(self, username: str) -> ServerState:
        """A server that sleeps wakes now; most are there before somebody would see a page about it."""
        until = time.monotonic() + WAKING
        state = await self.front_page.supervisor.wake(username)
        while state in (ServerState.ASLEEP, ServerState.STARTING) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN)
            state = await self.front_page.supervisor.state(username)
        return state

    def _open(self, username: str, own: Sequence[tuple[str, str]]) -> None:
        """At once; but who has something to read goes on by the button."""
        origin, source = self.front_page.of.server_of(username, self.arrival)
        self.show(
            "opening.html",
            form_action=source,
            script=not own,
            own=own,
            target=f"{origin}/user/{username}/nblauncher/ticket",
            ticket=self.front_page.tickets.issue(username),
            carried=self._carried,
        )


class Certificate(Page):
    """How to trust the class CA, and its fingerprint."""

    async def get(self, *arguments: str) -> None:
        if self.front_page.of.ca_pem is None:
            raise HTTPError(404)
        self.show("certificate.html", hosts=sorted(self.front_page.of.hosts))


class CertificateFile(Page):
    """The CA's certificate as a file; the type makes phones and Firefox offer to install it."""

    async def get(self, *arguments: str) -> None:
        if self.front_page.of.ca_pem is None:
            raise HTTPError(404)
        self.set_header("Content-Type", "application/x-x509-ca-cert")
        name = urlencode({"filename": f"{self.front_page.of.course}-ca.pem"})
        self.set_header("Content-Disposition", f"attachment; {name}")
        self.finish(self.front_page.of.ca_pem)


class Static(Page):
    """Style sheet and icon, under an address that changes with their content."""

    def initialize(self, front_page: FrontPage, files: dict[str, bytes] | None = None) -> None:
        super().initialize(front_page)
        self._files = files or {}

    async def get(self, *arguments: str) -> None:
        content = self._files.get(arguments[0])
        if content is None:
            raise HTTPError(404)
        self.set_header("Cache-Control", "public, max-age=86400")
        self.set_header("Content-Type", _STATIC_TYPES[Path(arguments[0]).suffix])
        self.finish(content)


class Nowhere(Page):
    """Everything else."""

    async def get(self, *arguments: str) -> None:
        raise HTTPError(404)

    async def post(self, *arguments: str) -> None:
        raise HTTPError(404)


def _policy(form_action: str = "", nonce: str = "") -> str:
    """Nothing but our own style and icon; one script when there is a nonce; forms to one place."""
    script = f" script-src 'nonce-{nonce}';" if nonce else ""
    target = form_action or "'none'"
    return (
        f"default-src 'none'; style-src 'self'; img-src 'self';{script} form-action {target}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
