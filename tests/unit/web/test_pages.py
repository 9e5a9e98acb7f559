"""What a visitor gets from the front page, over real HTTP to the application in this process."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from nblauncher.auth import passwords, sealed_tickets
from nblauncher.auth.appearance import Appearance
from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.guesses import Guesses
from nblauncher.auth.texts import Texts
from nblauncher.auth.tickets import TicketBook
from nblauncher.model import Secret, ServerState
from nblauncher.supervisor import jobs
from nblauncher.web import certificate, pages, strip
from nblauncher.web.door import Door, Stage
from nblauncher.web.inputs import ClassPage, Enrolled
from nblauncher.web.pages import FrontPage, application
from nblauncher.web.strip import ShownDeadline
from nblauncher.web.supervisor_link import Admitted, Queue, Told
from nblauncher.web.visits import ROUTES
from tests.fakes import Clock

PASSWORD = "abcd-efgh-jkmn-pqrs"
HASH = passwords.jupyter_hash(Secret(PASSWORD))


class Supervisor:
    """Answers what the test says."""

    def __init__(self) -> None:
        self.answer = ServerState.READY
        self.why = ""
        self.place: Queue | None = None
        self.deadlines: tuple[tuple[str, datetime], ...] = ()
        self.message: Told | None = None
        self.own: tuple[Told, ...] = ()
        self.links: dict[str, str] = {}
        """Digests of the teacher's links, and whose server each opens."""

    async def state(self, username: str) -> ServerState:
        return self.answer

    async def wake(self, username: str) -> ServerState:
        return self.answer

    async def reason(self, username: str) -> str:
        return self.why

    async def queue(self, username: str) -> Queue | None:
        return self.place

    async def told(self, username: str) -> tuple[Told, ...]:
        return (*((self.message,) if self.message else ()), *self.own)

    async def admit(self, digest: str, client: str) -> Admitted | None:
        username = self.links.pop(digest, None)
        return None if username is None else Admitted(username, "0123456789abcdef")


@dataclass
class Visit:
    client: httpx.AsyncClient
    front_page: FrontPage
    supervisor: Supervisor
    port: int
    door: Door
    clock: Clock

    async def sign_in(self, username: str, password: str, **headers: str) -> httpx.Response:
        return await self.client.post("/", data={"username": username, "password": password}, headers=headers)


PEM = ssl.DER_cert_to_PEM_cert(b"DER").encode()


def visit(
    scenario: Callable[[Visit], Awaitable[Any]], *, ca_pem: bytes | None = PEM, has_tls: bool = False, **of_page: Any
) -> Any:
    async def run() -> Any:
        of = ClassPage(
            course="physics101",
            interface="notebook",
            front_port=8000,
            hosts=frozenset({"127.0.0.1", "localhost", "class.example", "::1"}),
            has_tls=has_tls,
            ca_pem=ca_pem,
            ca_fingerprint="AB:CD",
            students={"ada": Enrolled(1, 8001, HASH), "bob": Enrolled(2, 8002, HASH)},
            **{"host": "class.example", **of_page},
        )
        checker = PasswordChecker({name: student.hashed for name, student in of.students.items()})
        supervisor = Supervisor()
        front_page = FrontPage(of, checker, Guesses(), TicketBook(), supervisor)  # type: ignore[arg-type]
        clock = Clock()
        door = Door(application(front_page, {**ROUTES, **certificate.ROUTES}), None, clock=clock)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        door.open([listening])
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                return await asyncio.wait_for(scenario(Visit(client, front_page, supervisor, port, door, clock)), 60)
        finally:
            door.close()
            checker.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(pages, "WAKING", 0.3)


def hidden(response: httpx.Response, name: str) -> str:
    return re.search(rf'name="{name}" value="([^"]*)"', response.text)[1]  # type: ignore[index]


def test_a_name_fills_the_form_whether_or_not_it_exists():
    async def scenario(front: Visit):
        return [await front.client.get(path) for path in ("/ada", "/eve", "/ada/", "/")]

    known, unknown, slash, bare = visit(scenario)
    assert 'value="ada"' in known.text
    assert known.text.replace("ada", "eve") == unknown.text
    assert slash.text == known.text
    assert 'name="username" type="text" value=""' in bare.text
    assert {one.status_code for one in (known, unknown, bare)} == {200}


