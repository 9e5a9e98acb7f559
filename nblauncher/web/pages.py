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
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import jinja2
from tornado.web import Application, Finish, HTTPError, RequestHandler

from nblauncher.auth import sealed_tickets, visitor_pages
from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.guesses import Guesses
from nblauncher.auth.tickets import TicketBook
from nblauncher.model import USERNAME, ServerState, plain_reason
from nblauncher.system.clients import Client, Clients
from nblauncher.web import strip
from nblauncher.web.door import ANSWER, Stage, visit_of
from nblauncher.web.inputs import ClassPage
from nblauncher.web.strip import ShownDeadline
from nblauncher.web.supervisor_link import Queue, SupervisorLink, Told
from nblauncher.web.visitors import Arrival, arrival, is_foreign

log = logging.getLogger(__name__)

WAITING_LIFETIME = 300.0
"""Seconds for which a sign-in is remembered between two checks of a starting server; background tabs check rarely."""

WAKING = 3.0
"""Seconds to wait for a starting server before a page says that it is starting."""

CLIENT_ENDS = "X-Nblauncher-Ends"
"""Both ends of the connection to the proxy, as the proxy writes it: our end, port; its port."""

_LOOK_AGAIN = 0.1
_LONGEST_NEXT = 1000
_ENDS = re.compile(r"(?P<host>[0-9a-f.:]{2,45}) (?P<port>[0-9]{1,5}) (?P<from>[0-9]{1,5})")
_HERE = Path(__file__).parent
_PAGE_SCRIPT = "/static/page.js"
_STATIC_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader([_HERE / "templates", _HERE / "templates/shared"]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


async def _no_own_deadlines(_username: str) -> Sequence[tuple[str, datetime]]:
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
    own_deadlines: Callable[[str], Awaitable[Sequence[tuple[str, datetime]]]] = _no_own_deadlines
    """A student's own deadlines. Requested once the password was right, and shown to that student only."""
    clients: Clients = field(default_factory=Clients)

    def renew(self, new: ClassPage) -> None:
        """Other students and passwords. Whoever's password changed, or is gone, has no ticket any more."""
        for username, student in self.of.students.items():
            if new.students.get(username) != student:
                self.tickets.forget(username)
                self.waiting.forget(username)
        self.of = new


def application(front_page: FrontPage, routes: Mapping[str, type[Page]] = MappingProxyType({})) -> Application:
    """The tornado application, with further pages by their paths. It writes no access log, which would list the
    students of the class.
    """
    shared = {"front_page": front_page}
    static = {
        "page.css": visitor_pages.STYLE.encode(),
        "page.js": visitor_pages.SCRIPT.encode(),
        **{name: (_HERE / "static" / name).read_bytes() for name in ("icon.svg", "told.css")},
    }
    # A username has neither dot nor slash: our pages cannot hide a student's.
    return Application(
        [
            (r"/", SignIn, shared),
            (r"/([^/.]+)/?", SignIn, shared),
            *((path, page, shared) for path, page in routes.items()),
            (r"/static/([a-z]+\.[a-z]+)", Static, {**shared, "files": static}),
        ],
        default_handler_class=Nowhere,
        default_handler_args=shared,
        log_function=lambda handler: None,
        version=hashlib.sha256(b"".join(static[name] for name in sorted(static))).hexdigest()[:12],
    )


class Page(RequestHandler):
    """What all pages share: the checks of a request, and the headers."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST")
    arrival: Arrival | None = None
    """None: by a name or address that is not the class's."""

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
            address = (self.request.headers.get("Host") or "–")[:100]
            self.message(400, "unknown_address", hint="unknown_address_hint", address=address)
            raise Finish
        self.arrival = came
        if self.front_page.of.has_tls and self.request.protocol != "https":
            # Not permanent: other services of this host may need the name after the class.
            path = self.request.uri or "/"
            self.redirect(f"https://{came.authority}{path if path.startswith('/') else '/'}", status=303)
            raise Finish
        own_origin = f"{self.front_page.of.scheme}://{came.authority}"
        headers = self.request.headers
        if self.request.method == "POST" and is_foreign(
            headers.get("Origin"), headers.get("Sec-Fetch-Site"), own_origin
        ):
            self.message(403, "other_page", hint="other_page_hint")
            raise Finish

    def show(self, template: str, *, form_action: str = "", script: bool = False, **values: Any) -> None:
        """Finish with a page. `form_action` is the CSP source of where its form may go; a `script` stands in it."""
        nonce = secrets.token_urlsafe(16) if script else ""
        scripts = [f"'nonce-{nonce}'"] if script else []
        if self.arrival is not None:  # not 'self': with `paths` routing students' servers have the same origin
            scripts.append(f"{self.front_page.of.scheme}://{self.arrival.authority}{_PAGE_SCRIPT}")
        self.set_header("Content-Security-Policy", _policy(form_action, scripts))
        self.set_header("Content-Type", "text/html; charset=utf-8")
        message = self.front_page.supervisor.message
        given = {
            "page": self.front_page.of,
            "t": self.front_page.of.texts,
            "told": () if message is None else (message,),
            "version": self.application.settings["version"],
            "nonce": nonce,
            "has_scripts": self.arrival is not None,
            **values,
        }
        self.finish(_TEMPLATES.get_template(template).render(given))

    def message(self, status: int, problem: str, hint: str = "error_hint", title: str = "", **values: object) -> None:
        """Finish with a plain page that says what is wrong and what to do. All three are names of texts."""
        texts = self.front_page.of.texts
        self.set_status(status)
        shown = texts(title or f"{problem}_title"), texts(problem, **values), texts(hint)
        self.show("message.html", title=shown[0], problem=shown[1], hint=shown[2])

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        problem = {404: "not_found", 405: "not_allowed", 500: "broken"}.get(status_code, "bad_request")
        self.message(status_code, problem, title="not_found_title" if status_code == 405 else "")

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # Tornado's own message would quote the request, and its path is a student's name.
        if not isinstance(value, HTTPError) and typ is not None and value is not None:
            log.error("a request failed", exc_info=(typ, value, tb))

    async def head(self, *arguments: str) -> None:
        await self.get(*arguments)

    async def get(self, *arguments: str) -> None:
        raise HTTPError(405)


class SignIn(Page):
    """The form, and the page after it."""

    _work: asyncio.Task[None] | None = None
    _carried: Mapping[str, str] = MappingProxyType({})
    """Fields that are passed on from form to form to the student's server, which checks them: `keep`, the computer is
    the student's own; `next`, the page that was requested.
    """

    async def get(self, *arguments: str) -> None:
        username = "".join(arguments)
        if username and not USERNAME.fullmatch(username):
            raise HTTPError(404)
        self._carry(self.get_query_argument)
        self.form(username)

    async def post(self, *arguments: str) -> None:
        """The work is a task of its own, so that it ends when the client disconnects."""
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

    def form(self, username: str, *, problem: str = "", is_wrong: bool = False) -> None:
        """`problem` is the name of a text; `is_wrong`: what was typed is the problem."""
        self.show(
            "sign_in.html",
            form_action="'self'",
            username=username,
            problem=problem,
            is_wrong=is_wrong,
            deadlines=self._shown(self.front_page.supervisor.deadlines),
            carried=self._carried,
        )

    def _shown(self, deadlines: Sequence[tuple[str, datetime]]) -> list[ShownDeadline]:
        of = self.front_page.of
        return strip.shown(deadlines, datetime.now(timezone.utc), of.texts, of.time_zone)

    async def _post(self) -> None:
        self._carry(self.get_body_argument)
        token = self.get_body_argument("waiting", "")
        if token:
            username = self.front_page.waiting.redeem(token)
            if username is None:
                self.form("", problem="sign_in_again")
                return
        else:
            username = self.get_body_argument("username", "").lower()
            if not await self._is_right(username, self.get_body_argument("password", "", strip=False)):
                self.set_status(403)
                shown = username if USERNAME.fullmatch(username) else ""
                self.form(shown, problem="wrong_password", is_wrong=True)
                return
        await self._go_on(username)

    async def _is_right(self, username: str, password: str) -> bool:
        address = self.request.remote_ip or ""
        client = self._client(address)
        known_shape = username if USERNAME.fullmatch(username) else ""
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
        """The client for which this request counts. The proxy is trusted about it, as about the address."""
        if not self.front_page.of.routing:
            if self.request.connection is None:
                return self.front_page.clients.at((address, 0), None)
            return visit_of(self.request.connection).client
        ends = _ENDS.fullmatch(self.request.headers.get(CLIENT_ENDS, ""))
        if ends is None:
            return self.front_page.clients.at((address, 0), None)
        return self.front_page.clients.at((address, int(ends["from"])), (ends["host"], int(ends["port"])))

    async def _go_on(self, username: str) -> None:
        """The password was right: lead to the student's server, if it runs."""
        student = self.front_page.of.students.get(username)
        if student is not None and student.is_locked:
            self.message(403, "locked", "locked_hint")
            return
        state = await self._awake(username)
        own = self._shown(await self.front_page.own_deadlines(username))
        told = await self.front_page.supervisor.told(username)
        if self.front_page.of.students.get(username) != student:
            self.form(username, problem="password_changed")
        elif state is ServerState.READY:
            self._open(username, own, told)
        elif state in (ServerState.FAILED, ServerState.STOPPED):
            why = plain_reason(await self.front_page.supervisor.reason(username))
            has_failed, why = state is ServerState.FAILED, f"why_{why}" if why else ""
            self.show("not_running.html", username=username, has_failed=has_failed, why=why, own=own, told=told)
        else:
            token = self.front_page.waiting.issue(username)
            more: dict[str, Any] = {"waiting": token, "own": own, "told": told, "carried": self._carried}
            queue = await self.front_page.supervisor.queue(username) if state is ServerState.QUEUED else None
            if queue is not None:
                more |= {"queue": queue, "starts": self._start_of(queue)}
            self.show("queued.html" if queue else "waiting.html", form_action="'self'", script=True, **more)

    def _start_of(self, queue: Queue) -> str:
        """When the cluster expects to start the server, on the class's clock; empty: it does not say."""
        now, of = datetime.now(timezone.utc), self.front_page.of
        is_known = queue.starts_at is not None and queue.starts_at > now
        return of.texts.moment(queue.starts_at, now, of.time_zone) if queue.starts_at and is_known else ""

    async def _awake(self, username: str) -> ServerState:
        """Wake a sleeping server. Most answer before a page about it would be shown."""
        until = time.monotonic() + WAKING
        state = await self.front_page.supervisor.wake(username)
        while state in (ServerState.ASLEEP, ServerState.STARTING) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN)
            state = await self.front_page.supervisor.state(username)
        return state

    def server_of(self, username: str) -> tuple[str, str]:
        """As ClassPage.server_of, for this visitor."""
        assert self.arrival is not None  # noqa: S101 — `prepare` has refused others
        return self.front_page.of.server_of(username, self.arrival)

    def _ticket(self, username: str, visit: str = "") -> str:
        """`visit` is the name of the teacher's visit."""
        front_page = self.front_page
        if front_page.of.has_sealed_tickets:
            return sealed_tickets.issue(username, front_page.of.students[username].hashed, visit)
        return front_page.tickets.issue(username, visit)

    def _open(self, username: str, own: Sequence[ShownDeadline], told: Sequence[Told]) -> None:
        """Go on at once, unless there is something to read: then the student clicks the button."""
        origin, source = self.server_of(username)
        self.show(
            "opening.html",
            form_action=source,
            script=not own,
            own=own,
            told=told,
            target=f"{origin}/user/{username}/nblauncher/ticket",
            ticket=self._ticket(username),
            carried=self._carried,
        )


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


def _policy(form_action: str = "", scripts: Sequence[str] = ()) -> str:
    """Nothing but our own style and icon; these scripts; forms to one place."""
    script = f" script-src {' '.join(scripts)};" if scripts else ""
    target = form_action or "'none'"
    return (
        f"default-src 'none'; style-src 'self'; img-src 'self';{script} form-action {target}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
