"""Which kernels talk over unix sockets: those that are known to, and those that say so."""

import pytest

from nblauncher.server import kernel_transport
from nblauncher.server.class_files import PIP_PREFIX


@pytest.mark.parametrize(
    "argv, metadata, transport",
    [
        (["/opt/x/bin/python", "-I", "kernel.py", PIP_PREFIX, "-m", "ipykernel_launcher", "-f", "{c}"], {}, "ipc"),
        (["python3", "-m", "ipykernel", "-f", "{c}"], {}, "ipc"),
        (["python3", "-m", "bash_kernel", "-f", "{c}"], {}, "ipc"),
        (["python3", "-m", "some_kernel", "-m", "ipykernel"], {}, "tcp"),
        (["R", "--slave", "-e", "IRkernel::main()", "--args", "{c}"], {}, "tcp"),
        (["java", "-jar", "almond.jar", "--connection-file", "{c}"], {}, "tcp"),
        (["deno", "jupyter", "--kernel", "--conn", "{c}"], {"debugger": True}, "tcp"),
        (["xpython", "-f", "{c}"], {"transport": "ipc"}, "ipc"),
        (["python3", "-m", "ipykernel", "-f", "{c}"], {"transport": "tcp"}, "tcp"),
        (["tslab", "kernel"], {"transport": "udp"}, "tcp"),
        (["-m"], {}, "tcp"),
    ],
)
def test_unix_sockets_are_for_kernels_that_know_them(argv, metadata, transport):
    assert kernel_transport.of(argv, metadata) == transport
