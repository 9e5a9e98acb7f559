"""Walking and deleting by descriptors."""

from __future__ import annotations

import os
import resource
import tracemalloc

import pytest

from nblauncher.errors import HostError
from nblauncher.system import deletion, files


@pytest.fixture
def root(tmp_path):
    descriptor = files.open_folder(tmp_path)
    yield descriptor
    deletion.delete_below(descriptor)  # pytest's own clean-up dies of recursion in deep trees
    os.close(descriptor)


def walked(root, **options):
    limits = {"max_depth": 64, "max_entries": 1000} | options
    return [(entry.path, entry.obstacle) for entry in files.walk(root, **limits)]


def plant(folder, *paths):
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def dig(depth, name="d"):
    """A chain of folders too deep for any path, from the current one."""
    here = os.open(".", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    os.fchdir(here)
    os.close(here)


def test_a_walk_meets_everything_folders_before_their_contents(tmp_path, root):
    plant(tmp_path, "b/2", "b/1", "a", "c/d/e")
    os.symlink("b", tmp_path / "link")
    assert [path for path, _ in walked(root)] == ["a", "b", "b/1", "b/2", "c", "c/d", "c/d/e", "link"]


def test_a_walk_says_what_it_did_not_enter(tmp_path, root):
    plant(tmp_path, "a/b/c", "x")
    assert walked(root, max_depth=2) == [("a", ""), ("a/b", "more than 2 levels deep"), ("x", "")]
    assert walked(root, max_entries=2) == [("a", ""), ("a/b", ""), ("a/b", "more than 2 entries")]
    assert walked(root, max_entries=4) == [("a", ""), ("a/b", ""), ("a/b/c", ""), ("x", "")]
    assert ("a/b", "") not in walked(root, is_left_out=lambda entry: entry.path == "a")


@pytest.mark.slow
def test_any_depth_is_walked_and_deleted_with_few_descriptors(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dig(3000)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 70, before[1]))
    try:
        met = walked(root, max_depth=4000, max_entries=4000)
        assert len(met) == 2001 and met[-1] == (met[-1][0], "a path of more than 4000 bytes")
        assert deletion.delete_below(root) == deletion.Deleted(("d",), ())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_hostile_depth_costs_no_more_than_its_length(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dig(4000, "d" * 255)
    tracemalloc.start()
    try:
        assert deletion.delete_below(root).left == ()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) == []


def test_a_deep_folder_that_moves_during_the_walk_is_reported(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dig(200)
    plant(tmp_path, "d/e")
    found = []
    for entry in files.walk(root, max_depth=300, max_entries=1000):
        found.append((entry.path, entry.obstacle))
        if entry.path.count("/") == 150:
            os.rename("/".join("d" * 100), "out")
            os.rename("d", "moved")
            os.mkdir("d")
    assert found[-1] == ("d", "was moved while it was read")
    assert not any(path == "d/e" for path, _ in found)


def test_a_name_that_became_a_link_is_not_followed(tmp_path, root):
    plant(tmp_path, "outside/file", "inside/folder/file")
    inside = files.open_folder(tmp_path / "inside")
    os.rename(tmp_path / "inside/folder", tmp_path / "inside/aside")
    os.symlink(tmp_path / "outside", tmp_path / "inside/folder")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        files.open_below(inside, "folder")
    os.symlink(tmp_path / "outside/file", tmp_path / "inside/link")
    with pytest.raises(OSError, match="Too many levels"):
        files.open_file("link", inside)
    deletion.delete_below(inside)
    assert (tmp_path / "outside/file").exists()
    assert os.listdir(tmp_path / "inside") == []
    os.close(inside)


def test_a_fifo_is_not_a_file_to_wait_at(tmp_path, root):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Too many levels"):
        files.open_file("fifo", root)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", ".", "..", "a/\0b", "x" * 256, "/".join("a" * 66)]
)
def test_only_paths_that_lead_down_are_taken(path):
    with pytest.raises(HostError):
        files.parts_of(path, max_depth=65)


def test_paths_with_odd_bytes_are_taken_as_they_are():
    path = os.fsdecode(b"a b/\xff\n/...")
    assert files.parts_of(path) == ("a b", os.fsdecode(b"\xff\n"), "...")


def test_deleting_keeps_what_it_may_not_delete_and_searches_it(tmp_path, root):
    plant(tmp_path, "keep/file", "go/deep/file", "file")
    keep = (tmp_path / "keep").stat().st_ino
    deleted = deletion.delete_below(root, lambda status: status.st_ino != keep)
    assert set(deleted.gone) == {"keep/file", "go", "file"}
    assert deleted.left == ()
    assert os.listdir(tmp_path) == ["keep"]


def test_long_answers_end_with_a_count(tmp_path, root):
    for index in range(1100):
        (tmp_path / str(index)).touch()
    gone = deletion.delete_below(root).gone
    assert len(gone) == 201 and gone[-1] == "... and 900 more"


def test_sparse_means_holes(tmp_path, root):
    (tmp_path / "full").write_bytes(b"x" * 100_000)
    os.truncate(tmp_path / "full", 100_000)
    (tmp_path / "holes").write_bytes(b"x")
    os.truncate(tmp_path / "holes", 1 << 40)
    (tmp_path / "empty").touch()
    found = {}
    for name in ("full", "holes", "empty"):
        descriptor, status = files.open_file(name, root)
        found[name] = files.is_sparse(descriptor, status)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        os.close(descriptor)
    assert found == {"full": False, "holes": True, "empty": False}


def test_a_search_among_others_files_ends_in_time_and_says_so(tmp_path):
    (tmp_path / "theirs").write_text("")
    deleted = deletion.delete_below(files.open_folder(tmp_path), lambda _status: False, patience=-1)
    assert len(deleted.left) == 1 and "not searched to its end" in deleted.left[0]


@pytest.mark.parametrize("path", ["\ud800", "a/\ud800/b", "a\0b", "../a", "a//b", "x" * 256])
def test_what_is_no_path_below_a_folder_is_refused(path):
    with pytest.raises(HostError, match="not a path"):
        files.parts_of(path)
