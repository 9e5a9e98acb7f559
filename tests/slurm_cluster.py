"""A Slurm of the tests' own: a controller and two nodes with addresses, host names and processes of their own.

Each machine is a set of namespaces (network, host name, mounts, processes, control groups) on a bridge; accounts and
files are the host's, as on a cluster with LDAP and NFS. Its first process ends with the test process, and everything
that runs on the machine ends with it. Two test runs on one host get different numbers, and so different addresses.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "ip", "unshare", "nsenter", "setpriv")
CONTROLLERS = ("freezer", "memory", "cpuacct")
"""Of cgroup v1, which the nodes' proctrack/cgroup needs. Without them Slurm tracks processes by their parents."""
NODES = ("n1", "n2")
SPARE = "ctl"
PARTITION, SHORT, SHORT_MINUTES = "class", "short", 10
"""The default partition with both nodes, and one with n1 alone and a limit of time."""
NODE_CPUS, NODE_MEGABYTES = 128, 256_000
PATIENCE = 60.0

_LOCK = "/run/lock/nblauncher-tests-slurm-{}"
_CGROUPS = Path("/sys/fs/cgroup")
_BOOT = Path(__file__).with_name("slurm_machine.sh")
_CONFIG = """\
ClusterName=nbt{number}
SlurmctldHost={controller}({controller_address})
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{tracking}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,default_queue_depth=1000,bf_interval=2
MpiDefault=none
ReturnToService=1
SlurmdTimeout=10
KillWait=3
MinJobAge=300
{nodes}
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=100 LLN=YES State=UP
PartitionName={short} Nodes=n1 MaxTime={short_minutes} DefMemPerCPU=100 State=UP
"""
_WITH_CGROUPS = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup"
_WITHOUT_CGROUPS = "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none"
_CGROUP_CONFIG = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainCores=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainDevices=no
MinRAMSpace=20
"""


@dataclass
class Machine:
    """One host of the cluster, up or down."""

    name: str
    address: str
    cable: str
    """Its end on the bridge."""
    daemon: tuple[str, ...]
    group: str
    """Its control group, in each hierarchy."""
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def boot(self, bridge: str, environment: Mapping[str, str], controllers: Sequence[str]) -> None:
        assert not self.is_up
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "bash", str(_BOOT), self.group, *controllers],
                env={**environment, "NAME": self.name, "ADDRESS": self.address, "DAEMON": " ".join(self.daemon)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        pid, ours = self.process.pid, os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{pid}/ns/net") != ours, f"{self.name} has no network of its own")
        command("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        command("ip", "link", "set", self.cable, "master", bridge, "up")

    def first_process(self) -> int:
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def daemon_pid(self) -> int | None:
        """Where the daemon is among our own processes."""
        for child in Path(f"/proc/{self.first_process()}/task/{self.first_process()}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                called = Path(f"/proc/{child}/cmdline").read_bytes().partition(b"\0")[0]
                if os.path.basename(called) == self.daemon[0].encode("ascii"):
                    return int(child)
        return None

    def run(self, *argv: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command on the machine, as root. Slurm's own need the cluster's `environment`."""
        enter = ("nsenter", "--target", str(self.first_process()), "--net", "--uts", "--mount", "--pid")
        return subprocess.run((*enter, *argv), check=False, capture_output=True, text=True, env=environment)

    def stop_daemon(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError, AssertionError):
            if pid := self.daemon_pid():
                os.kill(pid, number)
                wait_until(lambda: self.daemon_pid() is None, f"{self.name} does not stop", 10)

    def power_off(self, number: int = signal.SIGKILL) -> None:
        """End the daemon with this signal, then everything that runs there."""
        if self.process is None:
            return
        if self.process.poll() is None:
            if number != signal.SIGKILL:
                self.stop_daemon(number)
            self.process.kill()  # its first process dies with it, and all others with that
        self.process.wait(PATIENCE)
        self.process = None
        wait_until(lambda: not Path(f"/sys/class/net/{self.cable}").exists(), f"{self.name} does not end")


