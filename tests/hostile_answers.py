"""What a student may hand in to be better graded than the work is, to read what is not theirs, or to break the grading.

Every cell of these has a wrong answer beside it: without a successful attack it scores nothing. A cell that could do
what it must not prints `SUCCESS` and what.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import answers
from tests.answers import ALL_WRONG, Change, Notebook
from tests.notebooks import cell


@dataclass(frozen=True)
class Attack:
    """`said` is in a warning, a flag or the failure. `prepare` changes the files of the submission."""

    change: Change = field(default=lambda notebook: None)
    said: str = ""
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    prepare: Callable[[Path], None] = field(default=lambda folder: None)
    is_graded: bool = True
    score: float = 0.0


def code(source: str, said: str = "", **more: Any) -> Attack:
    """A cell before all others."""
    return Attack(answers.answered(ALL_WRONG, answers.with_cell(source)), said, **more)


_TRIED = """
import os, socket, sys
def tried(what, attempt):
    try:
        found = attempt()
    except (OSError, ValueError, ImportError, AttributeError):
        return
    if found is not False:
        print("SUCCESS", what, repr(found)[:300])
"""

FLOODS = {
    "fork bomb": code(
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "processes",
    ),
    "memory": code("held = []\nwhile True:\n    held.append(bytearray(20_000_000))", "memory"),
    "files": code(
        "for place in ('/tmp', '/var/tmp', '/dev/shm', '/sockets', '.'):\n"
        "    try:\n"
        "        for number in range(10 ** 6):\n"
        "            with open(f'{place}/x{number}', 'wb') as file:\n"
        "                file.write(b'x' * 1_000_000)\n"
        "    except OSError:\n        pass"
    ),
    "inodes": code(
        "for place in ('/tmp', '/var/tmp', '/dev/shm', '/sockets', '.'):\n"
        "    try:\n"
        "        for number in range(10 ** 6):\n            open(f'{place}/x{number}', 'wb').close()\n"
        "    except OSError:\n        pass"
    ),
    "endless loop": code("while True:\n    pass", "interrupted, because they took too long"),
    "endless loop that is not interrupted": code(
        "import signal\nwhile True:\n    try:\n        while True:\n            pass\n"
        "    except BaseException:\n        pass",
        "its time was used up",
    ),
    "sleeps": code(
        "import time\nwhile True:\n    try:\n        time.sleep(1000)\n    except BaseException:\n        pass"
    ),
    "many small prints": code("for number in range(30_000_000):\n    print('x' * 9)", "printed more than is kept"),
    "one huge print": code("print('x' * 300_000_000)"),
    "many large prints": code("for number in range(300):\n    print('x' * 900_000, flush=True)", "more than is kept"),
    "many displays": code("for number in range(100_000):\n    display(number)"),
    "threads": code(
        "import threading, time\nwhile True:\n    try:\n"
        "        threading.Thread(target=time.sleep, args=(1000,)).start()\n    except RuntimeError:\n        break",
        "processes",
    ),
}

READS = {
    "reads": code(
        _TRIED
        + "for path in ('COURSE/gradebook.db', 'COURSE/source/ps1/problem1.ipynb', 'COURSE/submitted', 'COURSE',\n"
        "             'TEACHER', '/etc/shadow', '/root', '/var/lib/nblauncher', '/run', '/srv', '/home', '/door',\n"
        "             '/var/log', '/sys/fs/cgroup', '/proc/1/environ', '/proc/kcore', '/dev/mem', '/proc/1/root'):\n"
        "    tried(path, lambda: (os.listdir if os.path.isdir(path) else lambda p: open(p, 'rb').read(10))(path)\n"
        "          not in ([], ['submission'], ['nblauncher']) and path)\n"
    ),
    "sockets": code(
        _TRIED
        + "for family, address in ((socket.AF_INET, ('1.1.1.1', 53)), (socket.AF_INET6, ('2606:4700::1111', 53)),\n"
        "                        (socket.AF_INET, ('127.0.0.1', PORT)), (socket.AF_INET6, ('::1', PORT)),\n"
        "                        (socket.AF_UNIX, '/run/systemd/private'),\n"
        "                        (socket.AF_UNIX, '\\0nbt-grading-host'), (socket.AF_UNIX, '/door/kernels.sock')):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):\n"
        "        tried(address, lambda: socket.socket(family, kind).connect(address))\n"
        "for family, address in ((socket.AF_INET, ('1.1.1.1', 53)), (socket.AF_INET6, ('2606:4700::1111', 53))):\n"
        "    tried(address, lambda: socket.socket(family, socket.SOCK_DGRAM).connect(address))\n"
        "for number in range(1, 100_000):\n"
        "    tried(number, lambda: socket.socket(socket.AF_UNIX).connect(f'SOCKET-{number}.sock'))\n"
        "tried('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
        "tried('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))\n"
        "tried('vsock', lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1)))\n"
        "tried('interfaces', lambda: [n for _, n in socket.if_nameindex() if n != 'lo'] or False)\n"
    ),
    "signals": code(
        _TRIED + "import ctypes, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for pid in range(1, 70_000):\n"
        "    place = f'/proc/{pid}'\n"
        "    if pid == os.getpid() or os.path.exists(place) and os.stat(place).st_uid == os.getuid():\n"
        "        continue\n"
        "    tried(f'signal {pid}', lambda: os.kill(pid, 0))\n"
        "    tried(f'proc {pid}', lambda: os.listdir(f'/proc/{pid}'))\n"
        "    if libc.ptrace(16, pid, 0, 0) == 0:\n        print('SUCCESS ptrace', pid)\n"
        "    tried(f'pidfd {pid}', lambda: pid > 40_000 and signal.pidfd_send_signal(os.pidfd_open(pid), 0))\n"
    ),
    "writes": code(
        _TRIED + "for path in ('/x', '/etc/x', '/usr/x', '/home/x', '/sockets/../x', 'COURSE/x',\n"
        "             '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/x', '/run/x',\n"
        "             '/var/x', '/dev/x', '/dev/kmsg', sys.base_prefix + '/x', os.path.dirname(os.__file__) + '/x'):\n"
        "    tried(path, lambda: open(path, 'wb', 0).write(b'1'))\n"
        "tried('score', lambda: open('/proc/self/oom_score_adj', 'wb', 0).write(b'-900'))\n"
    ),
    "namespaces": code(
        _TRIED + "import ctypes, subprocess\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if os.fork() == 0:\n"
        "    uid, gid = os.getuid(), os.getgid()\n"
        "    if libc.unshare(0x10000000 | 0x20000 | 0x40000000) == 0:\n"
        "        open('/proc/self/setgroups', 'w').write('deny')\n"
        "        open('/proc/self/uid_map', 'w').write(f'0 {uid} 1')\n"
        "        open('/proc/self/gid_map', 'w').write(f'0 {gid} 1')\n"
        "        for path in ('/etc/shadow', 'COURSE', '/root'):\n"
        "            tried(f'as root of a namespace {path}', lambda: open(path).read(5))\n"
        "        for path in ('/etc', '/usr', '/'):\n"
        "            if libc.mount(b'none', path.encode(), None, 32 | 4096, None) == 0:\n"
        "                tried(f'remounted {path}', lambda: open(f'{path}/nbt-x', 'w').write('x'))\n"
        "        for path in ('/etc', '/proc', '/dev', '/home/submission'):\n"
        "            if libc.umount2(path.encode(), 2) == 0: print('SUCCESS umount', path, flush=True)\n"
        "        tried('net', lambda: [n for _, n in socket.if_nameindex() if n != 'lo'] or False)\n"
        "    sys.stdout.flush()\n    os._exit(0)\n"
        "os.wait()\n"
        "for pid in (1, 2, os.getppid()):\n"
        "    for kind in ('mnt', 'net', 'pid', 'user'):\n"
        "        tried(f'setns {pid} {kind}', lambda: libc.setns(os.open(f'/proc/{pid}/ns/{kind}', 0), 0) == 0)\n"
    ),
    "descriptors": code(
        _TRIED + "import stat\n"
        "mine = {'anon_inode', 'pipe', '/dev/null', '/home/submission', '/dev/urandom', '/sockets'}\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try:\n        where = os.readlink(f'/proc/self/fd/{name}')\n    except OSError:\n        continue\n"
        "    if where.startswith('socket:'):\n"
        "        try:\n            one = socket.socket(fileno=os.dup(int(name)))\n"
        "            peer = one.getpeername() if one.type == socket.SOCK_STREAM else ''\n"
        "        except OSError:\n            continue\n"
        "        print('SOCKET', name, one.family, one.type, one.getsockname(), peer)\n"
        "    elif not where.startswith(tuple(mine)):\n        print('SUCCESS', name, where)\n"
    ),
}

SHADOWS = {
    "modules": code(
        "x = 1",
        files=dict.fromkeys(
            [
                *("nbgrader.py", "ipykernel.py", "nbclient.py", "zmq/__init__.py", "sitecustomize.py"),
                *("usercustomize.py", "json.py", "nblauncher/__init__.py", "nbgrader_config.py", "traitlets.py"),
            ],
            "x = 1\n",
        ),
    ),
    "modules of the home": code(
        "import os, site\n"
        "os.makedirs(site.getusersitepackages(), exist_ok=True)\n"
        "for name in ('nbgrader', 'ipykernel', 'sitecustomize', 'usercustomize'):\n"
        "    for folder in (site.getusersitepackages(), os.path.expanduser('~')):\n"
        "        open(f'{folder}/{name}.py', 'w').write('raise SystemExit(0)')\n"
        "os.environ['PYTHONPATH'] = os.path.expanduser('~')\n"
        "os.makedirs(os.path.expanduser('~/.ipython/profile_default/startup'), exist_ok=True)\n"
        "open(os.path.expanduser('~/.ipython/profile_default/startup/0.py'), 'w').write('squares = 1')\n"
    ),
    "a config for the kernel": code(
        "x = 1",
        files={
            "ipython_config.py": "c = get_config()\nc.InteractiveShellApp.exec_lines = ['import os; os._exit(0)']\n",
            "ipython_kernel_config.py": "import os\nos._exit(0)\n",
        },
    ),
}

ENDS = {
    "_exit": code("import os\nos._exit(0)", "its kernel ended"),
    "exit": code("exit()"),  # IPython ends a moment later; the other cells may have been run by then
    "kills itself": code("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "its kernel ended"),
    "stops itself": code("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "kills all of its own": code("import os, signal\nos.kill(-1, signal.SIGKILL)"),
    "closes its sockets": code("import os\nos.closerange(3, 4096)"),
    "ends in a test": Attack(
        answers.answered(
            {"squares": "import os\ndef squares(n):\n    os._exit(0)", "sum_of_squares": ALL_WRONG["sum_of_squares"]}
        ),
        "its kernel ended",
    ),
    "quits in a test": Attack(
        answers.answered(
            {"squares": "import sys\ndef squares(n):\n    sys.exit(0)", "sum_of_squares": ALL_WRONG["sum_of_squares"]}
        )
    ),
    "quits the debugger": Attack(
        answers.answered(
            {
                "squares": "import bdb\ndef squares(n):\n    raise bdb.BdbQuit",
                "sum_of_squares": ALL_WRONG["sum_of_squares"],
            }
        )
    ),
}

FORGES = {
    "clears outputs": code(
        "from IPython.display import clear_output\nimport threading\n"
        "get_ipython().events.register('post_run_cell', lambda result: clear_output())\n"
    ),
    "hides tracebacks": code(
        "get_ipython().showtraceback = lambda *a, **k: None\nget_ipython().showsyntaxerror = lambda *a, **k: None\n"
        "get_ipython()._showtraceback = lambda *a, **k: None"
    ),
    "catches everything": code(
        "get_ipython().set_custom_exc((BaseException,), lambda *a, **k: None)",
    ),
    "takes asserts out": code(
        "import ast\nclass Out(ast.NodeTransformer):\n    def visit_Assert(self, node):\n        return None\n"
        "get_ipython().ast_transformers.append(Out())\n",
        "assertions do not fail",
        score=1.5,
    ),
    "compiles otherwise": code(
        "real = get_ipython().compile.ast_parse\n"
        "get_ipython().compile.ast_parse = lambda source, *a, **k: real('pass', *a, **k)",
        "assertions do not fail",
        score=3.0,
    ),
    "assertions are nothing": code(
        "import builtins\nclass Fine(Exception):\n    pass\nbuiltins.AssertionError = Fine\n",
    ),
    "runs nothing": code(
        "shell = get_ipython()\n"
        "class Result:\n    success, execution_count = True, 1\n    error_before_exec = error_in_exec = result = None\n"
        "async def run(*a, **k):\n    return Result()\n"
        "shell.run_cell_async = run\nshell.run_cell = lambda *a, **k: Result()\n",
        "assertions do not fail",
        score=3.0,
    ),
    "says that all is well": code(
        "kernel = get_ipython().kernel\n"
        "async def execute(stream, ident, parent):\n"
        "    kernel.send_response\n"
        "    kernel.session.send(stream, 'execute_reply', {'status': 'ok', 'execution_count': 1,\n"
        "        'user_expressions': {}, 'payload': []}, parent, ident=ident)\n"
        "kernel.shell_handlers['execute_request'] = execute\n",
        "assertions do not fail",
        score=3.0,
    ),
    "gives itself points": code(
        "get_ipython().events.register('pre_run_cell', lambda info: get_ipython().kernel.iopub_socket and\n"
        "    get_ipython().kernel.session.send(get_ipython().kernel.iopub_socket, 'execute_result',\n"
        "    {'data': {'text/plain': '1000'}, 'metadata': {}, 'execution_count': 1},\n"
        "    get_ipython().kernel.get_parent()))\n",
        "a result and an error",
    ),
    "sends nonsense": code(
        "kernel = get_ipython().kernel\n"
        "for kind, content in (('stream', {}), ('stream', {'name': 5, 'text': 7}), ('display_data', {'data': 5}),\n"
        "    ('execute_result', {}), ('error', {'ename': {}, 'traceback': 5}), ('status', {'execution_state': []}),\n"
        "    ('clear_output', {}), ('update_display_data', {'transient': {'display_id': []}}), ('comm_open', {}),\n"
        "    ('x' * 1000, {'execution_count': 'x'}), ('execute_input', {'execution_count': {}}),\n"
        "    ('display_data', {'data': {}, 'metadata': [], 'transient': 'x'})):\n"
        "    kernel.session.send(kernel.iopub_socket, kind, content, kernel.get_parent())\n"
    ),
    "is idle at once": code(
        "kernel = get_ipython().kernel\n"
        "def idle(info):\n"
        "    kernel.session.send(kernel.iopub_socket, 'status', {'execution_state': 'idle'}, kernel.get_parent())\n"
        "    import time\n    time.sleep(0.3)\n"
        "get_ipython().events.register('pre_run_cell', idle)\n",
    ),
    "sends frames without end": code(
        "kernel = get_ipython().kernel\n"
        "kernel.iopub_thread.socket.send_multipart([b'x' * 500_000] * 2000, copy=False)\n",
        "its judge ended: memory",
        is_graded=False,
    ),
    "says nothing any more": code(
        "get_ipython().kernel.iopub_thread.stop() or None",
    ),
}


def _notebook(change: Callable[[Notebook], None]) -> Change:
    return answers.answered(ALL_WRONG, change)


def _tests_are(**metadata: Any) -> Change:
    def change(notebook: Notebook) -> None:
        for name in answers.TESTS:
            answers.named(notebook, name)["metadata"].update(metadata)

    return _notebook(change)


def _tests_have(**about: Any) -> Change:
    def change(notebook: Notebook) -> None:
        for name in answers.TESTS:
            answers.named(notebook, name)["metadata"]["nbgrader"].update(about)

    return _notebook(change)


def _without_tests(notebook: Notebook) -> None:
    notebook["cells"] = [one for one in notebook["cells"] if answers.name_of(one) not in answers.TESTS]


def _edited(notebook: Notebook) -> None:
    for name in answers.TESTS:
        answers.named(notebook, name)["source"] = "pass"


def _answers_are_tests(notebook: Notebook) -> None:
    answers.named(notebook, "sum_of_squares_application")["source"] = "1 + 1"
    answers.named(notebook, "sum_of_squares_application")["metadata"]["nbgrader"].update(solution=False)


def _other_kernel(notebook: Notebook) -> None:
    notebook["metadata"]["kernelspec"] = {"name": "bash", "display_name": "Bash", "language": "bash"}
    notebook["metadata"]["language_info"] = {"name": "bash"}


def _twice(notebook: Notebook) -> None:
    copies = [json.loads(json.dumps(answers.named(notebook, name))) for name in answers.TESTS]
    for one in copies:
        one["source"], one["id"] = "pass", one.get("id", "x")[:20] + "-two"
    notebook["cells"] += copies


def _many_cells(notebook: Notebook) -> None:
    notebook["cells"] += [cell("x", f"many-{number}", "markdown") for number in range(20_000)]


def _points(notebook: Notebook) -> None:
    for name in answers.TESTS:
        answers.named(notebook, name)["metadata"]["nbgrader"]["points"] = 1000


def _metadata(notebook: Notebook) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = {"x": deep}
    notebook["metadata"]["bomb"] = deep
    notebook["cells"][1]["attachments"] = {"x.png": {"image/png": "A" * 5_000_000}}


NOTEBOOKS = {
    "skips the tests": Attack(_tests_are(tags=["skip-execution"]), "skipped"),
    "skips by a string": Attack(_tests_are(tags="skip-execution"), is_graded=False),
    "edits the tests": Attack(_notebook(_edited), "was edited, and restored"),
    "deletes the tests": Attack(_notebook(_without_tests), "was deleted, and restored"),
    "tests are not graded": Attack(_tests_have(grade=False)),
    "tests are answers": Attack(_tests_have(solution=True)),
    "tests are locked": Attack(_tests_have(locked=True)),
    "tests are tasks": Attack(_tests_have(task=True)),
    "tests are renamed": Attack(_notebook(lambda notebook: _rename(notebook))),
    "more points": Attack(_notebook(_points), "properties"),
    "answers are tests": Attack(_notebook(_answers_are_tests), "properties"),
    "cells twice": Attack(_notebook(_twice), "several times"),
    "another kernel": Attack(_notebook(_other_kernel)),
    "many cells": Attack(_notebook(_many_cells)),
    "metadata": Attack(_notebook(_metadata)),
    "nbgrader is a word": Attack(_tests_are(nbgrader="x"), "was deleted, and restored"),
}


def _rename(notebook: Notebook) -> None:
    for name in answers.TESTS:
        answers.named(notebook, name)["metadata"]["nbgrader"]["grade_id"] = f"{name}\x1b[31m\nx"


def _raw(data: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Large data are made when they are written: for what each worker has in memory every fork of a test pays."""

    def prepare(folder: Path) -> None:
        (folder / "problem1.ipynb").write_bytes(data() if callable(data) else data)

    return prepare


