"""How a kernel talks to its server: over unix sockets, which are the student's alone, or TCP where it knows no other.

Jupyter's protocol says `transport` in the connection file, and few kernels but IPython's read it: others wait for ever
on the port that they made of a socket's path. So only those that are known to are asked to use unix sockets.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

IPC, TCP = "ipc", "tcp"

DECLARED = "transport"
"""The key in the `metadata` of a kernel.json by which a kernelspec says it itself."""

_IPYTHONS = ("ipykernel", "ipykernel_launcher", "bash_kernel")
"""Modules that are ipykernel's application (IPKernelApp), which speaks both."""


def of(argv: Sequence[str], metadata: Mapping[str, Any]) -> str:
    """What a kernel with this kernelspec is to speak."""
    declared = metadata.get(DECLARED)
    if declared in (IPC, TCP):
        return str(declared)
    modules = [module for option, module in itertools.pairwise(argv) if option == "-m"]
    return IPC if modules[:1] and modules[0] in _IPYTHONS else TCP
