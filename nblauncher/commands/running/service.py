"""service install|remove: systemd starts the class again after a reboot."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path

from nblauncher.errors import HostError, RefusedError
from nblauncher.model import ServerState
from nblauncher.planning.host import Host
from nblauncher.supervisor import client
from nblauncher.system import processes, root_files

UNITS = Path("/etc/systemd/system")
_INSTALLED = Path("/opt/nblauncher/current/bin/nblauncher")

# Nothing of this needs a mount namespace: the class must see what the host mounts later. No NoNewPrivileges, no
# RestrictSUIDSGID: they would hold for useradd and for the students as well. Source: systemd.exec(5), systemd.kill(5).
_UNIT = """\
# Written by `nblauncher service install`; `nblauncher service remove` takes it away.
[Unit]
Description=Jupyter class {course} (nblauncher)
Documentation=man:systemd.service(5)
After=network-online.target remote-fs.target nss-user-lookup.target time-sync.target
Wants=network-online.target
RequiresMountsFor={mounts}
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} launch --service {course}
TimeoutStartSec=900
TimeoutStopSec=90
Restart=on-failure
RestartSec=5
# The supervisor and the servers are in a scope of their own: they outlive this process, and are found again.
KillMode=process
OOMPolicy=continue
LockPersonality=yes
RestrictRealtime=yes
KeyringMode=private
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def unit_of(course: str) -> str:
    return f"nblauncher-{course}.service"


def file_of(course: str) -> Path:
    return UNITS / unit_of(course)


def text(host: Host) -> str:
    """The unit of this course."""
    mounts = sorted({str(host.settings.accounts.home), "/opt/nblauncher", str(host.paths.state)})
    return _UNIT.format(course=host.settings.course, mounts=" ".join(mounts), command=" ".join(_command()))


def is_current(host: Host) -> bool:
    file = file_of(host.settings.course)
    return file.is_file() and not file.is_symlink() and file.read_text(encoding="utf-8") == text(host)


def install(host: Host) -> str:
    """Write and enable the unit; a sentence for the caller. RefusedError where systemd does not run."""
    course = host.settings.course
    _require_systemd()
    if not host.ledger.members(course):
        raise RefusedError("no student is set up in this course yet", "Run `nblauncher setup` first.")
    file = file_of(course)
    if is_current(host) and _is_enabled(course):
        return f"{unit_of(course)} is installed already."
    root_files.replace(file, text(host), mode=0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", unit_of(course))
    supervisor = client.connect(host.paths)
    if supervisor is not None:
        supervisor.close()
        _systemctl("start", unit_of(course))
        return f"{unit_of(course)} is installed and watches the running class."
    return (
        f"{unit_of(course)} is installed. It starts with the host; `systemctl start {unit_of(course)}` starts it now."
    )


def remove(course: str) -> bool:
    """Disable and delete the unit; whether there was one. A running class keeps running."""
    file = file_of(course)
    if not os.path.lexists(file):
        return False
    if _runs():
        _systemctl("disable", unit_of(course))
    file.unlink()
    with contextlib.suppress(OSError):
        (UNITS / "multi-user.target.wants" / unit_of(course)).unlink()
    if _runs():
        _systemctl("daemon-reload")
    return True


def stop(host: Host) -> None:
    """End the class. The ledger keeps which servers should run, so that they start with the host."""
    supervisor = client.connect(host.paths)
    if supervisor is not None:
        with supervisor:
            supervisor.end()


def notify(words: str) -> None:
    """Notify systemd, if it started us, with lines such as READY=1 (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, contextlib.suppress(OSError):
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.sendall(words.encode())


def wanted(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Students with a running server, and those with a sleeping one, when the host went down."""
    desired = host.course_ledger.desired()
    members = host.ledger.members(host.settings.course)
    up = tuple(name for name in members if desired.get(name) == "up")
    asleep = tuple(name for name in members if desired.get(name) == ServerState.ASLEEP.value)
    return up, asleep


def _command() -> tuple[str, ...]:
    """The installed program, which later releases replace; else this one."""
    if Path(sys.prefix).parent.parent == _INSTALLED.parents[2] and _INSTALLED.exists():
        return (str(_INSTALLED),)
    return (sys.executable, "-I", "-m", "nblauncher")


def _require_systemd() -> None:
    if not _runs() or shutil.which("systemctl", path=processes.ENVIRONMENT["PATH"]) is None:
        raise RefusedError(
            "this host's services are not run by systemd",
            "Have its own init run `nblauncher -c FILE launch --background` at boot.",
        )


def _runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def _is_enabled(course: str) -> bool:
    try:
        processes.run(["systemctl", "is-enabled", "--quiet", unit_of(course)])
    except HostError:
        return False
    return True


def _systemctl(*words: str) -> None:
    processes.run(["systemctl", *words], timeout=1000)
