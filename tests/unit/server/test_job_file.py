"""The file in the home with which a server on a node starts."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.server import job_file
from nblauncher.server.job_file import JobFile

GIVEN = JobFile("{}", "certificate", "key", {"title": "Physics"}, {"TZ": "UTC"})


def test_it_is_private_and_read_once(tmp_path):
    file = job_file.put(tmp_path, "0a", GIVEN)
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    assert job_file.take(file) == GIVEN
    assert not file.exists()
    with pytest.raises(HostError, match="cannot be read"):
        job_file.take(file)


def test_a_dropped_one_starts_nothing(tmp_path):
    file = job_file.put(tmp_path, "0a", GIVEN)
    job_file.drop(tmp_path, "0a")
    job_file.drop(tmp_path, "0a")
    with pytest.raises(HostError):
        job_file.take(file)


def test_one_that_no_job_has_read_goes_with_the_next_of_the_same_class(tmp_path):
    left = job_file.put(tmp_path, "0a", replace(GIVEN, course="physics"))
    another = job_file.put(tmp_path, "0b", replace(GIVEN, course="chemistry"))
    job_file.put(tmp_path, "0c", replace(GIVEN, course="physics"))
    assert another.exists() and not left.exists()


def test_a_link_of_the_students_removes_nothing_else(tmp_path):
    link = job_file.put(tmp_path, "0a", replace(GIVEN, course="physics")).with_name("physics.current")
    (tmp_path / "precious.json").touch()
    link.unlink()
    link.symlink_to("../../../../precious")
    job_file.put(tmp_path, "0b", replace(GIVEN, course="physics"))
    assert (tmp_path / "precious.json").exists()


@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_one_that_others_could_read_or_write_is_refused(tmp_path, mode):
    file = job_file.put(tmp_path, "0a", GIVEN)
    file.chmod(mode)
    with pytest.raises(RefusedError):
        job_file.take(file)


def test_a_link_is_not_followed(tmp_path):
    file = job_file.put(tmp_path, "0a", GIVEN)
    link = file.with_name("0b.json")
    link.symlink_to(file)
    with pytest.raises(HostError):
        job_file.take(link)
    assert file.exists()


def test_secrets_are_not_in_its_repr():
    assert "certificate" not in repr(GIVEN).replace("certificate=", "") and "'key'" not in repr(GIVEN)


def test_a_damaged_one_is_named(tmp_path):
    file = job_file.put(tmp_path, "0a", GIVEN)
    file.write_bytes(b"{")
    with pytest.raises(HostError, match="damaged"):
        job_file.take(file)


def test_the_latest_start_of_the_class_is_the_only_valid_one(tmp_path):
    folder = job_file.folder_of(tmp_path)
    assert not job_file.is_superseded(folder, "physics", "0a")  # a home that is not there says nothing
    job_file.put(tmp_path, "0a", replace(GIVEN, course="physics"))
    job_file.put(tmp_path, "0c", replace(GIVEN, course="chemistry"))
    assert not job_file.is_superseded(folder, "physics", "0a")
    job_file.put(tmp_path, "0b", replace(GIVEN, course="physics"))
    assert job_file.is_superseded(folder, "physics", "0a") and not job_file.is_superseded(folder, "physics", "0b")
    job_file.withdraw(tmp_path, "physics")
    assert job_file.is_superseded(folder, "physics", "0b") and not job_file.is_superseded(folder, "chemistry", "0c")


def test_the_end_of_a_jobs_log_is_printable_and_short_and_nothing_but_a_file(tmp_path):
    job_file.put(tmp_path, "0a", GIVEN)
    log = job_file.folder_of(tmp_path) / "7.log"
    log.write_bytes(b"x" * 99_999 + b"\n1\n2\n3\n4\n\n  \x1b[2Jlast \xff\n")
    assert job_file.last_lines(str(tmp_path), 7) == ["1", "2", "3", "4", "\\x1b[2Jlast \ufffd"]
    log.unlink()
    os.mkfifo(log)
    assert job_file.last_lines(str(tmp_path), 7) == []
    assert job_file.last_lines(str(tmp_path), 8) == []
