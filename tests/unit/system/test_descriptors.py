"""Memory files nobody can change, and descriptors that are taken back only when they are what they were."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nblauncher.model import Account
from nblauncher.system import descriptors, libc
from nblauncher.system.descriptors import Listener, describe, is_sealed, sealed, take_listener, take_pipe

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def me() -> Account:
    entry = pwd.getpwuid(os.getuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def test_a_sealed_file_cannot_be_changed_by_anybody():
    descriptor = sealed(b"secret", me())
    try:
        assert is_sealed(descriptor) and os.pread(descriptor, 100, 0) == b"secret"
        for change in (
            lambda: os.pwrite(descriptor, b"x", 0),
            lambda: os.truncate(descriptor, 0),
            lambda: os.truncate(descriptor, 100),
        ):
            with pytest.raises(PermissionError):
                change()
        assert os.fstat(descriptor).st_mode & 0o777 == 0o400
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_other_files_are_not_sealed(tmp_path):
    writable = os.memfd_create("writable", os.MFD_ALLOW_SEALING)
    with (tmp_path / "file").open("wb") as file:
        assert not is_sealed(writable) and not is_sealed(file.fileno())
    os.close(writable)


HOLD = "import sys, os; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"


@pytest.fixture
def held():
    """A process that holds a listening socket and the writing end of a pipe."""
    listening = socket.create_server(("127.0.0.1", 0))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        pass_fds=[listening.fileno()],
    )
    assert process.stdout is not None and process.stdout.read(1) == b"x"
    pidfd = os.pidfd_open(process.pid)
    wanted, inode = describe(listening), os.fstat(reading).st_ino
    listening.close()
    os.close(reading)
    yield process.pid, pidfd, wanted, inode, writing
    os.close(writing)
    os.close(pidfd)
    process.kill()
    process.communicate()


@pytest.mark.adoption
@needs_root
def test_a_listening_socket_is_taken_back(held):
    pid, pidfd, wanted, _inode, _writing = held
    taken = take_listener(pidfd, pid, wanted)
    assert taken is not None and describe(taken) == wanted
    with taken, socket.create_connection(taken.getsockname()), taken.accept()[0]:
        pass


@needs_root
@pytest.mark.parametrize("field, change", [("port", 1), ("inode", 1), ("family", 8)])
def test_another_socket_is_not_taken(held, field, change):
    pid, pidfd, wanted, _inode, _writing = held
    facts = {"port": wanted.port, "family": wanted.family, "inode": wanted.inode}
    assert take_listener(pidfd, pid, Listener(**{**facts, field: facts[field] + change})) is None


@needs_root
def test_a_connected_socket_is_no_listener():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inode = os.fstat(ours.fileno()).st_ino
        pidfd = os.pidfd_open(os.getpid())
        assert take_listener(pidfd, os.getpid(), Listener(0, int(socket.AF_UNIX), inode)) is None
        os.close(pidfd)


@pytest.mark.adoption
@needs_root
def test_the_reading_end_of_a_servers_output_is_opened_anew(held):
    pid, pidfd, _wanted, inode, writing = held
    reading = take_pipe(pidfd, pid, inode)
    assert reading is not None
    os.write(writing, b"hello")
    assert os.read(reading, 10) == b"hello"
    with pytest.raises(BlockingIOError):
        os.read(reading, 10)
    os.close(reading)
    assert take_pipe(pidfd, pid, inode + 10_000_000) is None


def test_a_descriptor_that_is_not_there_is_an_error():
    pidfd = os.pidfd_open(os.getpid())
    with pytest.raises(OSError, match="pidfd_getfd"):
        libc.pidfd_getfd(pidfd, 9999)
    os.close(pidfd)


def test_the_peer_of_a_unix_socket_is_known():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert descriptors.peer_uid(ours) == os.getuid()
