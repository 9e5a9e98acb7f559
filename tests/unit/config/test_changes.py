"""What a changed config changes, as `setup` and `reload` tell it."""

from __future__ import annotations

from nblauncher.config import settings
from nblauncher.config.settings.changes import changes

OLD = b"course: optics\nweb:\n  port: 8000\nmaterial:\n  source: material\n"


def test_a_key_with_another_value_is_told_and_none_else():
    new = b"# a comment\ncourse:   optics\nmaterial: {source: lessons}\nweb:\n  port: 9000\n"
    lines = changes(OLD, new)
    assert len(lines) == 2
    assert lines[0].startswith("notebooks.cfg: web.port was 8000, is 9000 (taken over by: ") or lines[1].startswith(
        "notebooks.cfg: web.port was 8000, is 9000 (taken over by: "
    )
    assert any(line.startswith("notebooks.cfg: material.source was material, is lessons") for line in lines)


def test_a_default_that_is_written_down_is_no_change():
    assert changes(b"course: optics\n", b"course: optics\nweb:\n  port: 8000\n") == ()
    sample = settings.sample().encode()
    assert changes(sample, b"# the same\n" + sample) == ()


def test_what_is_shown_of_a_value_is_short_and_cannot_move_the_cursor():
    (line,) = changes(b"course: a\n", b'course: a\nweb:\n  names: ["\\e[31m' + b"x" * 500 + b'"]\n')
    assert "\x1b" not in line and len(line) < 300


def test_files_that_are_no_config_tell_nothing():
    bomb = b"course: &a [x]\n" + b"".join(
        b"web%d: &%c [%s]\n" % (number, 98 + number, b"*%c," % (97 + number) * 9) for number in range(9)
    )
    bomb += b"preload: *j\nmaterial: {source: *j}\n"
    for broken in (bomb, b"\xff\xfe", b"[", b"a: &a [*a]", b"- 1", b""):
        assert isinstance(changes(OLD, broken), tuple) and isinstance(changes(broken, OLD), tuple)
