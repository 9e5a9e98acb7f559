"""Answers the ticket desk: whether a ticket is valid for the uid that redeems it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping

from nblauncher.auth.tickets import MAX_LINE, Entry, TicketBook, answer_line, is_well_formed
from nblauncher.system.wire import close_all
from nblauncher.web.ticket_desk import UID

log = logging.getLogger(__name__)


class Redemptions:
    """Answers the desk from the ticket book. `lost` is called when the desk has gone."""

    def __init__(
        self, link: socket.socket, book: TicketBook, uids: Mapping[str, int], lost: Callable[[], None]
    ) -> None:
        link.setblocking(False)
        self._link, self._book, self._uids, self._lost = link, book, uids, lost
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(link, self._heard)

    def close(self) -> None:
        self._loop.remove_reader(self._link)
        self._link.close()

    def _heard(self) -> None:
        try:
            question, descriptors, _flags, _address = socket.recv_fds(self._link, UID.size + MAX_LINE, 4)
        except BlockingIOError:
            return
        if not question:
            log.error("the ticket desk is gone")
            self._loop.remove_reader(self._link)
            self._lost()
            return
        (uid,), line = UID.unpack_from(question), question[UID.size :]
        entry = self._take(line, uid)
        words = answer_line(entry is not None, entry.visit if entry is not None else "")
        for descriptor in descriptors[:1]:
            with socket.socket(fileno=descriptor) as answer, contextlib.suppress(OSError):  # it may not wait any more
                answer.send(words, socket.MSG_DONTWAIT)
        close_all(descriptors[1:])

    def _take(self, line: bytes, uid: int) -> Entry | None:
        ticket = line.decode("ascii", "replace").removesuffix("\n")
        if not is_well_formed(ticket):
            return None
        return self._book.take(ticket, lambda username: self._uids.get(username) == uid)