@pytest.mark.parametrize(
    "path",
    ["/Ada", "/a.b", "/" + "a" * 32, "/a%0ab", "/a/b", "/user/ada/tree", "/static/nothing.css", "/-rf", "/%3Cb%3E"],
)
def test_what_is_not_a_username_is_not_found(path):
    async def scenario(front: Visit):
        return await front.client.get(path)

    response = visit(scenario)
    assert response.status_code == 404
    assert "There is nothing here" in response.text


def test_a_right_password_leads_to_the_students_own_port_on_the_host_they_came_by():
    async def scenario(front: Visit):
        response = await front.client.post(
            "/", data={"username": "bob", "password": PASSWORD}, headers={"Host": "class.example:9"}
        )
        return response, front.front_page.tickets.redeem(hidden(response, "ticket"))

    response, holder = visit(scenario)
    assert 'action="http://class.example:8002/user/bob/nblauncher/ticket"' in response.text
    assert "form-action http://class.example:8002;" in response.headers["Content-Security-Policy"]
    assert holder == "bob"
    nonce = re.search(r'<script nonce="([^"]+)"', response.text)[1]  # type: ignore[index]
    assert f"script-src 'nonce-{nonce}'" in response.headers["Content-Security-Policy"]


def test_that_a_computer_is_the_students_own_goes_along_to_their_server():
    async def scenario(front: Visit):
        form = {"username": "bob", "password": PASSWORD}
        shared = await front.client.post("/", data=form)
        own = await front.client.post("/", data={**form, "keep": "1"})
        wrong = await front.client.post("/", data={**form, "password": "wrong", "keep": "1"})
        front.supervisor.answer = ServerState.STARTING
        waits = await front.client.post("/", data={**form, "keep": "1"})
        front.supervisor.answer = ServerState.READY
        fields = {"waiting": hidden(waits, "waiting"), "keep": hidden(waits, "keep")}
        return shared, own, wrong, await front.client.post("/", data=fields)

    shared, own, wrong, waited = visit(scenario)
    assert 'name="keep"' not in shared.text
    assert [hidden(own, "keep"), hidden(waited, "keep")] == ["1", "1"]
    assert re.search(r'id="keep"[^>]* checked', wrong.text)


@pytest.mark.parametrize("typed", [PASSWORD, PASSWORD.upper(), "abcdefgh jkmnpqrs", f"  {PASSWORD}\t"])
def test_a_password_is_right_however_it_is_spaced(typed):
    async def scenario(front: Visit):
        return await front.sign_in(" Ada ", typed)

    assert visit(scenario).status_code == 200


@pytest.mark.parametrize("typed", ["", "wrong", PASSWORD + "x", "é", "\x00", "x" * 5000, PASSWORD[:-1]])
def test_wrong_passwords_and_unknown_names_get_the_same_answer(typed):
    async def scenario(front: Visit):
        return [await front.sign_in(name, typed) for name in ("ada", "eve")]

    known, unknown = visit(scenario)
    assert known.status_code == unknown.status_code == 403
    assert known.text.replace("ada", "eve") == unknown.text
    assert 'role="alert"' in known.text
    volatile = {"date", "etag"}
    assert {k: v for k, v in known.headers.items() if k not in volatile} == {
        k: v for k, v in unknown.headers.items() if k not in volatile
    }


def test_an_unknown_name_is_never_let_in_and_a_hostile_one_never_echoed():
    async def scenario(front: Visit):
        return [await front.sign_in(name, PASSWORD) for name in ("eve", '"><script>', "", "a" * 100)]

    for response in visit(scenario):
        assert response.status_code == 403
        assert response.text.count("<script") == 1  # page.js