def _links(folder: Path) -> None:
    (folder / "problem1.ipynb").unlink()
    (folder / "problem1.ipynb").symlink_to("../../../source/ps1/problem1.ipynb")


def _data_links(folder: Path) -> None:
    (folder / "data").symlink_to("/etc")
    (folder / "shadow").symlink_to("/etc/shadow")
    (folder / "gradebook").symlink_to("../../../gradebook.db")
    os.mkfifo(folder / "fifo")


def _names(folder: Path) -> None:
    for name in (b"new\nline", b"\x1b[31mred\x1b]0;title\x07", b"\xff\xfe", b"-rf", b" "):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("x")


def _large(folder: Path) -> None:
    with (folder / "problem1.ipynb").open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.truncate(200_000_000)


FILES = {
    "not JSON": Attack(prepare=_raw(b"not a notebook"), said="not JSON", is_graded=False),
    "not a notebook": Attack(prepare=_raw(b"[1, 2]"), is_graded=False),
    "a number": Attack(prepare=_raw(b"5"), is_graded=False),
    "empty": Attack(prepare=_raw(b""), said="not JSON", is_graded=False),
    "not UTF-8": Attack(prepare=_raw(b'{"cells": ["\xff\xfe"]}'), is_graded=False),
    "a surrogate": Attack(_notebook(lambda notebook: notebook["metadata"].update(title="\ud800"))),
    "deep": Attack(prepare=_raw(lambda: b"[" * 5_000_000), is_graded=False),
    "deep objects": Attack(prepare=_raw(lambda: b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000), is_graded=False),
    "a large number": Attack(
        prepare=_raw(
            lambda: b'{"nbformat": 4, "nbformat_minor": 5, "cells": [], "metadata": {"x": ' + b"9" * 5_000_000 + b"}}"
        ),
        is_graded=False,
    ),
    "no cells": Attack(prepare=_raw(b'{"nbformat": 4, "nbformat_minor": 5, "cells": [], "metadata": {}}')),
    "version 3": Attack(prepare=_raw(b'{"nbformat": 3, "nbformat_minor": 0, "worksheets": [], "metadata": {}}')),
    "version 99": Attack(prepare=_raw(b'{"nbformat": 99, "cells": [], "metadata": {}}'), is_graded=False),
    "200 MB": Attack(prepare=_large, said="MB", is_graded=False),
    "a link": Attack(prepare=_links, said="is not a file and was left out"),
    "links": Attack(_notebook(lambda notebook: None), prepare=_data_links, said="is not a file and was left out"),
    "names": Attack(_notebook(lambda notebook: None), prepare=_names),
}

ALL: dict[str, Attack] = {**FLOODS, **READS, **SHADOWS, **ENDS, **FORGES, **NOTEBOOKS, **FILES}
