"""A kernel as the student's server manages it: over unix sockets if its kernelspec can, otherwise over TCP."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

from nblauncher.server import kernel_transport

_WORDS = (
    "The kernel %s speaks TCP only: while it runs, every account of this host can read its output. See "
    "docs/security.md."
)


class StudentKernelManager(ServerKernelManager):
    """One kernel. `transport` is decided before Jupyter chooses addresses for it."""

    ended_by_teacher = False
    """Until the new kernel starts: its tabs are told why (nblauncher.server.channels)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        spec = self.kernel_spec
        self.transport = kernel_transport.of(spec.argv, spec.metadata) if spec is not None else kernel_transport.IPC
        if self.transport == kernel_transport.TCP:
            self.log.warning(_WORDS, self.kernel_name)

    async def restart_kernel(self, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        """Jupyter considers a kernel that died in the middle of a cell busy until a cell runs in it. A tab that
        connects meanwhile does not wait until the new one listens, and would miss the output of its first cell.
        """
        if self.execution_state == "busy":
            self.execution_state = "idle"
        self.ended_by_teacher = False
        await super().restart_kernel(*arguments, **options)