def test_a_right_password_is_answered_while_wrong_ones_wait():
    async def scenario(front: Visit):
        for _ in range(20):
            front.front_page.guesses.wrong("127.0.0.1", "ada")
        wrong = asyncio.ensure_future(front.sign_in("ada", "wrong"))
        right = await front.sign_in("ada", PASSWORD)
        was_waiting = not wrong.done()
        wrong.cancel()
        return right, was_waiting

    right, was_waiting = visit(scenario)
    assert right.status_code == 200
    assert "Opening your notebooks" in right.text
    assert was_waiting


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_sign_in_sent_by_another_page_is_refused_unread(headers):
    async def scenario(front: Visit):
        return await front.sign_in("ada", PASSWORD, **headers), len(front.front_page.tickets)

    response, tickets_out = visit(scenario)
    assert response.status_code == 403
    assert "another page" in response.text
    assert tickets_out == 0


def test_our_own_page_may_sign_in():
    async def scenario(front: Visit):
        return await front.sign_in(
            "ada", PASSWORD, **{"Origin": f"http://127.0.0.1:{front.port}", "Sec-Fetch-Site": "same-origin"}
        )

    assert visit(scenario).status_code == 200


@pytest.mark.parametrize("path", ["/", "/ada", "/ca.pem", "/nowhere/at/all", "/static/page.css"])
def test_an_unknown_host_gets_a_400_that_names_the_key(path):
    async def scenario(front: Visit):
        return await front.client.get(path, headers={"Host": "evil.example:8000"})

    response = visit(scenario)
    assert response.status_code == 400
    assert "web.names" in response.text
    assert "evil.example:8000" in response.text


PATHS = ("/", "/ada", "/nowhere/at/all", "/ca.html", "/ca.pem", "/ca.crt", "/static/page.js", "/Ada")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_every_answer_carries_the_headers_and_none_that_stays(path, method):
    async def scenario(front: Visit):
        return await front.client.request(method, path)

    headers = visit(scenario).headers
    assert headers["Server"] == "nblauncher"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "strict-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert path.startswith("/static/") or headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers
    assert "Strict-Transport-Security" not in headers


def test_the_certificate_is_offered_with_its_fingerprint():
    async def scenario(front: Visit):
        return [await front.client.get(path) for path in ("/ca.pem", "/ca.crt", "/ca.html", "/")]

    file, for_windows, page, form = visit(scenario)
    assert file.content == for_windows.content == PEM
    assert file.headers["Content-Type"] == "application/x-x509-ca-cert"
    assert file.headers["Content-Disposition"] == "attachment; filename=physics101-ca.pem"
    assert for_windows.headers["Content-Disposition"] == "attachment; filename=physics101-ca.crt"
    assert "<span>AB</span>:<wbr><span>CD</span>" in page.text
    assert hashlib.sha1(b"DER").hexdigest() in page.text  # as Windows shows it
    assert 'href="/ca.html"' in form.text


def test_the_certificate_vouches_for_no_address_of_the_visitors_own_computer():
    async def scenario(front: Visit):
        return (await front.client.get("/ca.html")).text

    page = visit(scenario)
    assert "(<code>class.example</code>)" in page
    assert "127.0.0.1" not in page and "localhost" not in page
    assert certificate.reachable({"127.0.0.1", "localhost"}, "localhost") == ["localhost", "127.0.0.1"]  # none other


@pytest.mark.parametrize(
    ("agent", "system"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0 Edg/120.0", "windows"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:121.0) Gecko/20100101 Firefox/121.0", "firefox"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.1 Safari/605.1.15", "macos"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36", "linux"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36", "chromebook"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1", "ios"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:121.0) Gecko/121.0 Firefox/121.0", "android"),
        ("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36", "android"),
        ("curl/8.5", ""),
        ("", ""),
        ("\u202e<script>" * 1000, ""),
    ],
)
def test_the_steps_for_the_visitors_own_system_are_open(agent, system):
    async def scenario(front: Visit):
        return (await front.client.get("/ca.html", headers={"User-Agent": agent.encode("utf-8")})).text

    page = visit(scenario)
    assert re.findall(r'<details id="(\w+)" open>', page) == ([system] if system else [])
    assert re.findall(r'<details id="(\w+)"', page) == list(certificate.SYSTEMS)


def test_without_a_class_ca_none_is_offered():
    async def scenario(front: Visit):
        return [await front.client.get(path) for path in ("/ca.pem", "/ca.html", "/")]

    file, page, form = visit(scenario, ca_pem=None)
    assert (file.status_code, page.status_code) == (404, 404)
    assert "ca.html" not in form.text


