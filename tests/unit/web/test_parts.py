"""The pure parts of the front page: guesses, turns, how a visitor came."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading

import pytest

from nblauncher.auth.checker import PasswordChecker
from nblauncher.auth.guesses import WINDOW, Guesses, address_group
from nblauncher.model import ServerState
from nblauncher.system import tcp_diag
from nblauncher.system.clients import HERE, Clients, share_of
from nblauncher.system.descriptors import read_and_close
from nblauncher.web.inputs import ClassPage, Enrolled, parse_config, render_config
from nblauncher.web.supervisor_link import SupervisorLink
from nblauncher.web.visitors import arrival, form_target, is_foreign
from tests.fakes import Clock

HOSTS = frozenset({"class.example", "localhost", "192.0.2.7", "::1", "2001:db8::7"})


def test_from_the_fourth_wrong_guess_each_is_answered_a_second_later_ten_at_most():
    guesses = Guesses(clock=Clock())
    delays = [guesses.wrong("192.0.2.1", "ada") for _ in range(16)]
    assert delays == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_a_neighbour_and_another_name_are_not_delayed():
    guesses = Guesses(clock=Clock())
    for _ in range(20):
        guesses.wrong("192.0.2.1", "ada")
    assert guesses.wrong("192.0.2.1", "bob") == 0
    assert guesses.wrong("192.0.2.2", "ada") == 0


def test_guesses_are_forgotten_after_five_minutes():
    clock = Clock()
    guesses = Guesses(clock=clock)
    for _ in range(10):
        guesses.wrong("192.0.2.1", "ada")
    clock.now += WINDOW
    assert guesses.wrong("192.0.2.1", "ada") == 0


def test_many_addresses_or_names_slow_down_all_wrong_guesses():
    guesses = Guesses(clock=Clock())
    delays = [guesses.wrong(f"192.0.2.{number % 250}", f"n{number}") for number in range(4000)]
    assert (delays[298], delays[299], delays[599], delays[-1]) == (0, 1, 2, 10)


def test_hostile_names_do_not_fill_the_memory():
    guesses = Guesses(clock=Clock(), max_keys=50)
    for number in range(500):
        guesses.wrong("192.0.2.1", f"n{number}")
    assert len(guesses) == 50


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("0.0.0.0", "0.0.0.0"),
        ("nonsense", "nonsense"),
    ],
)
def test_one_machine_is_one_address(address, group):
    assert address_group(address) == group


class Gate:
    """Verifies when it is told to, and remembers in which order."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.seen: list[str] = []

    def __call__(self, typed: str, hashed: str) -> bool:
        assert self.open.wait(30)
        self.seen.append(typed)
        return typed == hashed


async def asked(checker: PasswordChecker, *questions: tuple[str, str, str]) -> list[asyncio.Task[bool]]:
    tasks = []
    for question in questions:
        tasks.append(asyncio.ensure_future(checker.is_right(*question)))
        await asyncio.sleep(0)
    return tasks


def test_addresses_take_turns_and_so_do_names():
    async def scenario() -> list[str]:
        gate = Gate()
        checker = PasswordChecker({}, threads=1, verify=gate)
        flood = [("192.0.2.66", "ada", f"flood{number}") for number in range(5)]
        tasks = await asked(
            checker,
            ("192.0.2.66", "ada", "first"),
            *flood,
            ("192.0.2.66", "bob", "same address, other name"),
            ("192.0.2.1", "ada", "other address"),
        )
        gate.open.set()
        await asyncio.gather(*tasks)
        checker.close()
        return gate.seen

    order = asyncio.run(scenario())
    assert order[:4] == ["first", "flood0", "other address", "same address, other name"]
    assert order[4:] == ["flood1", "flood2", "flood3", "flood4"]


def test_an_unknown_name_is_checked_like_a_known_one_and_never_right():
    async def scenario() -> tuple[list[bool], list[str]]:
        seen = []

        def verify(typed: str, hashed: str) -> bool:
            seen.append(hashed)
            return True

        checker = PasswordChecker({"ada": "argon2:hers"}, verify=verify)
        answers = [await checker.is_right("192.0.2.1", name, "x") for name in ("ada", "nobody", "")]
        checker.close()
        return answers, seen

    answers, seen = asyncio.run(scenario())
    assert answers == [True, False, False]
    assert seen[0] == "argon2:hers"
    assert seen[1] == seen[2]
    assert seen[1].startswith("argon2:$argon2id$")


def test_a_check_whose_client_went_away_is_dropped():
    async def scenario() -> list[str]:
        gate = Gate()
        checker = PasswordChecker({}, threads=1, verify=gate)
        tasks = await asked(checker, ("a", "n", "running"), ("a", "n", "gone"), ("a", "n", "stays"))
        tasks[1].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        checker.close()
        return gate.seen

    assert asyncio.run(scenario()) == ["running", "stays"]


