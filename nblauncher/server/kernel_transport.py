"""How a kernel talks to its server: over unix sockets, which only the student can reach, or TCP if it must.

Jupyter's protocol has `transport` in the connection file, but few kernels except IPython's read it: others wait for
ever on a port made from the socket's path. So only kernels that are known to read it get unix sockets.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

IPC, TCP = "ipc", "tcp"

DECLARED = "transport"
"""The key in the `metadata` of a kernel.json with which a kernelspec declares its transport."""

_IPYTHONS = ("ipykernel", "ipykernel_launcher", "bash_kernel")
"""Modules that run ipykernel's application (IPKernelApp), which supports both."""


def of(argv: Sequence[str], metadata: Mapping[str, Any]) -> str:
    """The transport for a kernel with this kernelspec."""
    declared = metadata.get(DECLARED)
    if declared in (IPC, TCP):
        return str(declared)
    modules = [module for option, module in itertools.pairwise(argv) if option == "-m"]
    return IPC if modules[:1] and modules[0] in _IPYTHONS else TCP