@dataclass
class Cluster:
    number: int
    folder: Path
    controllers: tuple[str, ...]
    munged: subprocess.Popen[bytes] | None = None
    nodes: dict[str, Machine] = field(default_factory=dict)
    controller: Machine = field(init=False)

    def __post_init__(self) -> None:
        self.controller = self._machine(SPARE, 1, ("slurmctld", "-D"))
        for place, name in enumerate(NODES):
            self.nodes[name] = self._machine(name, 11 + place, ("slurmd", "-D", "-N", name))

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.config), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

    @property
    def bridge(self) -> str:
        return f"nbt{self.number}"

    @property
    def has_cgroups(self) -> bool:
        return bool(self.controllers)

    def run(self, *argv: str) -> str:
        """One of Slurm's commands, as root on the front host."""
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def cut(self, node: str) -> None:
        """Nothing reaches the node any more, and its jobs run on."""
        command("ip", "link", "set", self.nodes[node].cable, "down")

    def join(self, node: str) -> None:
        """Undo `cut`, `kill_daemon` or `kill_node`, and wait until Slurm uses the node again."""
        self._switch_on(self.nodes[node], self.controllers)
        self.wait_for_nodes([node])

    def kill_node(self, node: str) -> None:
        """As by loss of power: slurmd and all jobs of the node are gone at once."""
        self.nodes[node].power_off()

    def kill_daemon(self, node: str) -> None:
        """slurmd alone; the jobs run on."""
        pid = self.nodes[node].daemon_pid()
        assert pid
        os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """The controller gives up a silent node sooner. On a busy host it might give up others as well."""
        before = self.config.read_text()
        quick = "SlurmdTimeout=5\nMessageTimeout=3\nTCPTimeout=1"
        self.config.write_text(before.replace("SlurmdTimeout=10", quick))
        self.run("scontrol", "reconfigure")
        try:
            yield
        finally:
            self.config.write_text(before)
            self.run("scontrol", "reconfigure")

    def set_down(self, node: str, reason: str = "test") -> None:
        """The fast way to a failed node: its jobs get NODE_FAIL within milliseconds."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", f"reason={reason}")

    def resume(self, node: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_for_nodes([node])

    def stop_controller(self, *, has_power: bool = True) -> None:
        """The daemon alone: its host refuses connections then. Without power nothing answers at all."""
        self.controller.stop_daemon(signal.SIGTERM)
        if not has_power:
            self.controller.power_off()

    def start_controller(self) -> None:
        self._switch_on(self.controller, ())
        wait_until(lambda: "is UP" in self.run("scontrol", "ping"), "slurmctld does not answer")
        self.wait_for_nodes([name for name, machine in self.nodes.items() if machine.is_up])

    def stop_munge(self) -> None:
        if self.munged is not None:
            self.munged.terminate()
            self.munged.wait(PATIENCE)
            self.munged = None

    def start_munge(self) -> None:
        folder = self.folder / "munge"
        files = [f"--{name}-file={folder}/{name}" for name in ("key", "pid", "seed", "log")]
        self.munged = self._as_munge("munged", "--foreground", f"--socket={folder}/socket", *files)
        wait_until(self._munge_answers, "munged does not answer")

    def jobs(self) -> str:
        """What Slurm still has in the queue: a line for each job, without what its student could write."""
        return self.run("squeue", "-h", "-a", "-o", "%i %T %u")

    def clear(self) -> None:
        """End every job, and wait until nothing of them is left."""
        if listed := self.jobs().splitlines():
            self.run("scancel", *[line.split()[0] for line in listed])
        wait_until(lambda: not self.jobs(), self.jobs)

    def up(self) -> None:
        self._make_folders()
        with contextlib.suppress(subprocess.CalledProcessError):
            command("ip", "link", "del", self.bridge)  # of a run that was killed
        command("ip", "link", "add", self.bridge, "type", "bridge")
        command("ip", "addr", "add", f"{self._address(254)}/24", "dev", self.bridge)
        command("ip", "link", "set", self.bridge, "up")
        self.start_munge()
        self.controller.boot(self.bridge, self.environment, ())
        for machine in self.nodes.values():
            machine.boot(self.bridge, self.environment, self.controllers)
        wait_until(lambda: "is UP" in self.run("scontrol", "ping"), "slurmctld does not answer")
        self.wait_for_nodes(list(self.nodes))

    def down(self) -> None:
        for machine in self.nodes.values():
            machine.power_off(signal.SIGTERM)
        self.controller.power_off(signal.SIGTERM)
        self.stop_munge()
        with contextlib.suppress(subprocess.CalledProcessError):
            command("ip", "link", "del", self.bridge)
        for controller in self.controllers:
            _remove_groups(_CGROUPS / controller / self._group)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _group(self) -> str:
        return f"nbt-slurm{self.number}"

    def _machine(self, name: str, last: int, daemon: tuple[str, ...]) -> Machine:
        log = self.folder / f"{name}.out"
        return Machine(name, self._address(last), f"{self.bridge}{name}", daemon, f"{self._group}/{name}", log)

    def _address(self, last: int) -> str:
        return f"10.231.{self.number}.{last}"

    def _make_folders(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o755, parents=True)
        for name, owner, mode in (("munge", "munge", 0o755), ("state", "slurm", 0o755)):
            folder = self.folder / name
            folder.mkdir()
            folder.chmod(mode)
            shutil.chown(folder, owner, owner)
        key = self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        shutil.chown(key, "munge", "munge")
        nodes = "\n".join(
            f"NodeName={one.name} NodeAddr={one.address} CPUs={NODE_CPUS} RealMemory={NODE_MEGABYTES} State=UNKNOWN"
            for one in self.nodes.values()
        )
        text = _CONFIG.format(
            number=self.number,
            controller=SPARE,
            controller_address=self.controller.address,
            folder=self.folder,
            tracking=_WITH_CGROUPS if self.has_cgroups else _WITHOUT_CGROUPS,
            nodes=nodes,
            partition=PARTITION,
            short=SHORT,
            short_minutes=SHORT_MINUTES,
        )
        self.config.write_text(text)
        self.config.with_name("cgroup.conf").write_text(_CGROUP_CONFIG if self.has_cgroups else "")
        for name in ("slurm.conf", "cgroup.conf"):
            (self.folder / name).chmod(0o644)

    def _as_munge(self, *argv: str) -> subprocess.Popen[bytes]:
        drop = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "--pdeathsig", "KILL")
        with (self.folder / "munged.out").open("ab") as log:
            return subprocess.Popen(
                (*drop, *argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def _munge_answers(self) -> bool:
        argv = ["munge", f"--socket={self.folder}/munge/socket", "--no-input"]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def _switch_on(self, machine: Machine, controllers: Sequence[str]) -> None:
        """Whatever of the machine is off: power, network, daemon."""
        if not machine.is_up:
            machine.boot(self.bridge, self.environment, controllers)
            return
        command("ip", "link", "set", machine.cable, "up")
        if machine.daemon_pid() is not None:
            return
        enter = ["nsenter", "--target", str(machine.first_process()), "--net", "--uts", "--mount", "--pid"]
        with machine.log.open("ab") as log:
            done = subprocess.run(
                [*enter, *[word for word in machine.daemon if word != "-D"]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=False,
            )
        assert done.returncode == 0, machine.log.read_text()

    def wait_for_nodes(self, wanted: Sequence[str]) -> None:
        def usable() -> bool:
            listed = self.run("sinfo", "-h", "-N", "-t", "idle,mix,alloc", "-o", "%N|%t").splitlines()
            # A state with a star: the node does not answer at the moment.
            return set(wanted) <= {line.partition("|")[0] for line in listed if not line.endswith("*")}

        wait_until(usable, lambda: f"not all of {wanted} are usable: {self.run('sinfo', '-N', '-l')}")


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A cluster, up in a second or two and gone without a trace afterwards."""
    with _number() as number:
        cluster = Cluster(number, Path(f"/run/nbt-slurm{number}"), _usable_controllers())
        try:
            cluster.up()
            yield cluster
        except AssertionError:
            print(cluster_logs(cluster))
            raise
        finally:
            cluster.down()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """For tests marked `system` and `slow`: run-tests.sh installs Slurm for the slow lane."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"this host has no {', '.join(missing)}: apt-get install munge slurmctld slurmd slurm-client")
    for account in ("munge", "slurm"):
        pwd.getpwnam(account)
    with running() as made:
        yield made


def cluster_logs(cluster: Cluster) -> str:
    files = sorted([*cluster.folder.glob("*.log"), *cluster.folder.glob("*.out")])
    return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)


def command(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def wait_until(is_true: Callable[[], bool], words: str | Callable[[], str], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, AssertionError, IndexError):
            if is_true():
                return
        assert time.monotonic() < deadline, words if isinstance(words, str) else words()
        time.sleep(0.05)


@contextlib.contextmanager
def _number() -> Iterator[int]:
    """A number that no other test run on this host uses at the moment."""
    for number in range(1, 200):
        descriptor = os.open(_LOCK.format(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield number
        finally:
            os.close(descriptor)
        return
    pytest.fail("200 clusters on one host")


@functools.cache
def _usable_controllers() -> tuple[str, ...]:
    """All of them, or none: where the hierarchies are those of cgroup v2, or read-only."""
    folders = [_CGROUPS / name for name in CONTROLLERS]
    usable = all((folder / "tasks").exists() and os.access(folder, os.W_OK) for folder in folders)
    return CONTROLLERS if usable else ()


def _remove_groups(top: Path) -> None:
    """A group is empty as soon as its last process is reaped, which takes a moment."""

    def removed() -> bool:
        for folder, _names, _files in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not top.exists()

    wait_until(removed, f"{top} cannot be removed", 20)
