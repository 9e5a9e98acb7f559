"""What becomes of a freeze when something goes wrong. That processes stand still: tests/system/test_freezing.py."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from nblauncher.isolation.cgroups import Groups, Kind
from nblauncher.isolation.freezer import Freezer


class Broken:
    """Cannot thaw in any other process than the caller's."""

    def __init__(self) -> None:
        self.caller, self.thawed = os.getpid(), 0

    def freeze(self, _usernames: Collection[str]) -> dict[str, str]:
        return {}

    def thaw(self, _usernames: Collection[str]) -> None:
        self.thawed += 1
        if os.getpid() != self.caller:
            raise RuntimeError("no space left on device")


def freezer(folder: Path, elsewhere: Broken) -> Freezer:
    course = folder / "run" / "physics"
    course.mkdir(parents=True)
    return Freezer(Groups(Kind.NONE), course / "frozen-by-capture.json", elsewhere)


def test_a_watcher_that_cannot_thaw_ends_and_never_goes_on_as_its_caller(tmp_path):
    caller, escaped = os.getpid(), tmp_path / "escaped"
    try:
        with freezer(tmp_path, Broken()).frozen([], longest=0.05):
            time.sleep(0.4)  # the watcher thaws meanwhile
    except RuntimeError:
        pass
    if os.getpid() != caller:
        escaped.touch()
        os._exit(1)
    assert not escaped.exists()


def test_jobs_are_thawed_even_if_the_record_of_this_host_cannot_be_written(tmp_path, monkeypatch):
    elsewhere = Broken()
    freezing = freezer(tmp_path, elsewhere)

    def refuse(_self: Freezer, _uids: Collection[int]) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"), freezing.frozen([]):
        monkeypatch.setattr(Freezer, "thaw", refuse)
    assert elsewhere.thawed
