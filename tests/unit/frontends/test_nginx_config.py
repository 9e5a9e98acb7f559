"""The config of a class's nginx, byte by byte."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from nblauncher.frontends.nginx_config import HANDSHAKE, Proxied, Student, render

EXPECTED = Path(__file__).parent / "nginx"
STUDENTS = tuple(
    Student(name, 8001 + index, Path(f"/run/nblauncher/c/http/{20001 + index}.sock"), f"{name}.localhost")
    for index, name in enumerate(("ada", "bob_1", "eve-2"))
)


@pytest.mark.parametrize(
    "routing, has_tls, http2_is_directive, addresses",
    [
        ("ports", True, True, ("0.0.0.0", "::")),
        ("hosts", True, False, ("192.0.2.7",)),
        ("paths", False, False, ("192.0.2.7",)),
    ],
)
def test_the_config_of_each_way_of_routing(routing, has_tls, http2_is_directive, addresses):
    proxied = Proxied(
        routing=routing,
        front_port=8000,
        front_socket=Path("/run/nblauncher/c/front.sock"),
        addresses=addresses,
        hosts=("class.example.org", "example.net"),
        has_tls=has_tls,
        http2_is_directive=http2_is_directive,
        students=STUDENTS,
    )
    assert render(proxied, Path("/run/nblauncher/c/proxy"), "nginx-3") == (EXPECTED / f"{routing}.conf").read_text()


def test_servers_on_nodes_are_verified_each_as_its_own_students():
    proxied = Proxied(
        routing="paths",
        front_port=8000,
        front_socket=Path("/run/nblauncher/c/front.sock"),
        addresses=("192.0.2.7",),
        hosts=("class.example.org", "example.net"),
        has_tls=False,
        http2_is_directive=False,
        students=STUDENTS,
        authorities=b"PEM",
    )
    here = (EXPECTED / "paths.conf").read_text().splitlines()
    text = render(proxied, Path("/run/nblauncher/c/proxy"), "nginx-3")
    changes = [line for line in difflib.ndiff(here, text.splitlines()) if line[0] in "+-"]
    assert [" ".join(line.split()) for line in changes] == [
        f"+ proxy_connect_timeout {HANDSHAKE}s;",
        "+ proxy_ssl_protocols TLSv1.2 TLSv1.3;",
        "+ proxy_ssl_trusted_certificate /run/nblauncher/c/proxy/nginx-3.ca.pem;",
        "+ proxy_ssl_verify on;",
        "+ proxy_ssl_server_name on;",
        *(
            line
            for number, student in enumerate(STUDENTS)
            for line in (
                f"+ proxy_ssl_name {student.inner_name};",
                f"- proxy_pass http://student{number};",
                f"+ proxy_pass https://student{number};",
            )
        ),
    ]


def test_nothing_of_the_template_is_left_in_a_config_without_students():
    proxied = Proxied("hosts", 8000, Path("/f.sock"), ("::",), ("a.example",), has_tls=False, http2_is_directive=False)
    text = render(proxied, Path("/p"), "nginx-1")
    assert "{{" not in text and "{%" not in text and "\n\n" not in text
    assert text.count("{") == text.count("}")