def test_a_bug_in_a_check_reaches_its_own_request_only():
    async def scenario() -> list[object]:
        def verify(typed: str, hashed: str) -> bool:
            if typed == "bad":
                raise ValueError("not a hash")
            return typed == hashed

        checker = PasswordChecker({"ada": "right"}, verify=verify)
        answers = await asyncio.gather(
            checker.is_right("a", "ada", "bad"), checker.is_right("a", "ada", "right"), return_exceptions=True
        )
        checker.close()
        return list(answers)

    first, second = asyncio.run(scenario())
    assert isinstance(first, ValueError)
    assert second is True


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("class.example", "class.example"),
        ("CLASS.example.:8000", "class.example"),
        ("192.0.2.7:1", "192.0.2.7"),
        ("[::1]:8000", "::1"),
        ("[2001:DB8:0:0::7]", "2001:db8::7"),
    ],
)
def test_our_own_hosts_are_known_in_every_spelling(header, host):
    came = arrival(header, HOSTS)
    assert came is not None
    assert came.host == host


@pytest.mark.parametrize(
    "header",
    [
        *(
            None,
            "",
            "evil.example",
            "class.example.evil",
            "class.example:",
            "class.example:8000:1",
            "::1",
            "[::1",
            "[]",
        ),
        *("class.example\n", "class.example:99999999", "a@class.example", "class.example/", "localhost,class.example"),
    ],
)
def test_any_other_host_is_not(header):
    assert arrival(header, HOSTS) is None


OWN = "https://class.example:8000"


@pytest.mark.parametrize(
    ("origin", "site", "verdict"),
    [
        (None, None, False),
        (OWN, "same-origin", False),
        (OWN, None, False),
        (None, "none", False),
        ("null", None, True),
        ("https://class.example:8001", "same-site", True),
        ("https://class.example:8001", None, True),
        ("http://class.example:8000", None, True),
        ("https://evil.example", "cross-site", True),
        (None, "cross-site", True),
        (None, "same-site", True),
        ("", None, True),
    ],
)
def test_a_request_made_by_another_site_is_foreign(origin, site, verdict):
    assert is_foreign(origin, site, OWN) is verdict


def test_forms_go_to_one_origin_where_csp_can_say_so():
    assert form_target("https", "class.example", 8001) == "https://class.example:8001"
    assert form_target("https", "::1", 8001) == "https:"


def test_descriptors_are_read_whole_and_closed():
    descriptor = os.memfd_create("test")
    os.write(descriptor, b"x" * 3_000_000)
    assert read_and_close(descriptor) == b"x" * 3_000_000
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_config_arrives_as_it_was_sent_and_shows_no_hash():
    page = ClassPage(
        course="physics101",
        interface="lab",
        front_port=8000,
        hosts=HOSTS,
        has_tls=True,
        ca_pem=b"PEM",
        ca_fingerprint="AB:CD",
        students={"ada": Enrolled(20000, 8001, "argon2:x")},
    )
    assert parse_config(render_config(page)) == page
    assert "argon2" not in repr(page)


def linked(scenario):
    """Run `scenario(link, their_end)` with a supervisor's end in the test's hands."""

    async def run():
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        link = await SupervisorLink.over(ours)
        try:
            return await asyncio.wait_for(scenario(link, reader, writer), 30)
        finally:
            writer.close()
            await link.close()

    return asyncio.run(run())


def test_the_supervisors_answers_find_their_questions():
    async def scenario(link, reader, writer):
        questions = [asyncio.ensure_future(link.state(name)) for name in ("ada", "bob")]
        asked = [json.loads(await reader.readline()) for _ in questions]
        for question, state in zip(reversed(asked), ("failed", "ready"), strict=True):
            writer.write(b'nonsense\n[]\n{"id": 99, "state": "ready"}\n')
            writer.write(json.dumps({"id": question["id"], "state": state}).encode() + b"\n")
        return await asyncio.gather(*questions)

    assert linked(scenario) == [ServerState.READY, ServerState.FAILED]


def test_a_reason_comes_with_the_state():
    async def scenario(link, reader, writer):
        question = asyncio.ensure_future(link.reason("ada"))
        asked = json.loads(await reader.readline())
        writer.write(json.dumps({"id": asked["id"], "state": "stopped", "reason": "it was shut down"}).encode() + b"\n")
        return await question

    assert linked(scenario) == "it was shut down"


def test_a_silent_supervisor_leaves_the_state_unknown():
    async def scenario(link, reader, writer):
        return await link.state("ada", patience=0.01)

    assert linked(scenario) is ServerState.UNKNOWN


@pytest.mark.parametrize("last_words", [b"", b"x" * 200_000 + b"\n"])
def test_the_end_of_the_line_is_the_end(last_words):
    async def scenario(link, reader, writer):
        writer.write(last_words)
        writer.close()
        await link.ended.wait()
        return await link.state("ada", patience=0.01)

    assert linked(scenario) is ServerState.UNKNOWN


