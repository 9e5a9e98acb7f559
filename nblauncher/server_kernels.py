"""A kernel as the student's server manages it: over unix sockets where its kernelspec can, else over TCP."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

from nblauncher import kernel_transport

_WORDS = (
    "The kernel %s speaks TCP only: while it runs, what it prints can be read by every account of this host. See "
    "docs/security.md."
)


class StudentKernelManager(ServerKernelManager):
    """One kernel. `transport` is decided before Jupyter chooses addresses for it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        spec = self.kernel_spec
        self.transport = kernel_transport.of(spec.argv, spec.metadata) if spec is not None else kernel_transport.IPC
        if self.transport == kernel_transport.TCP:
            self.log.warning(_WORDS, self.kernel_name)

    async def restart_kernel(self, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        """Jupyter takes a kernel that died in the middle of a cell for busy until a cell runs in it. A tab that comes
        meanwhile does not wait until the new one listens, and would never hear what its first cell says.
        """
        if self.execution_state == "busy":
            self.execution_state = "idle"
        await super().restart_kernel(*arguments, **options)
