"""The small process beside a server on a node, which writes the job's comment and looks for a successor."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nblauncher.server import node
from nblauncher.server.node_words import NodeWords


class Reporting:
    """`update` writes what it is told into a file, and the controller takes it as soon as `is_up` is there."""

    def __init__(self, folder: Path) -> None:
        self.told, self.is_up = folder / "told", folder / "is_up"
        pipe, self.news = os.pipe()
        self.looked, looked = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.news)
            node._report(pipe, NodeWords("0123456789abcdef"), self._update, lambda: os.write(looked, b"."))
        os.close(pipe)
        os.close(looked)

    def _update(self, comment: str) -> bool:
        with self.told.open("a") as stream:
            stream.write(f"{comment}\n")
        return self.is_up.exists()

    def says(self, *words: str) -> None:
        os.write(self.news, "".join(f"{word}\n" for word in words).encode())

    def looks(self, times: int) -> None:
        for _ in range(times):
            assert select.select([self.looked], [], [], 20)[0] and os.read(self.looked, 1) == b"."

    def ends(self) -> int:
        os.close(self.news)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def comments(self) -> list[str]:
        return self.told.read_text().splitlines() if self.told.exists() else []


@pytest.fixture
def reporting(tmp_path, monkeypatch) -> Iterator[Callable[[], Reporting]]:
    monkeypatch.setattr(node, "_LOOK", 0.02)
    begun: list[Reporting] = []

    def begin() -> Reporting:
        begun.append(Reporting(tmp_path))
        return begun[-1]

    yield begin
    for one in begun:
        os.close(one.looked)


def test_news_are_told_once_and_the_rest_is_not(reporting, tmp_path):
    (tmp_path / "is_up").touch()
    begun = reporting()
    begun.says("listens", "kernels 1 0")
    begun.looks(2)
    begun.says("signed-in", "listens")
    begun.looks(2)
    assert begun.ends() == 0
    assert [words.partition(" said=")[2] for words in begun.comments] == ["listens", "listens,signed-in"]


def test_a_controller_that_does_not_answer_stops_no_look_for_a_successor_and_is_told_again(reporting):
    begun = reporting()
    begun.says("signed-in")
    begun.looks(5)
    begun.is_up.touch()
    begun.looks(5)
    told = len(begun.comments)
    begun.looks(5)
    assert begun.ends() == 0 and len(begun.comments) == told > 1


def test_it_ends_with_its_server_also_if_nobody_takes_its_words(reporting):
    begun = reporting()
    begun.says("signed-in")
    begun.looks(1)
    assert begun.ends() == 0
