"""A Debian with systemd, for what only a boot can show: in a container, or with a kernel of its own.

Made once (minutes), kept for the next run.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
KEPT = Path(sys.prefix).parent / "cache" / "debian"
"""Beside the environment that the tests run in: neither a student's nor in anybody's way."""

PACKAGES = "systemd,dbus,ca-certificates,python3-venv,git,curl,e2fsprogs"
KERNEL = {"x86_64": ("linux-image-amd64", "qemu-system-x86_64")}
"""By platform.machine(): the kernel's package, and who emulates such a machine."""

_JOB = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/root/job.sh
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
"""


class Booted:
    """One machine: `run` boots it, runs a script and waits until it is off."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @functools.cache
    def made(cls) -> Booted:
        """With this checkout installed. Skips, and says why, where no such machine can be made."""
        for tool in ("systemd-nspawn", "debootstrap"):
            if shutil.which(tool) is None:
                pytest.skip(f"NO BOOT TEST: {tool} is missing (apt-get install systemd-container debootstrap)")
        if not (KEPT / "complete").exists():
            _make()
        machine = cls(KEPT / "root")
        machine._install()
        machine._boot_once()
        return machine

    def run(self, script: str, *, timeout: float = 280) -> str:
        """What the script said, as root, after the boot. The machine has no network."""
        self.write_job(script, "/root/job.log")
        said = self.root / "root/job.log"
        said.unlink(missing_ok=True)
        booted = ["--boot", "--private-network", "--console=pipe", "--capability=all"]
        # What nspawn forbids by default and a kernel on iron allows.
        booted.append("--system-call-filter=pidfd_getfd kcmp")
        done = self._nspawn(*booted, timeout=timeout)
        assert said.exists(), done
        return said.read_text()

    def write_job(self, script: str, output: str) -> None:
        """What it does at the next boot before it goes off."""
        job = self.root / "root/job.sh"
        job.write_text(f"#!/bin/bash\nexec > {output} 2>&1\ncd /root\nexport HOME=/root\n{script}\nsync\n")
        job.chmod(0o755)

    def do(self, script: str, *, timeout: float = 580) -> str:
        """What the script said, as root, not booted and with the host's network."""
        return self._nspawn("--resolv-conf=copy-host", *_pip(), "/bin/bash", "-ec", script, timeout=timeout)

    def _install(self) -> None:
        """This checkout, as its users do."""
        source = self.root / "root/src"
        shutil.rmtree(source, ignore_errors=True)
        subprocess.run(["cp", "-a", str(CHECKOUT), str(source)], check=True)
        # A container shares the host's uids: its front page must not look like one of the host's system accounts.
        limits = self.root / "etc/login.defs"
        limits.write_text(re.sub(r"^#?SYS_UID_MAX.*$", "SYS_UID_MAX 499", limits.read_text(), flags=re.M))
        command = self.root / "usr/local/bin/nblauncher"
        command.unlink(missing_ok=True)
        said = self.do("/root/src/install.sh")
        if not command.is_symlink():  # tests/system/test_install.py is about install.sh
            pytest.skip(f"NO BOOT TEST: the container reaches no packages: {said[-500:]}")

    def _boot_once(self) -> None:
        """Whether systemd starts here at all."""
        try:
            self.run("systemctl --version", timeout=120)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"NO BOOT TEST: systemd does not boot in a container here: {str(error)[-500:]}")

    def _nspawn(self, *arguments: str, timeout: float) -> str:
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(self.root), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        return (done.stdout + done.stderr)[-4000:]


class Emulated:
    """The machine with a kernel of its own, and so with all that Debian's kernel has: every controller, quotas.

    It is emulated, a tenth as fast, because /dev/kvm is not there or does not work where virtual machines are nested.
    """

    def __init__(self, booted: Booted, emulator: str) -> None:
        self._booted, self._emulator = booted, emulator

    @classmethod
    def made(cls) -> Emulated:
        """Skips, and says why, where no such machine can be made. Its Python has pytest."""
        kind = platform.machine()
        if kind not in KERNEL:
            pytest.skip(f"NO KERNEL TEST: not on {kind}")
        package, emulator = KERNEL[kind]
        if shutil.which(emulator) is None:
            pytest.skip(f"NO KERNEL TEST: {emulator} is missing (apt-get install qemu-system-x86)")
        booted = Booted.made()
        said = booted.do(
            f"ls /vmlinuz /initrd.img || (apt-get update; apt-get install -qy --no-install-recommends {package})\n"
            "$(dirname $(readlink -f /usr/local/bin/nblauncher))/python -I -m pip install -q"
            " -c /root/src/constraints.txt pytest pytest-timeout"
        )
        if not (booted.root / "initrd.img").exists():
            pytest.skip(f"NO KERNEL TEST: Debian's kernel cannot be fetched: {said[-500:]}")
        return cls(booted, emulator)

    def run(self, script: str, *, timeout: float) -> str:
        """What the script said, as root, after the boot. Nothing of it stays. The machine has no network."""
        self._booted.write_job(f"stty raw\n{script}", "/dev/ttyS1 < /dev/ttyS1")
        root, image, said = self._booted.root, KEPT / "disk", KEPT / "said"
        image.unlink(missing_ok=True)
        said.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(8 * 2**30)
        subprocess.run(["mkfs.ext4", "-q", "-d", str(root), str(image)], check=True)
        options = "root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off"
        command = [self._emulator, "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "1", "-m", "3G", "-nic", "none"]
        command += ["-kernel", str(root / "vmlinuz"), "-initrd", str(root / "initrd.img"), "-append", options]
        command += ["-display", "none", "-no-reboot", "-serial", "stdio", "-serial", f"file:{said}"]
        command += ["-drive", f"file={image},format=raw,if=virtio,cache=unsafe"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )
            assert said.exists() and said.stat().st_size, (done.stdout + done.stderr)[-4000:]
            return said.read_text(errors="replace")
        finally:
            image.unlink()


def _make() -> None:
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    command = ["debootstrap", f"--include={PACKAGES}", "stable", str(KEPT / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        pytest.skip(f"NO BOOT TEST: debootstrap cannot make a Debian: {(done.stdout + done.stderr)[-300:]}")
    unit = KEPT / "root/etc/systemd/system/job.service"
    unit.write_text(_JOB)
    wants = unit.parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"../{unit.name}")
    (KEPT / "complete").touch()


def _pip() -> list[str]:
    """The packages come from where this host's pip gets them: its settings, and folders that they name."""
    options = ["--setenv=PIP_DISABLE_PIP_VERSION_CHECK=1"]
    for file in map(Path, ("/etc/pip.conf", "/etc/xdg/pip")):
        if file.exists():
            options.append(f"--bind-ro={file}")
    certificate = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificate and Path(certificate).exists():
        options.append(f"--bind-ro={certificate}:/etc/ssl/certs/ca-certificates.crt")
    pip_config = [sys.executable, "-m", "pip", "config", "list"]  # a fresh host has no other pip
    known = subprocess.run(pip_config, capture_output=True, text=True, check=True).stdout
    for folder in {
        word for line in known.splitlines() for word in line.replace("'", " ").replace("file://", "").split()
    }:
        if folder.startswith("/opt/") and Path(folder).is_dir():
            options.append(f"--bind-ro={folder}")
    return options