def test_a_starting_server_is_waited_for_without_typing_the_password_again():
    async def scenario(front: Visit):
        front.supervisor.answer = ServerState.STARTING
        first = await front.sign_in("ada", PASSWORD)
        second = await front.client.post("/", data={"waiting": hidden(first, "waiting")})
        front.supervisor.answer = ServerState.READY
        third = await front.client.post("/", data={"waiting": hidden(second, "waiting")})
        again = await front.client.post("/", data={"waiting": hidden(second, "waiting")})
        return first, second, third, again

    first, second, third, again = visit(scenario)
    assert "are starting" in first.text
    assert "are starting" in second.text
    assert "/user/ada/nblauncher/ticket" in third.text
    assert "sign in again" in again.text
    assert "ticket" not in again.text


@pytest.mark.parametrize("state", [ServerState.UNKNOWN, ServerState.ASLEEP])
def test_what_may_still_become_ready_is_waited_for(state):
    async def scenario(front: Visit):
        front.supervisor.answer = state
        return await front.sign_in("ada", PASSWORD)

    assert "are starting" in visit(scenario).text


def test_a_sleeping_server_is_woken_without_a_page_about_it():
    async def scenario(front: Visit):
        async def wake(username: str) -> ServerState:
            asyncio.get_running_loop().call_later(0.05, setattr, front.supervisor, "answer", ServerState.READY)
            return ServerState.ASLEEP

        front.supervisor.answer = ServerState.STARTING
        front.supervisor.wake = wake
        return await front.sign_in("ada", PASSWORD)

    assert "/user/ada/nblauncher/ticket" in visit(scenario).text


@pytest.mark.parametrize("state", [ServerState.FAILED, ServerState.STOPPED])
def test_a_server_that_is_down_is_a_matter_for_the_teacher(state):
    async def scenario(front: Visit):
        front.supervisor.answer = state
        return await front.sign_in("ada", PASSWORD), len(front.front_page.tickets)

    response, tickets_out = visit(scenario)
    assert "tell your teacher" in response.text
    assert tickets_out == 0


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (ServerState.STOPPED, "it was shut down", "was stopped. Your teacher stopped it."),
        (ServerState.STOPPED, "it ended by itself", "was stopped. It ended by itself."),
        (ServerState.FAILED, "it did not answer in time", "could not be started. It did not answer in time."),
        (
            ServerState.FAILED,
            "killed by SIGKILL, because memory ran out; it was started again 5 times within a minute and stays down",
            "could not be started. The memory ran out.",
        ),
        (
            ServerState.FAILED,
            "exit status 1; it was started again 5 times within a minute and stays down",
            "could not be started. It ended again and again.",
        ),
        (ServerState.FAILED, "<b>/home/ada/.jupyter</b>", "could not be started."),
    ],
)
def test_a_student_is_told_in_plain_words_why_the_server_is_down(state, reason, words):
    async def scenario(front: Visit):
        front.supervisor.answer, front.supervisor.why = state, reason
        return (await front.sign_in("ada", PASSWORD)).text

    page = visit(scenario)
    assert words in page and "<b>/home" not in page


def test_plain_http_to_a_tls_class_is_sent_to_https_and_nowhere_else():
    async def scenario(front: Visit):
        return [
            await front.client.get("/ada?x=1"),
            await front.client.get(
                f"http://127.0.0.1:{front.port}//evil.example/", headers={"Host": "class.example:8000"}
            ),
            await front.sign_in("ada", PASSWORD),
            await front.client.get("/", headers={"Host": "evil.example"}),
            front.port,
        ]

    plain, double_slash, posted, foreign, port = visit(scenario, has_tls=True)
    assert plain.headers["Location"] == f"https://127.0.0.1:{port}/ada?x=1"
    assert double_slash.headers["Location"] == "https://class.example:8000//evil.example/"
    assert (plain.status_code, posted.status_code, foreign.status_code) == (303, 303, 400)
    assert "ticket" not in posted.text


