"""What a visitor gets from the front page, over real HTTP to the application in this process."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from nblauncher import passwords
from nblauncher.model import Secret, ServerState
from nblauncher.tickets import TicketBook
from nblauncher.web import pages
from nblauncher.web.checker import PasswordChecker
from nblauncher.web.door import Door, Stage
from nblauncher.web.guesses import Guesses
from nblauncher.web.inputs import ClassPage, Enrolled
from nblauncher.web.pages import FrontPage, application
from tests.fakes import Clock

PASSWORD = "abcd-efgh-jkmn-pqrs"
HASH = passwords.jupyter_hash(Secret(PASSWORD))


class Supervisor:
    """Answers what the test says."""

    def __init__(self) -> None:
        self.answer = ServerState.READY
        self.why = ""
        self.deadlines: tuple[tuple[str, datetime], ...] = ()

    async def state(self, username: str) -> ServerState:
        return self.answer

    async def wake(self, username: str) -> ServerState:
        return self.answer

    async def reason(self, username: str) -> str:
        return self.why


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


def visit(scenario: Callable[[Visit], Awaitable[Any]], *, ca_pem: bytes | None = b"PEM", has_tls: bool = False) -> Any:
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
        )
        checker = PasswordChecker({name: student.hashed for name, student in of.students.items()})
        supervisor = Supervisor()
        front_page = FrontPage(of, checker, Guesses(), TicketBook(), supervisor)  # type: ignore[arg-type]
        clock = Clock()
        door = Door(application(front_page), None, clock=clock)
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

    known, unknown, slash, nobody = visit(scenario)
    assert 'value="ada"' in known.text
    assert known.text.replace("ada", "eve") == unknown.text
    assert slash.text == known.text
    assert 'name="username" type="text" value=""' in nobody.text
    assert {one.status_code for one in (known, unknown, nobody)} == {200}


@pytest.mark.parametrize(
    "path",
    ["/Ada", "/a.b", "/" + "a" * 32, "/a%0ab", "/a/b", "/user/ada/tree", "/static/nothing.css", "/-rf", "/%3Cb%3E"],
)
def test_what_is_no_username_is_not_found(path):
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
        assert "<script" not in response.text


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
def test_a_sign_in_sent_by_another_page_is_refused_unheard(headers):
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


PATHS = ("/", "/ada", "/nowhere/at/all", "/ca.html", "/ca.pem", "/static/page.css", "/Ada")


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
        return [await front.client.get(path) for path in ("/ca.pem", "/ca.html", "/")]

    file, page, form = visit(scenario)
    assert file.content == b"PEM"
    assert file.headers["Content-Type"] == "application/x-x509-ca-cert"
    assert file.headers["Content-Disposition"] == "attachment; filename=physics101-ca.pem"
    assert "<span>AB</span>:<wbr><span>CD</span>" in page.text
    assert 'href="/ca.html"' in form.text


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


def test_a_server_that_sleeps_is_woken_and_nobody_sees_a_page_about_it():
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
        (ServerState.STOPPED, "it was shut down", "was stopped by your teacher."),
        (ServerState.STOPPED, "it ended by itself", "was stopped because it ended by itself."),
        (ServerState.FAILED, "it did not answer in time", "could not be started because it did not answer in time."),
        (
            ServerState.FAILED,
            "killed by SIGKILL, because memory ran out; it was started again 5 times within a minute and stays down",
            "could not be started because the memory ran out.",
        ),
        (
            ServerState.FAILED,
            "exit status 1; it was started again 5 times within a minute and stays down",
            "could not be started because it ended again and again.",
        ),
        (ServerState.FAILED, "<b>/home/ada/.jupyter</b>", "could not be started."),
    ],
)
def test_a_student_is_told_in_plain_words_why_the_server_is_down(state, reason, words):
    async def scenario(front: Visit):
        front.supervisor.answer, front.supervisor.why = state, reason
        return (await front.sign_in("ada", PASSWORD)).text

    page = visit(scenario)
    assert words in page and "<b>" not in page


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
    """So many more, of whom each is in, or was."""
    several = [Raw(*await asyncio.open_connection("127.0.0.1", front.port)) for _ in range(count)]
    await front.client.get("/")
    return several


FIRST_HALF, SECOND_HALF = b"GET / HTTP/1.1\r\n", b"Host: localhost\r\n\r\n"


def test_one_that_has_just_come_and_is_silent_is_heard_whoever_comes_after_it():
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


def test_where_all_have_just_come_the_silent_make_room_before_those_who_speak():
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
def test_guesses_that_wait_keep_nobody_of_the_same_address_out(names):
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


def test_the_next_deadlines_are_told_and_those_that_are_past_are_not():
    now = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
    times = [("ps1", now - timedelta(hours=1)), ("ps3", now + timedelta(days=1)), ("", now + timedelta(hours=1))]
    told = pages.deadlines_words(times, now)
    assert [folder for folder, _when in told] == ["", "ps3"]
    assert all(re.search(r"2026, \d\d:00 \(", when) for _folder, when in told)
    assert len(pages.deadlines_words([("x", now + timedelta(hours=one)) for one in range(1, 9)], now)) == 3


def test_who_has_more_time_is_told_after_signing_in_and_nobody_else_is():
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
    when = f"{later.astimezone():%A %-d %B %Y, %H:%M}"
    assert all("own-deadlines" not in page.text and when not in page.text for page in (*unproven, ada))
    assert "submit()" in ada.text
    for page in (bob, failed):
        assert "Your own deadline for ps1" in page.text and when in page.text
    assert "submit()" not in bob.text and "Open my notebooks" in bob.text  # there is something to read
