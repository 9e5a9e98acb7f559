"""Parcels arrive as they were sent, and no sender can fill the reader's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from nblauncher.errors import HostError
from nblauncher.grading import parcels
from nblauncher.system import workers


def received(send: Callable[[int], None], *, most: int) -> list[parcels.Parcel]:
    reader, writer = os.pipe()

    def act() -> None:
        try:
            send(writer)
        except BrokenPipeError:
            pass  # the reader had enough
        finally:
            os.close(writer)

    sender = threading.Thread(target=act)
    sender.start()
    try:
        return list(parcels.take(reader, most=most))
    finally:
        os.close(reader)
        sender.join()


@pytest.mark.parametrize("size", [0, 1, workers.MAX_PAYLOAD, workers.MAX_PAYLOAD + 1, 3 * workers.MAX_PAYLOAD])
def test_a_parcel_of_any_size_arrives_whole(size):
    data = os.urandom(size)
    (found,) = received(lambda end: parcels.put(end, "file", data, "a/b.txt"), most=size)
    assert (found.kind, found.name, found.data) == ("file", "a/b.txt", data)


def test_what_comes_after_the_end_is_not_read():
    def send(end: int) -> None:
        parcels.put_json(end, "order", {"a": [1]})
        parcels.put(end, parcels.END)
        parcels.put(end, "late", b"x")

    (found,) = received(send, most=100)
    assert found.json() == {"a": [1]}


def test_more_than_is_accepted_is_refused_before_it_is_held():
    def send(end: int) -> None:
        for _ in range(1000):
            parcels.put(end, "file", bytes(workers.MAX_PAYLOAD))

    with pytest.raises(HostError, match="sent more than"):
        received(send, most=5_000_000)


def test_a_parcel_without_an_end_is_refused():
    def send(end: int) -> None:
        workers.write_frame(end, {"kind": "file", "name": "x", "more": True}, b"half")

    with pytest.raises(HostError, match="in the middle of a parcel"):
        received(send, most=100)


@pytest.mark.parametrize("header", [{}, {"kind": 1, "name": ""}, {"kind": "file", "name": None}])
def test_a_frame_that_says_nothing_is_refused(header):
    with pytest.raises(HostError, match="without a kind"):
        received(lambda end: workers.write_frame(end, header), most=100)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_not_json_is_refused(data):
    (found,) = received(lambda end: parcels.put(end, "order", data), most=1 << 20)
    with pytest.raises(HostError, match="not JSON"):
        found.json()
