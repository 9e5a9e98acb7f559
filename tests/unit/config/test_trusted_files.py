"""What may be read as config or roster, seen by the account that runs the tests; tests/system has other accounts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import InputError, RefusedError

ME = frozenset({os.geteuid()})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of our own directly in the host's sticky temporary folder."""
    with tempfile.TemporaryDirectory(prefix="nbti-") as name:
        yield Path(name).resolve()


def read(path: Path, **more: int) -> bytes:
    return read_trusted(path, allowed_uids=ME, **more)


def made(file: Path, content: bytes = b"course: a\n", mode: int = 0o644) -> Path:
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_file_in_a_folder_of_our_own_is_read(folder: Path) -> None:
    assert read(made(folder / "notebooks.cfg")) == b"course: a\n"


def test_an_empty_file_and_one_of_exactly_the_limit_are_read(folder: Path) -> None:
    assert read(made(folder / "a", b"")) == b""
    assert read(made(folder / "b", b"x" * 3_000_000), max_bytes=3_000_000) == b"x" * 3_000_000


def test_a_larger_file_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is larger than 10 bytes"):
        read(made(folder / "a", b"x" * 11), max_bytes=10)


def test_a_file_that_everybody_can_write_is_refused_with_the_remedy(folder: Path) -> None:
    file = made(folder / "notebooks.cfg", mode=0o666)
    with pytest.raises(RefusedError, match="every user can write it") as caught:
        read(file)
    assert f"chmod o-w {file}" in caught.value.hint


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_folder_above_that_everybody_can_write_is_refused(folder: Path, mode: int) -> None:
    (folder / "open" / "deep").mkdir(parents=True)
    file = made(folder / "open" / "deep" / "notebooks.cfg")
    (folder / "open").chmod(mode)
    with pytest.raises(RefusedError, match=f"because of {folder}/open: every user can write it"):
        read(file)


def test_a_file_directly_in_a_sticky_folder_is_refused(folder: Path) -> None:
    with (
        tempfile.NamedTemporaryFile(prefix="nbti-", dir=folder.parent) as file,
        pytest.raises(RefusedError, match="every user can write there"),
    ):
        read(Path(file.name).resolve())


def test_a_link_directly_in_a_sticky_folder_is_refused(folder: Path) -> None:
    made(folder / "notebooks.cfg")
    link = folder.parent / f"{folder.name}-link"
    link.symlink_to(folder)
    try:
        with pytest.raises(RefusedError, match="every user can write there"):
            read(link / "notebooks.cfg")
    finally:
        link.unlink()


@pytest.mark.parametrize("target", ["real", "./real", "../{name}/real", "{folder}/real", "second"])
def test_links_of_our_own_are_followed(folder: Path, target: str) -> None:
    (folder / "real").mkdir()
    (folder / "second").symlink_to("real")
    made(folder / "real" / "notebooks.cfg")
    (folder / "link").symlink_to(target.format(folder=folder, name=folder.name))
    assert read(folder / "link" / "notebooks.cfg") == b"course: a\n"


def test_a_link_to_the_file_itself_is_followed(folder: Path) -> None:
    made(folder / "real.cfg")
    (folder / "notebooks.cfg").symlink_to("real.cfg")
    assert read(folder / "notebooks.cfg") == b"course: a\n"


def test_links_that_go_round_are_refused(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(InputError):
        read(folder / "a" / "x")


def test_a_way_through_a_folder_that_everybody_can_write_is_judged_also_behind_a_link(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    made(folder / "open" / "notebooks.cfg")
    (folder / "link").symlink_to("open")
    with pytest.raises(RefusedError, match=f"{folder}/open"):
        read(folder / "link" / "notebooks.cfg")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder, not a file"),
        ("fifo", "is not a regular file"),
        ("file/below", "Not a directory|is not a folder"),
        ("dangling", "does not exist"),
    ],
)
def test_what_is_not_a_file_is_refused_without_waiting_for_it(folder: Path, name: str, words: str) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo", 0o644)
    made(folder / "file")
    (folder / "dangling").symlink_to("nowhere")
    with pytest.raises(InputError, match=words):
        read(folder / name)


def test_a_name_with_escape_sequences_is_shown_escaped(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(folder / "\x1b[2Jx")
    assert "\x1b" not in caught.value.problem and "\\x1b[2Jx" in caught.value.problem


def test_no_descriptor_stays_open(folder: Path) -> None:
    (folder / "link").symlink_to("real")
    (folder / "real").mkdir()
    made(folder / "real" / "notebooks.cfg", mode=0o666)
    before = sorted(os.listdir("/proc/self/fd"))
    for name in ("link/notebooks.cfg", "missing", "link", "link/notebooks.cfg/x"):
        with pytest.raises((InputError, RefusedError)):
            read(folder / name)
    made(folder / "good")
    read(folder / "good")
    assert sorted(os.listdir("/proc/self/fd")) == before
