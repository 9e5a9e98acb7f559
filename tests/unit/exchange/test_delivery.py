"""The rules of handing out, in a home of the account that runs the tests: the student's work is never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.names import copy_name
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.send import delivery, material, student_side
from nblauncher.exchange.send.delivery import BESIDE, BLOCKED, DELETED, KEPT, NEW, REPLACED, UNCHANGED, UPDATED, Placed
from nblauncher.model import FORGOTTEN, Account, HandedOut
from nblauncher.system import drafts, leases, replacement, workers
from nblauncher.system.streams import frames_of

DAY = date(2026, 11, 20)


@pytest.fixture(autouse=True)
def ignores_who_waits_for_a_lease() -> Iterator[None]:
    """As the student's side does: by default SIGIO ends a process whose lease another one waits for."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@dataclass
class Home:
    """A home with a ledger: `send(files)` delivers what is pending and records it."""

    path: Path
    ledger: dict[str, HandedOut] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a file was not merged."""

    def __post_init__(self):
        (self.path / "home").mkdir()
        (self.path / "spool").mkdir()

    @property
    def target(self):
        return self.path / "home" / "tutorial"

    def send(self, files, *, record=True, restore=False, news="", only_new=False, lines=()):
        contents = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        bases = [known.made_of for known in self.ledger.values() if known.made_of]
        versions = ObjectStore(self.path / "objects")
        with material.bundle_of(contents, self.path / "spool", versions=versions, bases=bases) as bundle:
            index = material.Index(tuple(bundle.items.values()))
            items = delivery.pending(index, self.ledger, restores_deleted=restore, only_new=only_new)
            shipment = delivery.Shipment("tutorial", items, bundle, dict(self.ledger), DAY, restore, news, lines)
            sent = delivered(shipment, self.path / "home")
        outcomes = {}
        for one in sent.outcomes:
            self.reasons[one.path] = one.reason
            outcomes.setdefault(one.path, []).append((one.outcome, one.detail) if one.detail else one.outcome)
        if record:
            self.ledger.update(sent.handed_out)
            self.ledger = {path: known for path, known in self.ledger.items() if known != FORGOTTEN}
        assert sent.failure == ""
        return {path: found[0] if len(found) == 1 else found for path, found in outcomes.items()}

    def read(self):
        return {
            str(file.relative_to(self.target)): file.read_text()
            for file in sorted(self.target.rglob("*"))
            if file.is_file()
        }


def kept_name(name, number):
    return copy_name("kept 2026-11-20", name, number)


def delivered(shipment, home):
    """As `deliver`, in this process: root may run the tests, and is never delivered to."""
    output = os.memfd_create("frames")
    student_side.place(output, shipment.order(home))
    os.lseek(output, 0, os.SEEK_SET)
    frames = iter(partial(workers.read_frame, output), None)
    sent = delivery.delivery_of([frame for frame in frames if frame.header["kind"] != "tick"], shipment, "ada")
    os.close(output)
    return sent


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_missing_files_arrive_with_their_folders(home):
    assert home.send({"lab1": "one", "week1/data": "two"}) == {"lab1": NEW, "week1/data": NEW}
    assert home.read() == {"lab1": "one", "week1/data": "two"}
    assert (home.target.stat().st_mode & 0o777, (home.target / "week1").stat().st_mode & 0o777) == (0o700, 0o700)


def test_what_was_given_is_not_pending_and_a_new_version_is(home):
    home.send({"lab1": "one"})
    assert home.send({"lab1": "one"}) == {}
    assert home.send({"lab1": "two", "lab2": "x"}) == {"lab1": UPDATED, "lab2": NEW}
    assert home.read() == {"lab1": "two", "lab2": "x"}


def test_the_ledger_knows_the_file_as_it_stands(home):
    home.send({"lab1": "one"})
    home.send({"lab1": "two"})
    status = (home.target / "lab1").stat()
    known = home.ledger["lab1"]
    assert (known.size, known.mtime_ns, known.inode, known.ctime_ns) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
        status.st_ctime_ns,
    )


def test_an_edited_file_is_kept_and_the_new_version_is_beside_it(home):
    home.send({"week1/lab1.ipynb": "one"})
    (home.target / "week1" / "lab1.ipynb").write_text("my work")
    beside = "week1/lab1 (update 2026-11-20).ipynb"
    assert home.send({"week1/lab1.ipynb": "two"}) == {"week1/lab1.ipynb": (BESIDE, beside)}
    assert home.send({"week1/lab1.ipynb": "two"}) == {}
    again = "week1/lab1 (update 2026-11-20 2).ipynb"
    assert home.send({"week1/lab1.ipynb": "three"}) == {"week1/lab1.ipynb": (BESIDE, again)}
    assert home.read() == {"week1/lab1.ipynb": "my work", beside: "two", again: "three"}
    assert set(home.ledger) == {"week1/lab1.ipynb", beside, again}


def test_an_edit_of_the_same_size_within_a_clock_tick_is_an_edit(home):
    home.send({"lab1": "one"})
    status = (home.target / "lab1").stat()
    with (home.target / "lab1").open("r+") as stream:
        stream.write("eno")
    os.utime(home.target / "lab1", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert home.send({"lab1": "two"})["lab1"][0] == BESIDE
    assert home.read()["lab1"] == "eno"


def test_a_file_that_only_changed_its_times_and_inode_is_untouched(home):
    home.send({"lab1": "one"})
    (home.target / "copy").write_text("one")
    (home.target / "copy").rename(home.target / "lab1")
    assert home.send({"lab1": "two"}) == {"lab1": UPDATED}


def test_a_file_that_somebody_has_open_for_writing_is_being_edited(home):
    home.send({"data.db": "one"})
    with (home.target / "data.db").open("a") as stream:
        assert home.send({"data.db": "two"})["data.db"][0] == BESIDE
        stream.write(" and more")
    assert home.read()["data.db"] == "one and more"


def test_a_file_open_for_reading_is_updated_and_its_reader_keeps_the_old_one(home):
    home.send({"lab1": "one"})
    with (home.target / "lab1").open() as stream:
        assert home.send({"lab1": "two"}) == {"lab1": UPDATED}
        assert stream.read() == "one"
    assert home.read() == {"lab1": "two"}


def test_a_deleted_file_is_not_restored_and_said_once(home):
    home.send({"lab1": "one", "week1/data": "one"})
    (home.target / "lab1").unlink()
    (home.target / "week1" / "data").unlink()
    (home.target / "week1").rmdir()
    assert home.send({"lab1": "one", "week1/data": "one"}) == {}
    assert home.send({"lab1": "two", "week1/data": "two"}) == {"lab1": DELETED, "week1/data": DELETED}
    assert home.send({"lab1": "two", "week1/data": "two"}) == {}
    assert home.read() == {}
    assert not (home.target / "week1").exists()


def test_what_was_deleted_is_put_back_on_demand_and_nothing_else_changes(home):
    given = {"lab1": "one", "week1/data": "one", "edited": "one", "beside": "one", "link": "one"}
    home.send(given)
    (home.target / "beside").write_text("mine")
    given |= {"beside": "two", "week1/data": "two"}
    home.send({name: content for name, content in given.items() if name != "week1/data"})
    (home.target / "edited").write_text("mine")
    for name in ("lab1", "week1/data", "link"):
        (home.target / name).unlink()
    (home.target / "week1").rmdir()
    (home.target / "link").symlink_to("edited")
    put_back = home.send(given, restore=True)
    assert put_back.pop("link")[0] == BLOCKED
    assert put_back == {"lab1": NEW, "week1/data": NEW, "edited": UNCHANGED, "beside": UNCHANGED}
    (home.target / "link").unlink()
    assert home.read() == {
        "lab1": "one",
        "week1/data": "two",
        "edited": "mine",
        "beside": "mine",
        "beside (update 2026-11-20)": "two",
    }
    assert home.send({name: content for name, content in given.items() if name != "link"}) == {}
    assert home.send({"lab1": "two"}) == {"lab1": UPDATED}  # it is known again as it stands


def test_a_file_made_again_after_it_was_deleted_is_the_students(home):
    home.send({"lab1": "one"})
    (home.target / "lab1").unlink()
    home.send({"lab1": "two"})
    (home.target / "lab1").write_text("my own")
    assert home.send({"lab1": "three"})["lab1"][0] == BESIDE
    assert home.read()["lab1"] == "my own"


def test_a_file_of_the_students_that_has_the_name_is_kept(home):
    home.target.mkdir()
    (home.target / "lab1").write_text("my own")
    assert home.send({"lab1": "one"}) == {"lab1": (BESIDE, "lab1 (update 2026-11-20)")}
    assert home.read() == {"lab1": "my own", "lab1 (update 2026-11-20)": "one"}


def test_a_file_that_is_as_it_should_be_is_only_recorded(home):
    home.send({"lab1": "one"}, record=False)
    assert home.send({"lab1": "one"}) == {"lab1": UNCHANGED}
    assert home.send({"lab1": "two"}) == {"lab1": UPDATED}


def test_a_copy_beside_that_a_crashed_run_made_is_used(home):
    home.target.mkdir()
    (home.target / "lab1").write_text("my own")
    home.send({"lab1": "one"}, record=False)
    assert home.send({"lab1": "one"}) == {"lab1": (BESIDE, "lab1 (update 2026-11-20)")}
    assert len(home.read()) == 2


def test_the_teacher_may_go_back_to_an_older_version(home):
    home.send({"lab1": "one"})
    home.send({"lab1": "two"})
    assert home.send({"lab1": "one"}) == {"lab1": UPDATED}
    assert home.read() == {"lab1": "one"}


def test_the_execute_bit_is_all_that_is_kept_of_a_mode(home):
    index_item = material.Item("run.sh", 0, "", 0o700)
    draft = drafts.new_draft(os.open(home.path, os.O_RDONLY), index_item.mode)
    assert os.fstat(draft.descriptor).st_mode & 0o7777 == 0o700
    draft.close()


@pytest.mark.parametrize(
    "put, why",
    [
        (lambda path: path.symlink_to("/etc/passwd"), "a link is in its place"),
        (lambda path: path.symlink_to("nowhere"), "a link is in its place"),
        (lambda path: path.mkdir(), "a folder is in its place"),
        (lambda path: os.mkfifo(path), "a special file is in its place"),
    ],
)
@pytest.mark.parametrize("was_given", [False, True])
def test_what_is_no_file_blocks_that_file_until_it_is_gone(home, put, why, was_given):
    home.send({"lab1": "one"} if was_given else {"other": "x"})
    (home.target / "lab1").unlink(missing_ok=True)
    put(home.target / "lab1")
    assert home.send({"lab1": "two", "lab2": "two"}) == {"lab1": (BLOCKED, why), "lab2": NEW}
    assert home.send({"lab1": "two", "lab2": "two"}) == {"lab1": (BLOCKED, why)}
    assert Path("/etc/passwd").read_text().startswith("root:")
    lab1 = home.target / "lab1"
    lab1.rmdir() if lab1.is_dir() and not lab1.is_symlink() else lab1.unlink()
    assert home.send({"lab1": "two"}) == {"lab1": DELETED if was_given else NEW}


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_replaced_blocks_what_belongs_into_it(home, tmp_path, kind):
    home.send({"week1/data": "one"})
    (tmp_path / "elsewhere").mkdir()
    (home.target / "week1" / "data").rename(tmp_path / "elsewhere" / "data")
    (home.target / "week1").rmdir()
    if kind == "link":
        (home.target / "week1").symlink_to(tmp_path / "elsewhere")
    else:
        (home.target / "week1").write_text("x")
    outcomes = home.send({"week1/data": "two", "week1/more": "two", "lab1": "two"})
    assert [outcomes[path][0] for path in ("week1/data", "week1/more")] == [BLOCKED, BLOCKED]
    assert outcomes["lab1"] == NEW
    assert (tmp_path / "elsewhere" / "data").read_text() == "one"
    assert not (tmp_path / "elsewhere" / "more").exists()


# A file that became a folder in the material, and a folder that became a file.


def test_a_file_that_nobody_touched_becomes_a_folder_and_later_sends_go_on(home):
    home.send({"lab": "one", "other": "x"})
    assert home.send({"lab/a": "two", "lab/deep/b": "two"}) == {"lab": REPLACED, "lab/a": NEW, "lab/deep/b": NEW}
    assert home.read() == {"lab/a": "two", "lab/deep/b": "two", "other": "x"}
    assert sorted(home.ledger) == ["lab/a", "lab/deep/b", "other"]
    assert home.send({"lab/a": "three", "lab/deep/b": "two"}) == {"lab/a": UPDATED}
    assert home.send({"lab/a": "three", "lab/deep/b": "two"}) == {}


def test_a_folder_that_nobody_touched_becomes_a_file_and_back(home):
    home.send({"lab/a": "one", "lab/deep/b": "one"})
    assert home.send({"lab": "two"}) == {"lab": (UPDATED, "it was a folder")}
    assert (home.read(), sorted(home.ledger)) == ({"lab": "two"}, ["lab"])
    assert sorted(path.name for path in home.target.iterdir()) == ["lab"]
    assert home.send({"lab": "three"}) == {"lab": UPDATED}
    assert home.send({"lab/a": "one", "lab/deep/b": "one"}) == {"lab": REPLACED, "lab/a": NEW, "lab/deep/b": NEW}


def test_an_edited_file_stays_and_the_folder_is_beside_it(home):
    home.send({"week1/lab": "one"})
    (home.target / "week1/lab").write_text("mine")
    beside = "week1/lab (update 2026-11-20)"
    new = {"week1/lab/a": "two", "week1/lab/deep/b": "two"}
    assert home.send(new) == {
        "week1/lab/a": (BESIDE, f"{beside}/a"),
        "week1/lab/deep/b": (BESIDE, f"{beside}/deep/b"),
    }
    assert home.read() == {"week1/lab": "mine", f"{beside}/a": "two", f"{beside}/deep/b": "two"}
    assert home.reasons["week1/lab/a"] == "the student's week1/lab has the name of its folder"
    assert home.send(new) == {}
    assert home.send({**new, "week1/lab/a": "three"}) == {
        "week1/lab/a": (BESIDE, "week1/lab (update 2026-11-20 2)/a"),
    }
    assert home.read()["week1/lab"] == "mine"


def test_an_edited_folder_stays_and_the_file_is_beside_it(home):
    home.send({"lab/a": "one", "lab/b": "one"})
    (home.target / "lab/a").write_text("mine")
    assert home.send({"lab": "two"}) == {"lab": (BESIDE, "lab (update 2026-11-20)")}
    assert home.read() == {"lab/a": "mine", "lab/b": "one", "lab (update 2026-11-20)": "two"}
    assert home.send({"lab": "two"}) == {}
    assert home.send({"lab/a": "two", "lab/b": "two"})["lab/b"] == UPDATED


@pytest.mark.parametrize("own", ["file", "folder", "link", "renamed"])
def test_what_a_student_put_into_the_folder_keeps_it(home, own):
    home.send({"lab/a": "one"})
    mine = home.target / "lab/mine"
    if own == "file":
        mine.write_text("one")
    elif own == "folder":
        mine.mkdir()
    elif own == "link":
        mine.symlink_to("a")
    else:
        (home.target / "lab/a").rename(mine)
    assert home.send({"lab": "two"}) == {"lab": (BESIDE, "lab (update 2026-11-20)")}
    assert os.path.lexists(mine)


def test_a_file_below_the_new_folder_that_the_student_has_is_the_students(home):
    home.send({"lab": "one"})
    (home.target / "lab").unlink()
    (home.target / "lab").mkdir()
    (home.target / "lab/a").write_text("mine")
    assert home.send({"lab/a": "two", "lab/b": "two"}) == {
        "lab/a": (BESIDE, "lab/a (update 2026-11-20)"),
        "lab/b": NEW,
    }
    assert home.read()["lab/a"] == "mine"


def test_who_deleted_the_old_kind_gets_the_new_one(home):
    home.send({"lab": "one", "week/a": "one"})
    (home.target / "lab").unlink()
    (home.target / "week/a").unlink()
    (home.target / "week").rmdir()
    assert home.send({"lab/a": "two", "week": "two"}) == {"lab/a": NEW, "week": NEW}
    assert sorted(home.ledger) == ["lab/a", "week"]


def test_only_new_files_leave_the_old_kind_as_it_is(home):
    home.send({"lab": "one", "week/a": "one"})
    assert home.send({"lab/a": "two", "week": "two", "more": "x"}, only_new=True) == {"more": NEW}
    assert home.read() == {"lab": "one", "week/a": "one", "more": "x"}


def test_a_file_of_the_folder_that_is_open_for_writing_keeps_the_folder(home):
    home.send({"lab/a": "one"})
    with (home.target / "lab/a").open("r+"):
        assert home.send({"lab": "two"}) == {"lab": (BESIDE, "lab (update 2026-11-20)")}


def test_what_a_killed_run_left_of_a_change_of_kind_is_cleared_away(home):
    home.send({"lab/a": "one", "old": "one"})
    (home.target / "lab").rename(home.target / ".nblauncher-swap-00000001-lab")  # killed after the exchange
    (home.target / "lab").write_text("two")
    (home.target / ".nblauncher-swap-00000002-old").mkdir()  # and before it
    assert home.send({"lab": "two", "old/b": "two"}) == {"lab": UNCHANGED, "old": REPLACED, "old/b": NEW}
    assert sorted(path.name for path in home.target.iterdir()) == ["lab", "old"]
    assert sorted(home.ledger) == ["lab", "old/b"]


def test_work_in_a_folder_that_a_killed_run_had_exchanged_is_shown(home):
    home.send({"lab/a": "one"})
    (home.target / "lab/mine").write_text("mine")
    (home.target / "lab").rename(home.target / ".nblauncher-swap-00000001-lab")
    (home.target / "lab").write_text("two")
    assert home.send({"lab": "two"})["lab"] == [UNCHANGED, (KEPT, "lab (kept 2026-11-20)")]
    assert home.read() == {"lab": "two", "lab (kept 2026-11-20)/mine": "mine"}


def test_a_folder_that_is_written_into_after_the_exchange_is_shown(tmp_path):
    folder = opened(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/a").write_text("one")
    way_in = opened(tmp_path / "lab")
    given = {"a": (hashlib.sha256(b"one").hexdigest(), 3)}
    running = replacement.Replacements(kept_name, lambda: None)
    with write_draft(folder, "two") as draft:
        assert running.replace_folder(draft, "", "lab", given)
    os.close(os.open("late", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=way_in))
    running.clear()
    assert running.kept == [("lab", "lab (kept 2026-11-20)")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "lab (kept 2026-11-20)"]
    assert [path.name for path in (tmp_path / "lab (kept 2026-11-20)").iterdir()] == ["late"]


def test_a_target_folder_that_is_a_link_blocks_everything(home, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    home.target.symlink_to(tmp_path / "elsewhere")
    outcomes = home.send({"lab1": "one", "week1/data": "two"})
    assert {outcome[0] for outcome in outcomes.values()} == {BLOCKED}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert home.ledger == {}


def test_a_home_that_is_a_link_is_refused(home, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with material.bundle_of({}, tmp_path) as bundle, pytest.raises(HostError, match="cannot be opened"):
        delivered(delivery.Shipment("tutorial", (), bundle, {}, DAY), tmp_path / "link")


def test_news_of_something_else_is_told_without_any_file(home):
    home.send({"lab1.txt": "one"}, news="Monday")
    assert home.send({}, news="Tuesday", lines=("`~/feedback/ps1/lab1.html`: feedback",)) == {delivery.NEWS: UPDATED}
    told = (home.target / delivery.NEWS).read_text()
    assert told.index("## Tuesday\n\n- `~/feedback/ps1/lab1.html`: feedback\n") < told.index(
        "## Monday\n\n- `lab1.txt`"
    )
    assert home.send({}, lines=("no heading, no news",)) == {}


def test_names_may_be_odd_and_long(home):
    names = {"a\nb": "1", "-rf": "2", " ": "3", "ä" * 127: "4", "x" * 255: "5", "'\";$(id)": "6"}
    assert set(home.send(names).values()) == {NEW}
    for name in names:
        (home.target / name).write_text("mine")
    outcomes = home.send({name: "new" + value for name, value in names.items()})
    assert {outcome[0] for outcome in outcomes.values()} == {BESIDE}
    assert sorted(home.read().values()) == sorted(["mine"] * 6 + ["new" + value for value in names.values()])


@pytest.mark.parametrize(
    "name, number, expected",
    [
        ("lab1.ipynb", 1, "lab1 (update 2026-11-20).ipynb"),
        ("lab1.ipynb", 2, "lab1 (update 2026-11-20 2).ipynb"),
        ("Makefile", 1, "Makefile (update 2026-11-20)"),
        (".hidden", 1, ".hidden (update 2026-11-20)"),
        ("a." + "x" * 253, 2, "a." + "x" * 231 + " (update 2026-11-20 2)"),
        ("x" * 250 + ".txt", 1, "x" * 231 + " (update 2026-11-20).txt"),
    ],
)
def test_the_name_beside(name, number, expected):
    assert copy_name("update 2026-11-20", name, number) == expected


def test_what_a_killed_run_left_is_cleared_away_and_never_mistaken_for_rubbish(home):
    home.send({"lab1.ipynb": "one", "lab2": "one"})
    left = {
        ".nblauncher-writing-0123456789abcdef": "half a fi",
        ".nblauncher-swap-01234567-lab1.ipynb": "one",
        ".nblauncher-swap-89abcdef-lab1.ipynb": "saved this moment",
        ".nblauncher-swap-00000000-lab3": "back to its name",
        ".nblauncher-notes": "not made by us",
    }
    for name, text in left.items():
        (home.target / name).write_text(text)
    outcomes = home.send({"lab1.ipynb": "two", "lab2": "one"})
    assert outcomes["lab1.ipynb"] == [UPDATED, (KEPT, "lab1 (kept 2026-11-20).ipynb")]
    assert home.read() == {
        ".nblauncher-notes": "not made by us",
        "lab1 (kept 2026-11-20).ipynb": "saved this moment",
        "lab1.ipynb": "two",
        "lab2": "one",
        "lab3": "back to its name",
    }


def test_a_temporary_file_that_another_run_uses_is_left_alone(home):
    home.send({"lab1": "one"})
    busy = home.target / ".nblauncher-writing-0123456789abcdef"
    with busy.open("w") as stream:
        assert drafts.lock(stream.fileno())
        home.send({"lab1": "two"})
        assert busy.exists()
    home.send({"lab1": "three"})
    assert not busy.exists()


def opened(folder):
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def write_draft(folder, text, **options):
    draft = drafts.new_draft(folder, 0o600, **options)
    os.write(draft.descriptor, text.encode())
    return draft


def test_a_file_system_without_nameless_files_gives_the_same(tmp_path):
    folder = opened(tmp_path)
    with write_draft(folder, "one", nameless=False) as draft:
        assert [file.name.startswith(drafts.WRITING) for file in tmp_path.iterdir()] == [True]
        draft.appear("lab1")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lab1", "one")]
    with pytest.raises(FileExistsError), write_draft(folder, "two", nameless=False) as draft:
        draft.appear("lab1")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lab1", "one")]


def test_a_file_system_without_exchange_gives_the_same(tmp_path):
    (tmp_path / "name").write_text("old")
    (tmp_path / "swap").write_text("new")
    replacement.exchange_in_steps(opened(tmp_path), "swap", "name")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"name": "new", "swap": "old"}


@pytest.mark.parametrize("in_place", [True, False])
def test_an_edit_saved_between_the_look_and_the_exchange_goes_back_to_its_name(tmp_path, in_place):
    lab = tmp_path / "lab1"
    lab.write_text("one")
    folder, old = opened(tmp_path), os.open(lab, os.O_RDONLY)
    if in_place:
        lab.write_text("edited")
    else:
        (tmp_path / "editor").write_text("edited")
        (tmp_path / "editor").rename(lab)
    swapping = replacement.Replacements(kept_name, lambda: None)
    sha256 = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # of "one"
    with write_draft(folder, "two") as draft:
        assert not swapping.replace(draft, "", "lab1", old, leases.Hold.UNSUPPORTED, sha256)
    os.close(old)
    swapping.recover("", folder, {(sha256, 3), ("3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", 3)})
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"lab1": "edited"}


def test_an_edit_saved_after_the_exchange_through_an_older_way_in_is_shown(tmp_path):
    """The editor was on its way from the name to the file when they changed places."""
    lab = tmp_path / "lab1.ipynb"
    lab.write_text("one")
    folder, old = opened(tmp_path), os.open(lab, os.O_RDONLY)
    late = os.open(lab, os.O_PATH)
    swapping = replacement.Replacements(kept_name, lambda: None)
    held = leases.hold(old)
    assert held is leases.Hold.HELD
    with write_draft(folder, "two") as draft:
        assert swapping.replace(draft, "", "lab1.ipynb", old, held, "")
    os.close(old)

    def save():
        with open(f"/proc/self/fd/{late}", "w") as stream:  # waits for the lease
            stream.write("edited")

    editor = threading.Thread(target=save)
    editor.start()
    while swapping._retired and replacement._is_final(swapping._retired[0]):
        pass
    swapping.clear()
    editor.join(timeout=60)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "lab1.ipynb": "two",
        "lab1 (kept 2026-11-20).ipynb": "edited",
    }
    assert swapping.kept == [("lab1.ipynb", "lab1 (kept 2026-11-20).ipynb")]


def test_root_gets_nothing_delivered(tmp_path):
    with material.bundle_of({"a": b""}, tmp_path) as bundle, pytest.raises(RefusedError, match="uid 0"):
        delivery.deliver(Account("root", 0, 0, tmp_path), delivery.Shipment("tutorial", (), bundle, {}, DAY))


SHA256 = "0" * 64
RECORD = {"path": "a", "sha256": SHA256, "size": 1, "mtime_ns": 1, "inode": 1, "ctime_ns": 1, "base": ""}
PLACED = {"outcome": NEW, "path": "a", "detail": "", "reason": "", "trusted": "", "records": [RECORD], "forgotten": []}
FINISH = {"kind": "finish", "failure": ""}


def reported(rows):
    return [{"kind": "rows", "rows": rows}, FINISH]


def write_frames(output, frames):
    for frame in frames:
        workers.write_frame(output, frame)


@pytest.mark.parametrize(
    "frames",
    [
        *map(reported, ["rows", 7, {"a": 1}, [7], [["new", "a"]], [[NEW, "a", "", "", "", []]], [{}], None]),
        *(
            reported([{**PLACED, key: value}])
            for key, value in [
                *[("outcome", value) for value in ("", "deleted", 1, None, [NEW])],
                *[("path", value) for value in ("", "/etc", "../b", "a/../b", "a\0b", "\ud800", 1, None, "unsent")],
                *[("detail", value) for value in (1, None, [], "x" * 70_000)],
                *[("reason", value) for value in (1, None, {})],
                *[("trusted", value) for value in ("a", SHA256.upper() + "g", 1, None)],
                *[("records", value) for value in (None, "records", [1], [["a", SHA256, 1, 1, 1, 1]], [{}])],
                *[("forgotten", value) for value in (None, ["a"], [{"path": ".."}], [{"path": "caf\udce9"}])],
            ]
        ),
        *(
            reported([{**PLACED, "records": [{**RECORD, key: value}]}])
            for key, value in [
                *[("path", value) for value in ("", "/a", "..", "caf\udce9", 1, None)],
                *[("sha256", value) for value in ("x", SHA256 + "0", 1, None)],
                *[("size", value) for value in (-1, 1.5, True, "1", None, 1 << 63)],
                *[("mtime_ns", value) for value in (1.5, False, "1", None, 1 << 63, -(1 << 64))],
                *[("inode", value) for value in (-1, 1.5, None)],
                *[("ctime_ns", value) for value in ([], None)],
                *[("base", value) for value in ("x", "gone:", 1, None)],
            ]
        ),
        [*[{"kind": "rows", "rows": [PLACED] * 1000}] * 101, FINISH],
        [{"kind": "rows", "rows": [PLACED]}],
        [{"kind": "finish"}],
        [{"kind": "finish", "failure": 7}],
        [FINISH, FINISH],
        [FINISH, {"kind": "rows", "rows": [PLACED]}],
        [{}],
        [],
    ],
)
def test_what_the_students_child_reports_is_not_believed(tmp_path, frames):
    me = Account("me", os.geteuid(), os.getegid(), tmp_path)
    with material.bundle_of({"a": b"1"}, tmp_path) as bundle:
        shipment = delivery.Shipment("tutorial", tuple(bundle.items.values()), bundle, {}, DAY)
        with pytest.raises(HostError):
            child = frames_of(me, write_frames, frames, stall=30.0, longest=60.0)
            delivery.delivery_of(child, shipment, "ada")


def test_a_report_comes_through_the_pipe_as_it_was(tmp_path):
    known = HandedOut(SHA256, 1, -2, 3, 4, f"gone:{SHA256}")
    sent = Placed(BESIDE, "caf\udce9", "b", "why", SHA256, {"a": known, "b": FORGOTTEN})
    assert Placed.from_row(json.loads(json.dumps(sent.to_row()))) == sent


def test_only_what_was_blocked_makes_a_delivery_incomplete():
    told = [
        Placed(NEW, "a"),
        Placed(BESIDE, "b", "b (update 2026-11-20)"),
        Placed(DELETED, "c"),
        Placed(UNCHANGED, "d"),
    ]
    work = delivery.Delivery(tuple(told), bytes=7).work
    assert (work.files, work.bytes, work.is_incomplete) == (2, 7, False)
    assert [one.path for one in work.exclusions] == ["b", "c"]
    blocked = delivery.Delivery((*told, Placed(BLOCKED, "e", "a link is in its place"))).work
    assert blocked.is_incomplete


def test_a_delivery_that_stopped_says_so_after_it_was_recorded():
    with pytest.raises(HostError, match="disk full"):
        delivery.Delivery(failure="disk full").check()
    delivery.Delivery().check()
