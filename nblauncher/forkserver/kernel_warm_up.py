"""Start a kernel, run a student's typical first cells and stop it, to learn what it loads. Not run as root."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nblauncher.server import kernel_sockets

_CELLS = {
    "": ("print(1)\n1 + 1", "1 / 0"),
    "pandas": ("import pandas\npandas.DataFrame({'a': [1.0, 2.0]}).describe()",),
    "matplotlib": ("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",),
}
"""What is run if the teacher wants the package. What shows an error is loaded with the first one."""

_ANSWERING = 10.0


def run_once(home: Path, wanted: Sequence[str]) -> None:
    """Run a whole kernel in an empty home, with a client beside it. Missing modules are left out."""
    from ipykernel.kernelapp import IPKernelApp  # not before the interpreter was checked

    os.environ.update(
        {
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(home),
            "MPLCONFIGDIR": str(home / "matplotlib"),
        }
    )
    kernel_sockets.install()
    # The paths of its sockets must be short (unix(7): 107 bytes).
    os.chdir(home)
    arguments = ["--IPKernelApp.transport=ipc", "--ip=k", "-f", str(home / "kernel.json")]
    app = IPKernelApp.instance()
    app.initialize(arguments)  # type: ignore[no-untyped-call]
    threading.Thread(target=_visit, args=(home / "kernel.json", wanted), daemon=True).start()
    app.start()  # type: ignore[no-untyped-call]


def _visit(connection_file: Path, wanted: Sequence[str]) -> None:
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=str(connection_file))
    client.load_connection_file()
    client.start_channels()
    packages = {"", *(name.partition(".")[0] for name in wanted)}
    try:
        for cell in (cell for package, cells in _CELLS.items() if package in packages for cell in cells):
            _wait(client, client.execute(cell))
        for request in (client.complete("pri"), client.inspect("print"), client.is_complete("1"), client.kernel_info()):
            _wait(client, request)
    finally:
        client.shutdown()


def _wait(client: Any, request: str) -> None:
    """Wait for any answer. TimeoutError and queue.Empty do not matter: then less is preloaded."""
    with contextlib.suppress(Exception):
        while client.get_shell_msg(timeout=_ANSWERING)["parent_header"].get("msg_id") != request:
            pass
