"""Messages in a notebook, below the cell that ran last: its kernel was ended because memory ran out or by the teacher,
or a message of the tab was too large to be passed on.

Jupyter itself only reports that the kernel died. The connection class is configurable in jupyter_server
(ServerApp.kernel_websocket_connection_class); `on_kernel_restarted` and `on_restart_failed` are its callbacks.
"""

from __future__ import annotations

import json
from typing import Any

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from nblauncher.isolation import limits
from nblauncher.system import memory

WORDS = (
    "The kernel was ended because your memory was used up.\n"
    "Its results are gone, but your notebook is not. Use smaller data, or shut down\n"
    "other kernels (Running Terminals and Kernels), and run the cells again."
)

BY_TEACHER = (
    "Your teacher restarted this kernel. Your notebook is unchanged, but its variables\nare gone: run the cells again."
)

TOO_LARGE = (
    "This page sent {size} at once, but a kernel accepts {most} at most: it did not receive them.\n"
    "Upload a large file in the file browser, and read it from there."
)


class Channels(ZMQChannelsWebsocketConnection):
    """One tab's connection to a kernel."""

    _ran: dict[str, Any] | None = None
    """Header of the last request to run a cell."""
    _kills = 0

    async def prepare(self) -> None:
        self._kills = limits.own_memory_kills()
        await super().prepare()  # type: ignore[no-untyped-call]

    def handle_incoming_message(self, incoming_msg: str) -> None:
        size, most = len(incoming_msg), self.websocket_handler.settings["websocket_max_message_size"] // 2
        if size > most:
            words = TOO_LARGE.format(size=memory.words(size), most=memory.words(most))
            self.write_stderr(words, self._ran or {})  # type: ignore[no-untyped-call]
            return
        self._ran = _header_of_run(incoming_msg, self.subprotocol) or self._ran
        super().handle_incoming_message(incoming_msg)

    def on_kernel_restarted(self) -> None:
        self._tell()
        super().on_kernel_restarted()  # type: ignore[no-untyped-call]

    def on_restart_failed(self) -> None:
        self._tell()
        super().on_restart_failed()  # type: ignore[no-untyped-call]

    def _tell(self) -> None:
        """Call it before the tab learns that the kernel is gone and forgets which cell ran."""
        before, self._kills = self._kills, limits.own_memory_kills()
        by_teacher = getattr(self.kernel_manager, "ended_by_teacher", False)
        words = BY_TEACHER if by_teacher else WORDS if self._kills > before else ""
        if words and self._ran is not None:
            self.write_stderr(words, self._ran)  # type: ignore[no-untyped-call]


def _header_of_run(message: str | bytes, subprotocol: str | None) -> dict[str, Any] | None:
    """None for anything else than a request to run a cell."""
    try:
        if subprotocol == "v1.kernel.websocket.jupyter.org":
            channel, parts = deserialize_msg_from_ws_v1(message)  # type: ignore[no-untyped-call]
            header = json.loads(parts[0]) if channel == "shell" else None
        else:
            header = json.loads(message).get("header")
        return header if header and header.get("msg_type") == "execute_request" else None
    except (ValueError, TypeError, AttributeError, IndexError):
        return None  # Jupyter says what is wrong with it