def test_a_body_beyond_the_limit_is_not_read():
    async def scenario(front: Visit):
        try:
            return (await front.sign_in("ada", "x" * 100_000)).status_code
        except httpx.TransportError:
            return "disconnected"

    assert visit(scenario) in (400, 413, "disconnected")


def test_no_log_line_names_a_student(caplog):
    caplog.set_level(logging.DEBUG, logger="nblauncher")
    caplog.set_level(logging.DEBUG, logger="tornado")

    async def scenario(front: Visit):
        for _ in range(3):
            front.front_page.guesses.wrong("127.0.0.1", "ada")
        await front.client.get("/ada")
        await front.sign_in("ada", "wrong-password")
        await front.sign_in("ada", PASSWORD)

    visit(scenario)
    assert "wrong guesses from 127.0.0.1" in caplog.text
    assert "ada" not in caplog.text
    assert "wrong-password" not in caplog.text
    assert PASSWORD not in caplog.text


def test_a_client_that_goes_away_leaves_nothing_behind():
    async def scenario(front: Visit):
        for _ in range(20):
            front.front_page.guesses.wrong("127.0.0.1", "ada")
        with pytest.raises(httpx.ReadTimeout):
            await front.client.post("/", data={"username": "ada", "password": "wrong"}, timeout=0.5)
        while len(front.door):
            await asyncio.sleep(0.01)
        return [task for task in asyncio.all_tasks() if "_post" in repr(task)]

    assert visit(scenario) == []


