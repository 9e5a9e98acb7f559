"""Start the formgrader as the teacher, with sockets and secrets that only root could give it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.forkserver import foreign
from nblauncher.grading import teacher_tool
from nblauncher.model import Account, TlsFiles
from nblauncher.system import privileges, workers
from nblauncher.system.descriptors import sealed
from nblauncher.system.workers import Worker

MODULE = "nblauncher.grading.teacher_side.formgrader"


def start(
    teacher: Account,
    python: Path,
    order: Mapping[str, Any],
    listening: Sequence[socket.socket],
    certificate: TlsFiles | None,
    runtime: Path,
) -> tuple[Worker, socket.socket, int]:
    """The process, which dies with ours; the link on which it says that it listens; and the end of its output.

    `order` is teacher_side.formgrader.Order without the descriptors. The caller closes link and output.
    """
    ours, theirs = socket.socketpair()
    output, output_end = os.pipe2(os.O_CLOEXEC)
    contents = () if certificate is None else (certificate.certificate, certificate.key)
    secrets = [sealed(content, teacher) for content in contents]
    sockets = [one.fileno() for one in (*listening, theirs)]
    numbers = {
        "listening": sockets[:-1],
        "link": sockets[-1],
        **dict(zip(("certificate", "key"), secrets, strict=False)),
    }
    secrets.append(sealed(json.dumps({**order, **numbers}).encode("ascii"), teacher))
    program = (str(python), "-I", "-B", foreign.__file__, MODULE, str(secrets[-1]))
    environment = {**teacher_tool.environment_of(teacher, python), "JUPYTER_RUNTIME_DIR": str(runtime)}
    keep = (*sockets, *secrets, output_end)
    try:
        worker = workers.start(
            teacher, _become, program, environment, str(order["folder"]), keep, output_end, keep=keep
        )
    except BaseException:
        ours.close()
        os.close(output)
        raise
    finally:
        theirs.close()
        for descriptor in (output_end, *secrets):
            os.close(descriptor)
    return worker, ours, output


def _become(
    program: tuple[str, ...], environment: Mapping[str, str], folder: str, keep: tuple[int, ...], output: int
) -> None:
    """As the teacher: turn this process into the server, away from root's terminal."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    privileges.forbid_new_privileges()
    for descriptor in keep:
        os.set_inheritable(descriptor, descriptor != output)
    try:
        os.chdir(folder)
        os.execve(program[0], list(program), dict(environment))  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot start {program[0]} in {folder}: {error.strerror}\n".encode())
        raise
