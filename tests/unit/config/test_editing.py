"""Other values in a config, with everything else of the text left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.config import settings
from nblauncher.config.settings.editing import with_values
from nblauncher.errors import InputError

PORT = {"web.port": "8100"}
SAMPLE = settings.sample().encode()


@pytest.mark.parametrize(
    "config",
    [
        b"course: optics\nweb:\n  port: 8000  # the front page\n  title: Optics\n",
        b"course: optics\nweb:\n  title: Optics\n",
        b"course: optics\nweb: {title: Optics, port: '8000'}\n",
        b"course: optics\nweb: {}\n",
        b"course: optics\nweb:\n  # port: 8000\nmaterial:\n  source: notes\n",
        b"course: optics\nweb:\n  port:\n",
        b"course: optics",
        b'{"course": "optics", "web": {"port": 8000}}',
        b'{"course": "optics"}',
        "\ufeff# Ümläute\ncourse: optics\r\nweb:\r\n  port: 8000\r\n".encode(),
        b"# only a comment first\n\ncourse: optics\n",
        SAMPLE,
    ],
)
def test_a_port_is_changed_and_nothing_else(config):
    edited = with_values(config, PORT)
    if config.startswith(b"{") or b"course" in config:
        assert settings.parse(edited, Path("/srv/notebooks.cfg")).web.port == 8100
    comments = [line for line in config.decode("utf-8-sig").splitlines() if line.lstrip().startswith("#")]
    assert [line for line in edited.decode().splitlines() if line.lstrip().startswith("#")] == comments


def test_places_are_changed_where_they_are_written():
    config = b"course: a\nowner: kim\nmaterial: {source: /srv/m, target: t}\nretrieve:\n  target: '../r'\n"
    edited = with_values(config, {"owner": '""', "material.source": "material", "retrieve.target": "retrieved"})
    assert edited == b'course: a\nowner: ""\nmaterial: {source: material, target: t}\nretrieve:\n  target: retrieved\n'


@pytest.mark.parametrize(
    "config",
    [
        b"course: a\nweb: &w {port: 8000}\ngrading: *w\n",
        b"- course\n",
    ],
)
def test_what_cannot_be_edited_is_refused(config):
    with pytest.raises(InputError, match=r"web\.port cannot be changed"):
        with_values(config, PORT)
