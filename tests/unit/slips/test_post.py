"""Mails, as a real mail server takes and refuses them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nblauncher.model import Secret
from nblauncher.slips import letter
from nblauncher.slips.letter import Sender
from nblauncher.slips.post import MailServer, Post, Unsent, Useless
from nblauncher.slips.slip import Course, Slip
from nblauncher.system import mail_address
from tests import mail_server
from tests.mail_server import PASSWORD, USER

COURSE = Course("physics101", "https://class.example.org:8000/", ":".join(["AB"] * 32))
SENDER = Sender("Physik Übung", "kim@uni.example", "", "Dein Paßwort ✓")
NOW = datetime(2026, 11, 20, 9, 15, tzinfo=timezone.utc)


def slip(name: str = "Ada Lovelace") -> Slip:
    return Slip("ada", name, f"{COURSE.front_page}ada", notebook_password=Secret("abcd-efgh-jkmn-pqrs"))


def mail(to: str, name: str = "Ada Lovelace", sender: Sender = SENDER):
    return letter.message(COURSE, slip(name), to, sender, "cafe", NOW)


def post(server: mail_server.MailServer, **more: object) -> Post:
    given = {"host": "localhost", "port": server.port, "security": "starttls", "username": USER} | more
    given = {"password": Secret(PASSWORD), "authority": server.authority.read_bytes()} | given
    return Post(MailServer(**given), SENDER.address, timeout=5)  # type: ignore[arg-type]


def send(to_server: Post, to: str) -> None:
    to_server.send(to, mail(to))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[mail_server.MailServer]:
    with mail_server.mail_server(tmp_path) as made:
        yield made


def test_a_mail_arrives_whole_and_a_refused_one_stops_no_other(server: mail_server.MailServer) -> None:
    server.refused = {"gone@uni.example"}
    open_post = post(server)
    send(open_post, "ada@uni.example")
    with pytest.raises(Unsent, match=r"gone@uni.example was refused: 550 5.1.1 no such user here\\x1b\[2J"):
        send(open_post, "gone@uni.example")
    send(open_post, "bob@uni.example")
    open_post.close()
    assert server.recipients == ["ada@uni.example", "bob@uni.example"]
    assert server.logins == [True] and set(server.senders) == {"kim@uni.example"}
    received = server.to("ada@uni.example")
    assert (received["to"], received["subject"]) == ("ada@uni.example", SENDER.subject)
    assert received["from"] == "Physik Übung <kim@uni.example>"
    plain, html = received.get_body(("plain",)), received.get_body(("html",))
    for body in (plain, html):
        assert body is not None and "abcd-efgh-jkmn-pqrs" in body.get_content()


def test_a_connection_that_the_server_ends_is_made_again(server: mail_server.MailServer) -> None:
    server.ends_after = 2
    open_post = post(server)
    addresses = [f"s{number}@uni.example" for number in range(5)]
    for to in addresses:
        send(open_post, to)
    assert server.recipients == addresses and len(server.logins) == 3


@pytest.mark.parametrize(
    "given, words",
    [
        ({"password": Secret("WRONG ü")}, "refused the login of kim: 535"),
        ({"authority": b""}, r"its certificate cannot be verified \(unable to get"),
        ({"host": "127.0.0.1"}, "its certificate cannot be verified .*not valid for '127.0.0.1'"),
        ({"security": "tls"}, "no encrypted connection to"),
        ({"username": ""}, "refuses mail from kim@uni.example: 530"),
    ],
)
def test_what_would_be_wrong_for_everybody_is_tried_once(
    server: mail_server.MailServer, given: dict[str, object], words: str
) -> None:
    open_post = post(server, **given)
    for _ in range(3):
        with pytest.raises(Useless, match=words) as refused:
            send(open_post, "ada@uni.example")
        assert PASSWORD not in str(refused.value) and "WRONG" not in str(refused.value)
    assert len(server.logins) <= 1 and not server.mails


def test_a_sender_that_the_server_does_not_take_is_refused_once(server: mail_server.MailServer) -> None:
    server.refuses_sender = True
    open_post = post(server)
    with pytest.raises(Useless, match=r"refuses mail from kim@uni\.example: 553 5\.7\.1 not your address"):
        send(open_post, "ada@uni.example")
    with pytest.raises(Useless):
        send(open_post, "bob@uni.example")
    assert server.logins == [True]


def test_no_password_is_sent_to_a_server_without_starttls(tmp_path: Path) -> None:
    with mail_server.mail_server(tmp_path, security="none") as plain:
        with pytest.raises(Useless, match="offers no STARTTLS"):
            send(post(plain), "ada@uni.example")
        assert not plain.logins and not plain.mails


def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    with mail_server.mail_server(tmp_path, security="tls") as server:
        send(post(server, security="tls"), "ada@uni.example")
        assert server.recipients == ["ada@uni.example"]


def test_without_encryption_and_login_on_the_same_host(tmp_path: Path) -> None:
    with mail_server.mail_server(tmp_path, security="none", needs_login=False) as server:
        send(post(server, security="none", username=""), "ada@uni.example")
        assert server.recipients == ["ada@uni.example"]


def test_a_server_that_is_down_or_says_nothing_is_one_message() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        down = Post(MailServer("localhost", port, "starttls"), SENDER.address, timeout=0.3)
        with pytest.raises(Useless, match=rf"no connection to the mail server localhost:{port}: connection refused"):
            send(down, "ada@uni.example")
        silent.listen()
        mute = Post(MailServer("localhost", port, "starttls"), SENDER.address, timeout=0.3)
        with pytest.raises(Useless, match="no answer in time"):
            send(mute, "ada@uni.example")


HOSTILE = [
    "Ada\r\nBcc: eve@evil.example",
    "=?utf-8?q?=0d=0aBcc:_eve=40evil.example?=",
    '"Ada", <eve@evil.example>',
    "x" * 998,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_adds_nothing_to_the_header(server: mail_server.MailServer, name: str) -> None:
    post(server).send("ada@uni.example", mail("ada@uni.example", name))
    received = server.to("ada@uni.example")
    assert server.recipients == ["ada@uni.example"]
    assert sorted(key.lower() for key in received) == sorted(
        (
            *("from", "to", "subject", "date", "message-id", "auto-submitted"),
            *("mime-version", "content-type", "content-language"),
        )
    )
    assert received["bcc"] is None and received["to"] == "ada@uni.example"


@pytest.mark.parametrize(
    "text",
    [
        *("", "ada", "ada@", "@uni.example", "ada@uni.example\nBcc: x@y.example", "a b@uni.example"),
        *("ada@uni.example, eve@uni.example", "Ada <ada@uni.example>", '"a b"@uni.example', "a@b@c.example"),
        *("ada@-uni.example", "ada@uni..example", "ada@uni.example>", "ada\u202e@uni.example", ".ada@uni.example"),
        *("x" * 65 + "@uni.example", "ada@" + "x" * 64 + ".example", "ada@" + "x.x" * 100),
    ],
)
def test_only_one_plain_address_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a mail address"):
        mail_address.address(text)


def test_addresses_in_other_scripts_are_written_as_smtp_wants_them() -> None:
    assert mail_address.address(" ada@MÜNCHEN.example ") == "ada@xn--mnchen-3ya.example"
    assert mail_address.address("zoë@uni.example") == "zoë@uni.example"
    assert mail_address.mailbox("Physik Übung <kim@uni.example>") == ("Physik Übung", "kim@uni.example")
    assert mail_address.mailbox('"Kim, K." <kim@uni.example>') == ("Kim, K.", "kim@uni.example")
