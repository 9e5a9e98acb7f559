"""Forked kernels: how a student's server asks the kernels' fork server for one, and handles it.

A kernel provisioner of jupyter_client's (entry point `jupyter_client.kernel_provisioners`, named in the class's
kernel.json). It runs in the student's server, as the student. If anything is wrong, an ordinary kernel starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Unicode

from nblauncher.system import wire

ANSWERING = 10.0
"""Seconds within which the fork server must answer."""

_TO_THE_GROUP = 1 << 2
"""PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), since Linux 6.9."""

_ENDED = -1


class NotForked(Exception):
    """There is no forked kernel. The text says why."""


class ForkedKernel:
    """A kernel with the interface of subprocess.Popen. It is not our child: a pidfd shows that it ended, not how."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._pidfd], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """TimeoutError if it has not ended by then."""
        if self.returncode is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise TimeoutError(f"kernel {self.pid} still runs")
            self._ended()
        return _ENDED

    def send_signal(self, number: int) -> None:
        """Signal its whole process group, as Jupyter does. Nothing happens when it has ended."""
        if self.poll() is not None:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number, None, _TO_THE_GROUP)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # An older Linux. The kernel has not ended, so its process group has its number.
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> None:
        self.returncode = _ENDED
        os.close(self._pidfd)


class ForkedKernelProvisioner(LocalProvisioner):
    """Asks for a forked kernel. If there is none, LocalProvisioner starts one."""

    kernels_socket = Unicode(help="The socket of the class's kernels' fork server.")

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        environment = kwargs.get("env") or os.environ
        folder = str(kwargs.get("cwd") or Path.cwd())
        try:
            kernel = await asyncio.to_thread(ask_for_kernel, self.kernels_socket, cmd, environment, folder)
        except NotForked as reason:
            self.log.warning("An ordinary kernel is started: %s", reason)
            return await super().launch_kernel(cmd, **kwargs)
        self.process = kernel  # type: ignore[assignment]
        self.pid = self.pgid = kernel.pid
        self.cwd = folder
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        if isinstance(self.process, ForkedKernel):
            if signum:
                self.process.send_signal(signum)
        else:
            await super().send_signal(signum)


def ask_for_kernel(address: str, command: Sequence[str], environment: Mapping[str, str], folder: str) -> ForkedKernel:
    """A kernel forked for this process's user. Blocks. NotForked if there is none."""
    # The kernel is not our child, and one that finds another parent than JPY_PARENT_PID ends.
    wanted = {name: value for name, value in environment.items() if name != "JPY_PARENT_PID"}
    reader = wire.Reader()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(ANSWERING)
            connection.connect(address)
            message = {"command": list(command), "environment": wanted, "folder": folder}
            with contextlib.suppress(BrokenPipeError):  # a refused client can still read the reason
                wire.send(connection, message, [1, 2])
            while (answer := reader.next()) is None:
                if not reader.feed(connection):
                    raise NotForked("the fork server hung up")
    except (OSError, ValueError, wire.WireError) as error:
        raise NotForked(f"the fork server cannot be asked: {error}") from error
    finally:
        reader.close()
    fields, descriptors = answer
    pid = fields.get("pid")
    if type(pid) is not int or len(descriptors) != 1:
        wire.close_all(descriptors)
        raise NotForked(f"the fork server says: {fields.get('problem', 'nothing')}")
    return ForkedKernel(pid, descriptors[0])
