"""Signals are remembered, and the command stops where it can."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nblauncher

PACKAGE = Path(nblauncher.__file__).parent
RAISING = {"bounds.py", "node.py"}
"""Raise in mid-computation: a bound on CPU time in a child that parses what the student wrote, and the end of a job
whose server is still being imported (Jupyter then has a handler of its own).
"""


def answer_of(code: str) -> str:
    """What a process prints that listens and gets the signals which `code` sends to itself with `hit`."""
    text = f"""
import os, signal, sys
from nblauncher.system import interruption
interruption.listen()
def hit(number=signal.SIGINT):
    os.kill(os.getpid(), number)
{code}
"""
    done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_the_command_at_its_next_check_and_only_there(number):
    code = f"""
hit(signal.{number})
print("goes on")
for _ in range(2):
    try:
        interruption.check()
        print("checked")
    except KeyboardInterrupt:
        print("stopped")
"""
    assert answer_of(code) == "goes on\nstopped\nchecked\n"


def test_a_signal_inside_fork_is_not_lost():
    """Python drops an exception that a handler raises in its after-fork hooks."""
    code = """
os.register_at_fork(after_in_parent=hit)
if os.fork() == 0:
    os._exit(interruption.came())
print(os.wait()[1])
print(interruption.came())
"""
    assert answer_of(code) == "0\nTrue\n"


def test_a_forked_child_does_not_answer_for_its_parents_signals():
    code = """
hit()
if os.fork() == 0:
    interruption.forget()
    os._exit(interruption.came())
print(os.wait()[1], interruption.came())
"""
    assert answer_of(code) == "0 True\n"


@pytest.mark.parametrize("waiting", ["interruption.wait([os.pipe()[0]])", "interruption.sleep(1e6)"])
def test_a_signal_ends_a_wait(waiting):
    code = f"""
signal.signal(signal.SIGALRM, lambda _number, _frame: hit())
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    {waiting}
except KeyboardInterrupt:
    print("stopped")
"""
    assert answer_of(code) == "stopped\n"


def test_a_wait_tells_what_is_readable_also_above_the_limit_of_select():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
reader, writer = os.pipe()
high = os.dup2(reader, 2500)
print(interruption.wait([high], 0.01))
os.write(writer, b"x")
print(interruption.wait([high], 10))
"""
    assert answer_of(code) == "[]\n[2500]\n"


def test_a_hangup_can_be_outlived_and_is_told():
    code = """
interruption.outlive_hangups()
hit(signal.SIGHUP)
interruption.check()
print(interruption.take(0) == {signal.SIGHUP}, interruption.take(0) == set())
hit(signal.SIGTERM)
print(interruption.take(1e6) == {signal.SIGTERM})
interruption.check()
"""
    assert answer_of(code) == "True True\nTrue\n"


def test_what_the_caller_ignores_stays_ignored():
    code = "import signal, subprocess, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); subprocess.run(sys.argv[1:])"
    inner = """
import os, signal
from nblauncher.system import interruption
interruption.listen()
os.kill(os.getpid(), signal.SIGHUP)
print(interruption.came())
"""
    argv = [sys.executable, "-c", code, sys.executable, "-I", "-c", inner]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout == "False\n"


def test_no_handler_of_ours_does_more_than_to_remember():
    """A handler that sets an Event waits for ever when the same thread is inside the Event's wait."""
    # _tick rewrites a line of the terminal: it takes no lock, waits for nothing and raises nothing.
    allowed = {"signal.SIG_IGN", "signal.SIG_DFL", "_remember", "signal.default_int_handler", "self._tick"}
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "signal.signal":
                handler = node.args[1]
                is_empty = isinstance(handler, ast.Lambda) and isinstance(handler.body, ast.Constant)
                if not is_empty and ast.unparse(handler) not in allowed and file.name not in RAISING:
                    found.append(f"{file.name}:{node.lineno}: {ast.unparse(handler)}")
    assert found == []


@pytest.mark.parametrize(
    "moment",
    [
        *("click", "nblauncher.cli.main"),
        pytest.param(
            "nblauncher.commands.session",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="without root `status` is refused first"),
        ),
    ],
)
def test_ctrl_c_while_the_program_is_still_loading_is_no_traceback(moment):
    """The signal comes when a module begins to be imported."""
    code = f"""
import os, signal, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Watch())
sys.argv = ["nblauncher", "status"]
from nblauncher.__main__ import main
main()
"""
    argv = [sys.executable, "-I", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=os.sep)
    assert done.returncode == 130
    assert done.stderr.lstrip() == "Interrupted; nothing more was changed.\n"  # click ends the line of ^C