class Raw:
    """A connection that says what a test makes it say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    def say(self, words: bytes) -> None:
        self._writer.write(words)

    async def status(self) -> bytes:
        """Of the answer; nothing when the connection was ended."""
        try:
            return (await asyncio.wait_for(self.reader.readline(), 30)).partition(b" ")[2][:3]
        except ConnectionResetError:
            return b""


async def connected(front: Visit, count: int) -> list[Raw]:
    """Open so many more connections; each is let in, even if it is ended later."""
    several = [Raw(*await asyncio.open_connection("127.0.0.1", front.port)) for _ in range(count)]
    await front.client.get("/")
    return several


FIRST_HALF, SECOND_HALF = b"GET / HTTP/1.1\r\n", b"Host: localhost\r\n\r\n"


def test_a_new_silent_connection_is_served_however_many_come_after_it():
    async def scenario(front: Visit):
        front.door._max_per_address = 5
        first, *_others = await connected(front, 31)
        first.say(FIRST_HALF + SECOND_HALF)
        return await first.status()

    assert visit(scenario) == b"200"


def test_a_whole_address_cannot_take_more_than_its_share_and_the_longest_silent_goes_first():
    async def scenario(front: Visit):
        front.door._max_per_address = 5
        silent = await connected(front, 20)
        front.clock.now += 3
        await connected(front, 1)
        count = len(front.door)
        silent[-1].say(FIRST_HALF + SECOND_HALF)
        return count, [await one.status() for one in (silent[0], silent[-1])]

    assert visit(scenario) == (5, [b"", b"200"])


def test_one_that_says_something_now_and_then_is_spared():
    async def scenario(front: Visit):
        front.door._max_per_address = 5
        speaking, silent, *_others = await connected(front, 4)
        front.clock.now += 1.9
        speaking.say(FIRST_HALF)
        await front.client.get("/")
        front.clock.now += 1.1
        await connected(front, 1)
        speaking.say(SECOND_HALF)
        return [await one.status() for one in (silent, speaking)]

    assert visit(scenario) == [b"", b"200"]


def test_among_new_connections_the_silent_ones_make_room_first():
    async def scenario(front: Visit):
        front.door._max_connections = 10
        speaking, *_others = await connected(front, 5)
        speaking.say(FIRST_HALF)
        await front.client.get("/")
        *_others, last = await connected(front, 30)
        count = len(front.door)
        speaking.say(SECOND_HALF)
        last.say(FIRST_HALF + SECOND_HALF)
        return count, [await one.status() for one in (speaking, last)]

    assert visit(scenario) == (10, [b"200", b"200"])


@pytest.mark.parametrize("names", [["bob"] * 5, ["ada"] * 5, ["a", "b", "c", "d", "e"]], ids=["one", "own", "many"])
def test_waiting_guesses_do_not_keep_clients_of_the_same_address_out(names):
    async def scenario(front: Visit):
        front.door._max_per_address = 5
        for name in names * 100:
            front.front_page.guesses.wrong("127.0.0.1", name)
        waiting = [asyncio.ensure_future(front.sign_in(name, "wrong")) for name in names]
        while [visit.stage for each in front.door._visits.values() for visit in each] != [Stage.DELAYED] * 5:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=front.client.base_url) as honest:
            answer = await honest.post("/", data={"username": "ada", "password": PASSWORD})
        for one in waiting:
            one.cancel()
        return answer

    answer = visit(scenario)
    assert answer.status_code == 200 and "Opening your notebooks" in answer.text


def test_the_next_deadlines_are_shown_and_past_ones_are_not():
    now = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
    times = [("ps1", now - timedelta(hours=1)), ("ps3", now + timedelta(days=1)), ("", now + timedelta(hours=1))]
    told = strip.shown(times, now, Texts("en"), "Europe/Berlin")
    assert told == [
        ShownDeadline("", "Friday 27 November, 14:00", 3600.0),
        ShownDeadline("ps3", "Saturday 28 November, 13:00", 86400.0),
    ]
    many = [("x", now + timedelta(hours=one)) for one in range(1, 9)]
    assert len(strip.shown(many, now, Texts("en"), "")) == 3


def test_a_student_with_more_time_sees_that_after_signing_in_and_no_other_student_does():
    later = datetime.now(timezone.utc) + timedelta(days=1)
    asked: list[str] = []

    async def own_deadlines(username: str) -> list[tuple[str, datetime]]:
        asked.append(username)
        return [("ps1", later)] if username == "bob" else []

    async def scenario(front: Visit):
        front.front_page.own_deadlines = own_deadlines
        unproven = [await front.client.get("/bob"), await front.sign_in("bob", "wrong")]
        assert asked == []
        ada, bob = [await front.sign_in(name, PASSWORD) for name in ("ada", "bob")]
        front.supervisor.answer = ServerState.FAILED
        failed = await front.sign_in("bob", PASSWORD)
        return unproven, ada, bob, failed

    unproven, ada, bob, failed = visit(scenario)
    when = Texts("en").moment(later, datetime.now(timezone.utc))
    assert all("own-deadlines" not in page.text and when not in page.text for page in (*unproven, ada))
    assert "submit()" in ada.text
    for page in (bob, failed):
        assert "Your own deadline for ps1" in page.text and when in page.text and "23 h 59 min left" in page.text
    assert "submit()" not in bob.text and "Open my notebooks" in bob.text  # there is something to read


HOSTILE = "<b>&amp; {{ 77 * 77 }} {username} **bold** `code`</b><script>x</script>"


def test_what_the_teacher_writes_on_the_pages_is_text_and_never_markup():
    look = Appearance(HOSTILE, "fr", {"sign_in_heading": HOSTILE, "contact": "{contact} " + HOSTILE})

    async def scenario(front: Visit):
        front.supervisor.deadlines = ((HOSTILE, datetime.now(timezone.utc) + timedelta(days=1)),)
        return await front.client.get("/")

    page = visit(scenario, appearance=look, greeting=f"one\ntwo {HOSTILE}", contact=HOSTILE)
    assert "<b>&amp;" not in page.text and "<script>x" not in page.text and "5929" not in page.text
    assert page.text.count("&lt;script&gt;x") == 7  # title twice, greeting, heading, contact twice, folder
    assert 'lang="fr"' in page.text and ">one\ntwo &lt;b&gt;" in page.text
    assert "script-src http://127.0.0.1:" in page.headers["Content-Security-Policy"]


def test_a_german_class_speaks_german_on_every_page():
    async def scenario(front: Visit):
        front.supervisor.deadlines = (("ps1", datetime(2100, 3, 5, 16, tzinfo=timezone.utc)),)
        shown = [await front.client.get(path) for path in ("/", "/ca.html", "/nowhere/at/all")]
        shown += [await front.sign_in("ada", "wrong"), await front.sign_in("ada", PASSWORD)]
        for state in (ServerState.STARTING, ServerState.STOPPED, ServerState.FAILED):
            front.supervisor.answer = state
            shown.append(await front.sign_in("ada", PASSWORD))
        shown.append(await front.sign_in("ada", PASSWORD, Origin="null"))
        return [page.text for page in shown]

    look = Appearance("Physik", "de")
    texts = visit(scenario, appearance=look, greeting="Willkommen", contact="Kim", time_zone="Europe/Berlin")
    assert "Abgabefrist für ps1: <b>Freitag, 5. März 2100, 17:00 Uhr</b>" in texts[0]
    for page in texts:
        assert '<html lang="de" dir="ltr">' in page
        words = set(re.findall(r"\b(?:the|you|your|and|this|sign|teacher)\b", re.sub(r"<[^>]*>", " ", page), re.I))
        assert words == set(), words


def test_a_wrong_password_says_which_password_is_meant_and_marks_the_fields():
    async def scenario(front: Visit):
        return (await front.client.get("/ada")).text, (await front.sign_in("ada", "wrong")).text

    fresh, wrong = visit(scenario)
    assert "aria-invalid" not in fresh
    assert "<b>notebook password</b>" in wrong and "system password" in wrong
    fields = re.findall(r"<input id=\"(\w+)\"[^>]*aria-invalid=\"true\"\s+aria-describedby=\"problem", wrong)
    assert fields == ["username", "password"]


def test_a_stopped_server_is_a_notice_and_not_an_alarm():
    async def scenario(front: Visit):
        front.supervisor.answer = ServerState.STOPPED
        return (await front.sign_in("ada", PASSWORD)).text

    page = visit(scenario)
    assert 'class="notice"' in page and "problem" not in page and 'role="alert"' not in page


def test_utc_is_said_only_when_nobody_named_the_class_clock():
    at = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
    assert Texts("en").moment(at, at, "Europe/Berlin") == "Friday 27 November, 13:00"
    assert Texts("en").moment(at, at - timedelta(days=300), "UTC") == "Friday 27 November 2026, 12:00"
    assert Texts("en").moment(at, at).endswith("(UTC)") == (at.astimezone().tzname() == "UTC")
    assert Texts("en").moment(at, at, "Gone/Zone") == Texts("en").moment(at, at)


MARKUP = "<b>Five</b> minutes & <script>alert(1)</script>"


def test_the_teachers_message_is_on_every_page_as_text():
    async def scenario(front: Visit):
        front.supervisor.message = Told(MARKUP)
        return [
            await front.client.get(path) for path in ("/", "/ada", "/eve", "/ca.html", "/open.html", "/nothing/here")
        ]

    for response in visit(scenario):
        assert "&lt;b&gt;Five&lt;/b&gt; minutes &amp; &lt;script&gt;" in response.text
        assert "<b>Five" not in response.text and "alert(1)</script>" not in response.text


def test_a_message_to_one_student_is_seen_by_that_student_after_signing_in():
    async def scenario(front: Visit):
        front.supervisor.own = (Told("come to my desk"),)
        found = [await front.client.get("/ada"), await front.sign_in("ada", "wrong")]
        for state in (ServerState.READY, ServerState.STOPPED, ServerState.ASLEEP):
            front.supervisor.answer = state
            found.append(await front.sign_in("ada", PASSWORD))
        return found

    assert ["come to my desk" in response.text for response in visit(scenario)] == [False, False, True, True, True]


def link(front: Visit, username: str) -> str:
    secret = "A" * 22
    front.supervisor.links[hashlib.sha256(secret.encode()).hexdigest()] = username
    return secret


def test_a_link_opens_one_students_server_once():
    async def scenario(front: Visit):
        page = await front.client.get("/open.html")
        secret = link(front, "ada")
        first = await front.client.post("/open.html", data={"link": secret})
        again = await front.client.post("/open.html", data={"link": secret})
        return page, first, again, front.front_page.tickets.take(hidden(first, "ticket"))

    page, first, again, entry = visit(scenario)
    assert page.status_code == 200 and "form-action 'self'" in page.headers["content-security-policy"]
    assert (entry.username, entry.visit) == ("ada", "0123456789abcdef")
    assert 'action="http://127.0.0.1:8001/user/ada/nblauncher/ticket"' in first.text
    assert again.status_code == 403 and "ada" not in again.text


def test_a_link_waits_for_a_server_that_starts():
    async def scenario(front: Visit):
        front.supervisor.answer = ServerState.STARTING
        waiting = await front.client.post("/open.html", data={"link": link(front, "ada")})
        front.supervisor.answer = ServerState.READY
        opened = await front.client.post("/open.html", data={"waiting": hidden(waiting, "waiting")})
        used = await front.client.post("/open.html", data={"waiting": hidden(waiting, "waiting")})
        return opened, used, front.front_page.tickets.take(hidden(opened, "ticket"))

    _opened, used, entry = visit(scenario)
    assert entry.visit == "0123456789abcdef" and used.status_code == 403


def test_a_teachers_waiting_token_is_not_a_students_and_the_other_way_round():
    async def scenario(front: Visit):
        front.supervisor.answer = ServerState.STARTING
        teachers = await front.client.post("/open.html", data={"link": link(front, "ada")})
        students = await front.sign_in("ada", PASSWORD)
        crossed = await front.client.post("/", data={"waiting": hidden(teachers, "waiting")})
        other = await front.client.post("/open.html", data={"waiting": hidden(students, "waiting")})
        return crossed, other

    crossed, other = visit(scenario)
    assert "took too long" in crossed.text and other.status_code == 403


@pytest.mark.parametrize("text", ["", "B" * 22, "x", "A" * 23, "é" * 22])
def test_what_is_not_a_link_opens_nothing(text):
    async def scenario(front: Visit):
        link(front, "ada")
        return await front.client.post("/open.html", data={"link": text})

    response = visit(scenario)
    assert response.status_code == 403 and "ticket" not in response.text


def test_guessed_links_are_answered_slower_and_slower():
    async def scenario(front: Visit):
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            await front.client.post("/open.html", data={"link": "C" * 22})
        return asyncio.get_running_loop().time() - began

    assert visit(scenario) > 2.5


def test_another_site_cannot_use_a_link():
    async def scenario(front: Visit):
        secret = link(front, "ada")
        return await front.client.post("/open.html", data={"link": secret}, headers={"Origin": "https://evil.example"})

    assert visit(scenario).status_code == 403


@pytest.mark.parametrize("kind", sorted({"other", *jobs._KINDS.values()}))
def test_a_student_in_the_clusters_queue_is_told_the_place_and_why(kind):
    async def scenario(front: Visit):
        front.supervisor.answer = ServerState.QUEUED
        start = datetime.now(timezone.utc) + timedelta(minutes=20)
        front.supervisor.place = Queue(3, kind, start if kind == "room" else None)
        queued = await front.sign_in("ada", PASSWORD)
        front.supervisor.answer = ServerState.READY
        return queued, await front.client.post("/", data={"waiting": hidden(queued, "waiting")})

    queued, ready = visit(scenario)
    english = Texts("en", {})
    assert "at place 3 in the queue" in queued.text and english.plain(f"queued_{kind}") in queued.text
    assert ("should start" in queued.text) == (kind == "room")
    assert 'getElementById("onward").submit()' in queued.text
    assert hidden(ready, "ticket")


def test_a_link_to_a_server_on_a_node_names_the_visit_in_the_ticket():
    async def scenario(front: Visit):
        return hidden(await front.client.post("/open.html", data={"link": link(front, "ada")}), "ticket")

    ticket = visit(scenario, has_sealed_tickets=True)
    admission = sealed_tickets.Redeemed(lambda: int(ticket[:8], 16)).redeem("ada", HASH, ticket)
    assert admission is not None and admission.visit


def test_a_ticket_for_a_server_on_a_node_is_signed_for_that_student():
    async def scenario(front: Visit):
        return hidden(await front.sign_in("ada", PASSWORD), "ticket")

    ticket = visit(scenario, has_sealed_tickets=True)
    server = sealed_tickets.Redeemed(lambda: int(ticket[:8], 16))
    assert server.redeem("ada", HASH, ticket) and not server.redeem("bob", HASH, ticket)
