"""Which accounts left something in folders of all, looked for once for a whole class."""

from __future__ import annotations

import json
import os

import pytest

from nblauncher.system.leftovers import left_in, owners_below

ME = os.geteuid()
NOBODY_HERE = 3_999_999


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    return tmp_path


def test_an_owner_is_found_at_any_depth_and_one_who_has_nothing_is_not(shared):
    assert owners_below([str(shared)], {NOBODY_HERE}, 5) == ([], True)
    assert owners_below([str(shared)], {ME, NOBODY_HERE}, 5) == ([ME], True)


@pytest.mark.skipif(ME != 0, reason="gives files away")
def test_a_file_deep_below_folders_of_others_is_found(shared):
    os.chown(shared / "a" / "b" / "file", NOBODY_HERE, NOBODY_HERE)
    assert owners_below([str(shared)], {NOBODY_HERE}, 5) == ([NOBODY_HERE], True)


@pytest.mark.skipif(ME != 0, reason="gives files away")
def test_what_one_student_left_in_the_folder_of_another_is_found(shared):
    os.chown(shared / "a", NOBODY_HERE + 1, NOBODY_HERE + 1)
    os.chown(shared / "a" / "b" / "file", NOBODY_HERE, NOBODY_HERE)
    both = [NOBODY_HERE, NOBODY_HERE + 1]
    assert owners_below([str(shared)], set(both), 5) == (both, True)


def test_a_link_is_not_followed_and_a_folder_that_is_gone_is_no_matter(shared):
    (shared / "link").symlink_to("/")
    assert owners_below([str(shared), str(shared / "gone")], {NOBODY_HERE}, 5) == ([], True)


def test_no_time_means_no_certainty(shared):
    assert owners_below([str(shared)], {NOBODY_HERE}, -1)[1] is False


@pytest.mark.skipif(ME != 0, reason="becomes another account")
def test_a_folder_closed_to_the_searcher_and_open_to_others_leaves_it_uncertain(shared):
    there = os.open(shared, os.O_PATH)  # the folders above it may be closed to other accounts
    shared.chmod(0o755)

    def searched() -> tuple[list[int], bool]:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.fchdir(there)
            os.setgroups([])
            os.setresgid(NOBODY_HERE, NOBODY_HERE, NOBODY_HERE)
            os.setresuid(NOBODY_HERE, NOBODY_HERE, NOBODY_HERE)
            os.write(writer, json.dumps(owners_below(["."], {NOBODY_HERE}, 5)).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, encoding="ascii") as answer:
            found, is_certain = json.loads(answer.read())
        os.wait()
        return found, is_certain

    (shared / "a").chmod(0o700)
    assert searched() == ([], True), "closed to all students"
    (shared / "a").chmod(0o770)
    assert searched() == ([], False), "its group may have an account that can enter"
    os.close(there)


def test_nobodys_files_use_up_the_share_of_another(shared):
    for number in range(30):
        (shared / f"{number}").write_text("")
    uids = {ME, *range(3_000_000, 3_000_200)}
    found, unseen = left_in([str(shared)], uids, 5)
    assert len(found[ME]) == 20 and "not searched to the end" in unseen[0]
    found, unseen = left_in([str(shared)], [ME], 5)
    assert len(found[ME]) == 31 and unseen == []


def test_below_an_own_folder_only_the_folder_is_listed(shared):
    found, _unseen = left_in([str(shared), str(shared / "a"), str(shared / "a" / "b")], [ME], 5)
    assert found == {ME: [str(shared / "a")]}
    assert left_in([str(shared / "none")], [ME], 5) == ({ME: []}, [str(shared / "none")])
