"""The kernel of a submission: forked for another account by the kernels' fork server, and spoken to over unix sockets.

The judge can neither signal that kernel nor read its memory. It interrupts it by a message, and root ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from traitlets import Dict, Unicode

from nblauncher.server.provisioner import ForkedKernelProvisioner, NotForked, ask_for_kernel

PROVISIONER = "nblauncher-submission"
_ENDING = 3.0
"""Seconds for a kernel to end when it is asked to."""

_LOOK = 0.02


class SubmissionProvisioner(ForkedKernelProvisioner):
    """Asks for a kernel, which is another account's; there is no other way to get one."""

    environment: Any = Dict()
    folder = Unicode()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        # The kernel reads it through the group that both accounts have.
        manager: Any = self.parent
        os.chmod(manager.connection_file, 0o640)
        try:
            kernel = await asyncio.to_thread(
                ask_for_kernel, self.kernels_socket, cmd, dict(self.environment), self.folder
            )
        except NotForked as reason:
            raise RuntimeError(f"there is no kernel: {reason}") from reason
        self.process = kernel  # type: ignore[assignment]
        self.pid = self.pgid = kernel.pid
        self.cwd = self.folder
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        """It is not our process: root ends it with the submission."""

    async def kill(self, restart: bool = False) -> None: ...

    async def terminate(self, restart: bool = False) -> None: ...


class SubmissionKernelManager(AsyncKernelManager):
    """One kernel with the course's packages, whatever kernel a notebook asks for."""

    spec: Any = Dict(help="argv, environment, folder, socket, place").tag(config=True)
    most_bytes = 0

    def __init__(self, **kwargs: Any) -> None:
        register()
        kwargs["context"] = _context(self.most_bytes)
        super().__init__(**kwargs)
        self.transport = "ipc"
        self.ip = str(Path(self.spec["place"]) / f"k{os.urandom(4).hex()}")
        self.connection_file = f"{self.ip}.json"

    @property
    def kernel_spec(self) -> KernelSpec:
        given = self.spec
        about = {"kernels_socket": given["socket"], "environment": given["environment"], "folder": given["folder"]}
        return KernelSpec(
            argv=given["argv"],
            display_name="the course's Python",
            language="python",
            interrupt_mode="message",
            metadata={"kernel_provisioner": {"provisioner_name": PROVISIONER, "config": about}},
        )

    async def _async_shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ask it to end, and wait for that a little: it must not hold up the next notebook."""
        self.stop_restarter()
        with contextlib.suppress(RuntimeError, OSError, zmq.ZMQError):
            await self._async_request_shutdown(restart=restart)
            deadline = asyncio.get_running_loop().time() + _ENDING
            while await self._async_is_alive() and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_LOOK)
        await self._async_cleanup_resources(restart=restart)

    shutdown_kernel = _async_shutdown_kernel


def _context(most_bytes: int) -> zmq.asyncio.Context:
    """One message with more bytes ends its connection: libzmq would hold it whole in our memory."""
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    return context


class _EntryPoint:
    name = PROVISIONER
    value = f"{SubmissionProvisioner.__module__}:{SubmissionProvisioner.__name__}"

    @staticmethod
    def load() -> type[SubmissionProvisioner]:
        return SubmissionProvisioner


def register() -> None:
    """As the entry point of an installed package would."""
    KernelProvisionerFactory.instance(config=None).provisioners[PROVISIONER] = _EntryPoint()  # type: ignore[assignment]
