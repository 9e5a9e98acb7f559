"""Where students point their browsers: one host in every address, every own name answered."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from nblauncher.config.settings import RetrieveSettings, Settings, TlsSettings, WebSettings
from nblauncher.frontends import FrontEnd
from nblauncher.frontends.direct import HostNames, canonical, direct, own_addresses, survey_host_names
from nblauncher.model import Material, Route

FOUND = HostNames("class.example", ("192.0.2.7",), ("192.0.2.7", "2001:db8::7"))


def settings(*, names: tuple[str, ...] = (), bind: tuple[str, ...] = (), tls: str = "class-ca") -> Settings:
    return Settings(
        "physics101",
        Path("/c/students.csv"),
        Path("/c/credentials.csv"),
        Material(Path("/c/material"), "tutorial"),
        RetrieveSettings(Path("/c/retrieved")),
        web=WebSettings(names, bind, 8000),
        tls=TlsSettings(tls),
    )


@pytest.mark.parametrize(
    ("names", "found", "front_page"),
    [
        (("Lab.Example.", "other"), FOUND, "https://lab.example:8000/"),
        ((), FOUND, "https://class.example:8000/"),
        ((), HostNames("vm", ("127.0.1.1",), ("192.0.2.7",)), "https://192.0.2.7:8000/"),
        ((), HostNames("vm", ("203.0.113.9",), ("192.0.2.7",)), "https://192.0.2.7:8000/"),
        ((), HostNames("vm", (), ("2001:db8::7",)), "https://[2001:db8::7]:8000/"),
        (("2001:DB8:0::9",), FOUND, "https://[2001:db8::9]:8000/"),
        ((), HostNames(), "https://localhost:8000/"),
    ],
)
def test_the_host_is_the_configured_name_else_the_full_name_that_leads_here_else_the_address(names, found, front_page):
    assert direct(settings(names=names), found).front_page == front_page


def test_a_route_is_the_servers_own_base_address():
    front_end: FrontEnd = direct(settings(), FOUND)
    assert front_end.route("ada", 8001) == Route("ada", 8001, "https://class.example:8001/user/ada/")
    assert front_end.front_page_for("ada") == "https://class.example:8000/ada"


def test_without_tls_the_addresses_say_http():
    assert direct(settings(tls="off"), FOUND).route("ada", 8001).url == "http://class.example:8001/user/ada/"


def test_every_own_name_address_and_localhost_is_answered_once():
    front_end = direct(settings(names=("lab.example", "class.example")), FOUND)
    assert front_end.hosts == (
        *("lab.example", "class.example", "192.0.2.7", "2001:db8::7"),
        *("localhost", "127.0.0.1", "::1"),
    )
    assert front_end.names == ("lab.example", "class.example", "localhost")
    assert front_end.addresses == ("192.0.2.7", "2001:db8::7", "127.0.0.1", "::1")


def test_only_the_bound_addresses_are_answered():
    assert "2001:db8::7" not in direct(settings(bind=("192.0.2.7",)), FOUND).hosts
    assert "2001:db8::7" in direct(settings(bind=("0.0.0.0", "::")), FOUND).hosts


@pytest.mark.parametrize(
    ("text", "expected"), [("Class.Example.", "class.example"), ("[::1]", "::1"), ("0:0:0:0:0:0:0:1", "::1")]
)
def test_a_host_has_one_spelling(text, expected):
    assert canonical(text) == expected


def test_this_host_has_names():
    found = survey_host_names()
    assert found.addresses == own_addresses()
    assert direct(settings(), found).front_page.startswith("https://")


def test_a_bridge_between_containers_gives_the_class_no_address_and_so_no_new_ca(tmp_path, monkeypatch):
    addresses = {
        "docker0": "198.51.100.1",
        "br-idle": "198.51.100.2",
        "br0": "198.51.100.3",
        "br1": "198.51.100.4",
        "wg0": "198.51.100.5",
    }
    monkeypatch.setattr(
        psutil,
        "net_if_addrs",
        lambda: {name: [SimpleNamespace(family=socket.AF_INET, address=one)] for name, one in addresses.items()},
    )
    for bridge, ports in {"docker0": ["veth1"], "br-idle": [], "br0": ["eth0", "veth2"], "br1": ["bond0"]}.items():
        (tmp_path / bridge / "bridge").mkdir(parents=True)
        for port in ports:
            (tmp_path / bridge / "brif" / port).mkdir(parents=True)
            (tmp_path / port).mkdir()
        (tmp_path / bridge / "brif").mkdir(exist_ok=True)
    (tmp_path / "eth0" / "device").mkdir()
    (tmp_path / "bond0" / "lower_eth1").mkdir()
    (tmp_path / "wg0").mkdir()
    found = set(own_addresses(tmp_path))
    assert found >= {"198.51.100.3", "198.51.100.4", "198.51.100.5"}
    assert not found & {"198.51.100.1", "198.51.100.2"}
