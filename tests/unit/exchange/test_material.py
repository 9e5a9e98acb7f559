"""What of the teacher's folder goes out, read by a child that keeps the uid that runs the tests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nblauncher.errors import HostError, InputError
from nblauncher.exchange.send import material
from nblauncher.model import Account, Material

OWNER = Account("me", os.geteuid(), os.getegid(), Path("/"))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "material"
    (folder / "week1").mkdir(parents=True)
    (folder / "lab1.ipynb").write_text("{}")
    (folder / "week1" / "data.csv").write_text("1,2\n")
    return folder


def index(source, previous=None):
    return material.index(Material(source, "tutorial"), OWNER, previous=previous)


def spooled(source, paths, folder):
    return material.spool(Material(source, "tutorial"), OWNER, paths, folder)


def content(bundle, path):
    return os.pread(bundle.descriptor, bundle.items[path].size, bundle.offsets[path])


def refused(found):
    return {one.path: one.reason for one in found.exclusions}


def age(source):
    """Make every file old enough for its times to prove something."""
    for file in source.rglob("*"):
        os.utime(file, (1, 1))


def test_every_file_is_indexed_by_path_with_its_content(source):
    found = index(source)
    assert [(item.path, item.size, item.mode) for item in found.items] == [
        ("lab1.ipynb", 2, 0o600),
        ("week1/data.csv", 4, 0o600),
    ]
    assert found.exclusions == ()


def test_the_digest_is_another_when_any_content_path_or_mode_is(source):
    digests = [index(source).digest, index(source).digest]
    assert digests[0] == digests[1]
    (source / "lab1.ipynb").write_text("[]")
    digests.append(index(source).digest)
    (source / "lab1.ipynb").chmod(0o755)
    digests.append(index(source).digest)
    (source / "lab1.ipynb").rename(source / "lab2.ipynb")
    digests.append(index(source).digest)
    assert len(set(digests)) == 4


def test_links_and_special_files_are_refused_with_a_message_and_not_followed(source, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (source / "link").symlink_to(tmp_path / "outside" / "secret")
    (source / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(source / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(source, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{here}/socket")
    found = index(source)
    listener.close()
    os.close(here)
    assert [item.path for item in found.items] == ["lab1.ipynb", "week1/data.csv"]
    assert refused(found) == {
        "fifo": "a FIFO is not handed out",
        "link": "a link is not handed out",
        "linked": "a link is not handed out",
        "socket": "a socket is not handed out",
    }
    assert not any(one.incomplete for one in found.exclusions)


def test_special_bits_are_dropped_with_a_message_and_the_execute_bit_is_kept(source):
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o6755)
    found = index(source)
    assert {item.path: item.mode for item in found.items}["run.sh"] == 0o700
    assert refused(found) == {"run.sh": "handed out without its setuid and setgid bit"}


def test_leftovers_of_editors_and_tools_are_not_handed_out(source):
    for name in (".ipynb_checkpoints", "__pycache__", ".git"):
        (source / "week1" / name).mkdir()
        (source / "week1" / name / "inside").write_text("x")
    (source / ".DS_Store").write_text("x")
    (source / ".hidden").write_text("wanted")
    found = index(source)
    assert [item.path for item in found.items] == [".hidden", "lab1.ipynb", "week1/data.csv"]
    assert found.exclusions == ()


def test_an_empty_folder_is_named(source):
    (source / "results" / "deep").mkdir(parents=True)
    assert refused(index(source)) == {"results/deep": "an empty folder is not handed out"}


def test_names_that_no_ledger_and_no_browser_can_show_are_refused(source):
    with open(os.fsencode(source) + b"/\xff.txt", "w"):
        pass
    (source / "odd\nname").write_text("x")
    (source / ".nblauncher-swap-00000000-lab1.ipynb").write_text("x")
    found = index(source)
    assert [item.path for item in found.items] == ["lab1.ipynb", "odd\nname", "week1/data.csv"]
    assert set(refused(found)) == {"\udcff.txt", ".nblauncher-swap-00000000-lab1.ipynb"}


def test_a_file_made_of_holes_is_refused(source):
    with (source / "huge").open("wb") as stream:
        stream.truncate(1 << 40)
    found = index(source)
    assert refused(found) == {"huge": "file too large"}
    assert all(one.incomplete for one in found.exclusions)


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        index(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_folder_with_far_too_many_entries_is_refused(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(material.teacher_side.MAX_ENTRIES + 1):
        (folder / str(number)).symlink_to("x")
    with pytest.raises(InputError, match="is it the right one"):
        index(folder)


def test_a_tree_of_300_levels_is_cut_off_with_a_message(source):
    here = os.open(source, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = index(source)
    assert len(found.items) == 2
    assert [one.reason for one in found.exclusions] == ["more than 64 levels deep"]


def test_untouched_files_are_not_read_again(source):
    age(source)
    real = index(source)
    remembered = material.Index(tuple(material.Item(i.path, i.size, "f" * 64, i.mode, i.stamp) for i in real.items))
    stamped = [item for item in real.items if item.stamp != (0, 0, 0, 0)]
    again = {item.path: item.sha256 for item in index(source, remembered).items}
    assert all(again[item.path] == "f" * 64 for item in stamped)
    (source / "lab1.ipynb").write_text("new")
    again = {item.path: item.sha256 for item in index(source, remembered).items}
    assert again["lab1.ipynb"] not in ("f" * 64, real.items[0].sha256)


def test_a_file_written_this_moment_is_always_read_again(source):
    (source / "lab1.ipynb").write_text("just now")
    assert {item.path: item.stamp for item in index(source).items}["lab1.ipynb"] == (0, 0, 0, 0)


def test_an_index_is_remembered_and_a_damaged_memory_only_costs_time(source, tmp_path):
    file = tmp_path / "material.json"
    assert material.recall(file) is None
    found = index(source)
    material.remember(found, file)
    assert material.recall(file) == material.Index(found.items)
    for damage in ("", "{}", "[[1,2]]", '[["../x", 1, "f", 384, [0,0,0,0]]]', "[1]"):
        file.write_text(damage)
        assert material.recall(file) in (None, material.Index())


def test_the_spool_holds_what_was_asked_for_and_nothing_else(source, tmp_path):
    (source / "big").write_bytes(os.urandom(3_000_001))
    (source / "empty").write_bytes(b"")
    with spooled(source, ["big", "empty", "week1/data.csv"], tmp_path) as bundle:
        assert set(bundle.items) == {"big", "empty", "week1/data.csv"}
        assert content(bundle, "big") == (source / "big").read_bytes()
        assert content(bundle, "week1/data.csv") == b"1,2\n"
        assert content(bundle, "empty") == b""
        assert os.fstat(bundle.descriptor).st_size == 3_000_005
        assert {item.sha256 for item in index(source).items} >= {item.sha256 for item in bundle.items.values()}


def test_the_spool_has_no_name_and_may_only_be_read(source, tmp_path):
    with spooled(source, ["lab1.ipynb"], tmp_path) as bundle:
        assert os.fstat(bundle.descriptor).st_nlink == 0
        assert os.fstat(bundle.descriptor).st_mode & 0o7777 == 0o600
        with pytest.raises(OSError):
            os.write(bundle.descriptor, b"x")
        assert [entry.name for entry in tmp_path.iterdir()] == ["material"]


def test_a_file_saved_after_the_index_is_spooled_with_its_new_content(source, tmp_path):
    before = index(source).items[0]
    (source / "lab1.ipynb").write_text("saved later")
    with spooled(source, ["lab1.ipynb"], tmp_path) as bundle:
        assert bundle.items["lab1.ipynb"].sha256 != before.sha256
        assert content(bundle, "lab1.ipynb") == b"saved later"


def test_a_file_that_vanished_or_became_a_link_is_left_out_of_the_spool_with_a_message(source, tmp_path):
    (source / "gone").write_text("x")
    (source / "lab1.ipynb").unlink()
    (source / "lab1.ipynb").symlink_to("/etc/passwd")
    (source / "gone").unlink()
    (source / "week1").rename(source / "week2")
    (source / "week1").symlink_to("week2")
    with spooled(source, ["lab1.ipynb", "gone", "week1/data.csv"], tmp_path) as bundle:
        assert bundle.items == {}
        assert {one.path: one.incomplete for one in bundle.exclusions} == dict.fromkeys(
            ["gone", "lab1.ipynb", "week1/data.csv"], True
        )
        assert os.fstat(bundle.descriptor).st_size == 0


def test_a_path_that_leads_up_is_never_read(source, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(HostError, match="not a path below"):
        spooled(source, ["../secret"], tmp_path)


def test_files_in_memory_make_a_bundle_too(tmp_path):
    with material.bundle_of({"startup/00-first.py": b"import numpy\n", "empty.py": b""}, tmp_path) as bundle:
        assert content(bundle, "startup/00-first.py") == b"import numpy\n"
        assert content(bundle, "empty.py") == b""


def test_material_for_a_folder_of_the_target_has_its_paths_there(source, tmp_path):
    (source / "link").symlink_to("lab1.ipynb")
    place = Material(source, "tutorial", folder="week2/ps1")
    found = material.index(place, OWNER)
    assert [item.path for item in found.items] == ["week2/ps1/lab1.ipynb", "week2/ps1/week1/data.csv"]
    assert list(refused(found)) == ["week2/ps1/link"]
    age(source)
    assert material.index(place, OWNER, previous=material.index(place, OWNER)).digest == found.digest
    wanted = ["week2/ps1/lab1.ipynb", "week2/ps1/missing.txt"]
    with material.spool(place, OWNER, wanted, tmp_path) as bundle:
        assert content(bundle, "week2/ps1/lab1.ipynb") == (source / "lab1.ipynb").read_bytes()
        assert list(refused(bundle)) == ["week2/ps1/missing.txt"]