OWN_ADDRESSES = frozenset({"192.0.2.7", "2001:db8::7"})


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.0.0.2", "127.200.3.4", "127.255.255.254", "::1", "::ffff:127.9.9.9", "::FFFF:7F01:203"),
        *("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "2001:0DB8:0::0007"),
    ],
)
def test_the_host_is_one_client_by_whatever_address_of_its_own(address):
    assert Clients(own=lambda: OWN_ADDRESSES).group(address) == Clients(own=lambda: OWN_ADDRESSES).group("127.0.0.1")


def test_a_neighbour_on_the_same_network_is_not_the_host():
    clients = Clients(own=lambda: OWN_ADDRESSES)
    assert clients.group("192.0.2.8") == "192.0.2.8"
    assert clients.group("2001:db8::8") == "2001:db8::/64"


def test_wrong_guesses_from_many_loopback_addresses_are_one_clients():
    guesses = Guesses(clock=Clock())
    delays = [guesses.wrong(f"127.1.{number}.9", "ada") for number in range(16)]
    assert delays[:4] == [0, 0, 0, 1] and delays[-1] == 10


def test_names_that_change_do_not_make_guesses_free():
    guesses = Guesses(clock=Clock())
    delays = [guesses.wrong(f"127.0.{number % 250}.1", f"n{number}") for number in range(4000)]
    assert (delays[298], delays[299], delays[-1]) == (0, 1, 10)


def test_one_clients_flood_does_not_delay_another_clients_wrong_guess():
    guesses = Guesses(clock=Clock())
    for number in range(4000):
        guesses.wrong("127.0.0.1", f"n{number}")
    assert guesses.wrong("192.0.2.1", "ada") == 0


def test_each_account_of_the_host_has_a_share_of_its_own():
    uids = {("127.0.0.1", 5001): 1000, ("127.77.0.1", 5002): 1000, ("192.0.2.7", 5003): 1001}
    clients = Clients(own=lambda: OWN_ADDRESSES, owner=lambda remote, local: uids.get(remote))
    ends = [("127.0.0.1", 5001), ("127.77.0.1", 5002), ("192.0.2.7", 5003), ("127.0.0.1", 5004), ("198.51.100.1", 1)]
    eve, eve_too, ada, unknown, far = [clients.at(end, ("127.0.0.1", 8000)) for end in ends]
    assert eve == eve_too and len({eve.share, ada.share, unknown.share, far.share}) == 4
    assert eve.group == ada.group == unknown.group != far.group


def test_the_kernel_says_whose_the_other_end_of_a_loopback_connection_is():
    for family, address, target in (
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "127.45.6.7"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1"),
    ):
        listening = socket.create_server(("", 0), family=socket.AF_INET if "." in address else socket.AF_INET6)
        with listening, socket.socket(family) as one:
            one.connect((target, listening.getsockname()[1]))
            accepted, _ = listening.accept()
            with accepted:
                client = Clients().of(accepted, "")
                assert client.group == HERE and client.share == share_of(os.getuid())
                # No connection has these ends, although a socket listens on the port.
                assert tcp_diag.owner((address, listening.getsockname()[1]), (address, 1)) is None


def order_of(*, flood: list[tuple[str, str, str]], honest: tuple[str, str, str]) -> int:
    """The place in which an honest sign-in is checked that comes when all these wait already."""

    async def scenario() -> int:
        gate = Gate()
        checker = PasswordChecker({}, threads=1, verify=gate)
        tasks = await asked(checker, *flood, honest)
        gate.open.set()
        await asyncio.gather(*tasks)
        checker.close()
        return gate.seen.index(honest[2])

    return asyncio.run(scenario())


@pytest.mark.parametrize("honest", ["192.0.2.1", "127.0.0.1", share_of(1000), share_of(1001), HERE])
@pytest.mark.parametrize("source", ["many loopback addresses", "many addresses", "one account"])
@pytest.mark.parametrize("names", ["one name", "the same name", "many names"])
def test_six_hundred_guesses_that_wait_put_an_honest_sign_in_off_by_a_few_checks(honest, source, names):
    address = {
        "many loopback addresses": lambda number: f"127.{number % 200}.{number // 200}.7",
        "many addresses": lambda number: f"2001:db8:{number:x}::1",
        "one account": lambda number: share_of(1000),
    }[source]
    name = {"one name": lambda n: "bob", "the same name": lambda n: "ada", "many names": lambda n: f"n{n}"}[names]
    flood = [(address(number), name(number), f"wrong {number}") for number in range(600)]
    assert order_of(flood=flood, honest=(honest, "ada", "right")) <= 6


def test_a_guess_waits_no_longer_than_for_twice_the_queue():
    async def scenario() -> int:
        gate = Gate()
        checker = PasswordChecker({}, threads=1, verify=gate)
        tasks = await asked(checker, ("a", "n", "running"), *[("a", f"n{n}", f"early {n}") for n in range(100)])

        async def go_on() -> None:
            for number in range(600):
                await checker.is_right("a", f"late{number}", "late")

        late = [asyncio.ensure_future(go_on()) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)
        for one in late:
            one.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        checker.close()
        return max(number for number, typed in enumerate(gate.seen) if typed.startswith("early"))

    assert asyncio.run(scenario()) <= 210
