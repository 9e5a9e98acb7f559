"""The students' ports: one for each seat, or behind the proxy a unix socket, held whether a server runs or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nblauncher.errors import HostError
from nblauncher.model import ServerState
from nblauncher.supervisor import ports, states
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import Behind, Seat
from nblauncher.supervisor.states import Action, Event


class SeatPorts:
    """Makes seats and removes them. `close` closes all that a seat holds; `changed` are the seats to be remembered."""

    def __init__(
        self, seats: dict[str, Seat], sandboxes: Sandboxes, close: Callable[[Seat], None], changed: set[str]
    ) -> None:
        self._seats, self._sandboxes, self._close, self._changed = seats, sandboxes, close, changed

    def bind(
        self, username: str, uid: int, port: int, addresses: Sequence[str], behind: Behind | None = None
    ) -> list[str]:
        """Hold this port for this student, or the socket behind the proxy. Returns notes for the teacher. Nothing
        happens when it is held already.

        HostError when another process holds it, or while the student's server runs on another one.
        """
        seat = self._seats.get(username)
        if seat is not None and (seat.uid, seat.port) == (uid, port) and seat.is_at(behind):
            ports.listen_again(seat.sockets)
            return []
        if seat is not None and (seat.sockets or (seat.uid, seat.port) != (uid, port)):
            # A job that runs on is not disturbed by opening the port that it was adopted without.
            _check_released(seat, f"{username}'s server still runs on port {seat.port}")
        if behind is None:
            sockets, notes = ports.open_port(port, addresses)
        else:
            sockets, notes = ports.open_socket(behind.folder / f"{uid}.sock", behind.gid), []
        if seat is None or (seat.uid, seat.port) != (uid, port):
            if seat is not None:
                self._close(seat)
            seat = self._seats[username] = Seat(username, uid, port, self._sandboxes.group(uid))
        seat.close_sockets()
        seat.sockets = sockets
        self._changed.add(username)
        return notes

    def drop(self, username: str) -> None:
        """Close a student's port. HostError while the server runs."""
        seat = self._seats.get(username)
        if seat is None:
            return
        _check_released(seat, f"{username}'s server still runs")
        self._close(seat)
        del self._seats[username]
        self._changed.add(username)

    def show(self, usernames: Iterable[str]) -> None:
        """Let the proxy reach the servers that run, or start on demand, and no others: a job may wait for hours."""
        for username in usernames:
            seat = self._seats.get(username)
            if seat is not None:
                is_due = seat.is_up and seat.state is not ServerState.QUEUED
                ports.show(seat.sockets, is_shown=is_due or seat.state is ServerState.ASLEEP)


def _check_released(seat: Seat, problem: str) -> None:
    if states.decide(seat.username, seat.phase, Event.RELEASE) is not Action.RELEASE:
        raise HostError(problem, "Stop it first: nblauncher shutdown")
