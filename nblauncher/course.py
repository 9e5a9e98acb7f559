"""Where a course keeps its things on the host (DESIGN section 3, "On the host")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE_ROOT = Path("/var/lib/nblauncher")
RUN_ROOT = Path("/run/nblauncher")
LOG_ROOT = Path("/var/log/nblauncher")
ENVIRONMENTS_ROOT = Path("/opt/nblauncher/courses")


@dataclass(frozen=True, slots=True)
class CoursePaths:
    """Folders and files of one course. All are root's; the modes are set where each is made."""

    course: str

    @property
    def state(self) -> Path:
        """0700 root: ledger, hashes, TLS, last accepted inputs."""
        return STATE_ROOT / self.course

    @property
    def ledger(self) -> Path:
        return self.state / "course.db"

    @property
    def hashes(self) -> Path:
        """0600 root: {username: "argon2:…"} as JSON."""
        return self.state / "hashes.json"

    @property
    def tls(self) -> Path:
        """ca.pem (the certificate alone), ca.key, and a leaf certificate and key per server; 0600 root."""
        return self.state / "tls"

    @property
    def accepted(self) -> Path:
        """The last accepted config and roster, for unattended starts."""
        return self.state / "accepted"

    @property
    def versions(self) -> Path:
        """0700 root: every version of a file that some student was given last or has made something of."""
        return self.state / "objects"

    @property
    def history(self) -> Path:
        """0700 root: history.db and, in objects/, the contents that students' folders had."""
        return self.state / "history"

    @property
    def captures(self) -> Path:
        """0700 root: what was captured at a deadline and is not in the teacher's store yet."""
        return self.state / "captures"

    @property
    def receipt_key(self) -> Path:
        """0600 root: signs the receipts of deadlines."""
        return self.state / "receipt.key"

    @property
    def run(self) -> Path:
        """0711 root: sockets and runtime folders; gone after a reboot."""
        return RUN_ROOT / self.course

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def tickets_socket(self) -> Path:
        return self.run / "tickets.sock"

    @property
    def kernels_socket(self) -> Path:
        """0666 root: where students' servers ask for forked kernels; the peer's uid decides."""
        return self.run / "kernels.sock"

    @property
    def preloaded(self) -> Path:
        """0600 root: the modules that a notebook server loads; found anew after a reboot."""
        return self.run / "preloaded.json"

    @property
    def kernels_home(self) -> Path:
        """0700 root: the home of the kernels' fork server, where libraries keep caches, and its finding."""
        return self.run / "kernels"

    @property
    def http(self) -> Path:
        """0750 root, the proxy's group: the unix sockets of the students' servers and of the front page."""
        return self.run / "http"

    @property
    def front_socket(self) -> Path:
        return self.http / "front.sock"

    @property
    def proxy(self) -> Path:
        """0750 root, the proxy's group: its config, certificate and key."""
        return self.run / "proxy"

    @property
    def students_run(self) -> Path:
        """0711 root: holds `UID/`, 0700 of the student (JUPYTER_RUNTIME_DIR)."""
        return self.run / "student"

    @property
    def environments(self) -> Path:
        """0755 root: the environments of notebook.requirements, with the link `current` to the one in use."""
        return ENVIRONMENTS_ROOT / self.course

    @property
    def logs(self) -> Path:
        """0700 root: nblauncher.log and one capped log per student's server."""
        return LOG_ROOT / self.course


def make_folders(paths: CoursePaths) -> None:
    """The folders of a course, as root; existing ones get their mode back."""
    for folder, mode in (
        (STATE_ROOT, 0o700),
        (paths.state, 0o700),
        (RUN_ROOT, 0o711),
        (paths.run, 0o711),
        (paths.students_run, 0o711),
        (LOG_ROOT, 0o755),
        (paths.logs, 0o700),
    ):
        folder.mkdir(mode=mode, exist_ok=True)
        folder.chmod(mode)


def host_database() -> Path:
    return STATE_ROOT / "host.db"
