"""One student's attacks on another: `python -I -m nblauncher.preflight.attacks FACTS`, run as the attacker.

FACTS is a JSON object with what an attacker could find out about the victim in some weeks. Prints a JSON object: for
each attack what it got, empty if it was held. Nothing here does harm: an attack that succeeds reports it and stops.
Sources: ptrace(2), kill(2), socket(7), proc(5), unix(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nblauncher.auth import tickets

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_GOT = "got it"
_LISTENING = "0A"


def main(arguments: list[str]) -> int:
    facts = json.loads(arguments[0])
    print(json.dumps({name: _tried(attack, facts) for name, attack in ATTACKS.items()}))
    return 0


def _tried(attack: Callable[[Mapping[str, Any]], str], facts: Mapping[str, Any]) -> str:
    try:
        return attack(facts)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _read(path: str | Path) -> str:
    return f"read {path}" if Path(path).read_bytes() else ""


def _files(facts: Mapping[str, Any]) -> str:
    home = Path(facts["home"])
    names = os.listdir(home)
    return f"saw {len(names)} names in {home}"


def _file(facts: Mapping[str, Any]) -> str:
    return _read(Path(facts["home"]) / facts["secret"])


def _planted(facts: Mapping[str, Any]) -> str:
    (Path(facts["home"]) / "from-a-neighbour").write_text("x")
    return "wrote into the home"


def _processes(facts: Mapping[str, Any]) -> str:
    return f"saw process {facts['pid']}" if os.path.isdir(f"/proc/{facts['pid']}") else ""


def _environment(facts: Mapping[str, Any]) -> str:
    return _read(f"/proc/{facts['pid']}/environ")


def _memory(facts: Mapping[str, Any]) -> str:
    with open(f"/proc/{facts['pid']}/mem", "rb") as memory:
        return "opened the memory" if memory else ""


def _descriptors(facts: Mapping[str, Any]) -> str:
    names = os.listdir(f"/proc/{facts['pid']}/fd")
    return f"saw {len(names)} descriptors"


def _temporary(facts: Mapping[str, Any]) -> str:
    found = [path for path in facts["temporary"] if os.path.exists(path)]
    return f"saw {found[0]}" if found else ""


def _ports(facts: Mapping[str, Any]) -> str:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::")):
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            for port in facts["ports"]:
                try:
                    with socket.socket(family, socket.SOCK_STREAM) as listener:
                        listener.setsockopt(socket.SOL_SOCKET, option, 1)
                        listener.bind((address, port))
                        listener.listen()
                        return f"listens on port {port}"
                except OSError:
                    continue
    return ""


def _runtime(facts: Mapping[str, Any]) -> str:
    names = os.listdir(facts["runtime"])
    return f"saw {len(names)} names in {facts['runtime']}"


def _unix(paths: list[str]) -> str:
    for path in paths:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                connection.connect(path)
                return f"connected to {path}"
        except OSError:
            continue
    return ""


def _kernel_sockets(facts: Mapping[str, Any]) -> str:
    return _unix(facts["kernel_sockets"])


def _other_sockets(facts: Mapping[str, Any]) -> str:
    return _unix(facts["sockets"])


def _listeners(facts: Mapping[str, Any]) -> list[int]:
    """TCP ports of the victim's processes, which every account can see (proc(5))."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[7]) == facts["uid"]:
                found.append(int(fields[1].rpartition(":")[2], 16))
    return found


def _tcp(facts: Mapping[str, Any]) -> str:
    for port in _listeners(facts):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return f"connected to port {port}"
    return ""


def _debugger(facts: Mapping[str, Any]) -> str:
    """The victim has used the debugger before."""
    content = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "debugpy"}})
    for port in _listeners(facts):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as debugger:
            debugger.sendall(f"Content-Length: {len(content)}\r\n\r\n{content}".encode())
            if b"Content-Length" in debugger.recv(1000):
                return f"the debugger on port {port} answers"
    return ""


def _ticket(facts: Mapping[str, Any]) -> str:
    return "signed in as the other" if tickets.redeem(Path(facts["tickets"]), facts["ticket"]) else ""


def _keys(facts: Mapping[str, Any]) -> str:
    for path in facts["keys"]:
        try:
            if found := _read(path):
                return found
        except OSError:
            continue
    return ""


def _ptrace(facts: Mapping[str, Any]) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, facts["pid"], 0, 0) != 0:
        return ""
    os.waitpid(facts["pid"], 0)
    libc.ptrace(_PTRACE_DETACH, facts["pid"], 0, 0)
    return "held the process by ptrace"


def _signals(facts: Mapping[str, Any]) -> str:
    os.kill(facts["pid"], signal.SIGCONT)
    return "signalled the process"


def _limits(facts: Mapping[str, Any]) -> str:
    for path in facts["groups"]:
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            return f"moved to {path}"
        except OSError:
            continue
    return ""


def _privileges(_facts: Mapping[str, Any]) -> str:
    """Programs that would run as root or with a group's rights without no_new_privs."""
    for command in (["sudo", "-n", "true"], ["crontab", "-l"], ["at", "-l"]):
        try:
            if subprocess.run(command, capture_output=True, timeout=10).returncode == 0:
                return f"ran {command[0]}"
        except FileNotFoundError:
            continue
    return ""


ATTACKS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "list the home": _files,
    "read a file in the home": _file,
    "plant a file in the home": _planted,
    "see the processes in /proc": _processes,
    "read a process's environment": _environment,
    "open a process's memory": _memory,
    "list a process's descriptors": _descriptors,
    "see files in /tmp, /var/tmp, /dev/shm": _temporary,
    "take the port": _ports,
    "list the runtime folder": _runtime,
    "connect to the kernels' sockets": _kernel_sockets,
    "connect to the server behind the proxy, to the supervisor": _other_sockets,
    "connect to a TCP port of the other's processes": _tcp,
    "attach to the other's debugger": _debugger,
    "use a stolen ticket": _ticket,
    "read the class's keys": _keys,
    "trace a process": _ptrace,
    "signal a process": _signals,
    "leave their own limits, or enter the other's": _limits,
    "gain privileges by sudo, crontab or at": _privileges,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
