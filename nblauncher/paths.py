"""The files and folders of a course on the host (docs/reference.md, Files on the host)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE_ROOT = Path("/var/lib/nblauncher")
RUN_ROOT = Path("/run/nblauncher")
LOG_ROOT = Path("/var/log/nblauncher")
ENVIRONMENTS_ROOT = Path("/opt/nblauncher/courses")

PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
"""World-writable folders. In a student's mount namespace each is a file system of its own, of a limited size."""


@dataclass(frozen=True, slots=True)
class CoursePaths:
    """Folders and files of one course. All belong to root; modes are set where each is made."""

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
    def lockouts(self) -> Path:
        """0600 root: the students that the teacher locked out, as JSON."""
        return self.state / "locked.json"

    @property
    def imported(self) -> Path:
        """0600 root: the export that the course came from, and what `setup` still takes from it, as JSON."""
        return self.state / "imported.json"

    @property
    def mailed(self) -> Path:
        """0600 root: to whom `mail` has sent which password; no password is in it."""
        return self.state / "mailed.json"

    @property
    def tls(self) -> Path:
        """ca.pem (the certificate alone), ca.key, and a leaf certificate and key per server; 0600 root."""
        return self.state / "tls"

    def server_certificate(self, username: str) -> Path:
        """Of the student's server; the key is beside it."""
        return self.tls / "servers" / f"{username}.pem"

    @property
    def accepted(self) -> Path:
        """The last accepted config and roster, for unattended starts."""
        return self.state / "accepted"

    @property
    def versions(self) -> Path:
        """0700 root: every version of a file that a student was given last, or based a file on."""
        return self.state / "objects"

    @property
    def history(self) -> Path:
        """0700 root: history.db and, in objects/, the contents of students' folders at each snapshot."""
        return self.state / "history"

    @property
    def captures(self) -> Path:
        """0700 root: work captured at a deadline that is not in the teacher's store yet."""
        return self.state / "captures"

    @property
    def receipt_key(self) -> Path:
        """0600 root: signs the receipts of deadlines."""
        return self.state / "receipt.key"

    @property
    def run(self) -> Path:
        """0711 root: sockets and runtime folders; empty after a reboot."""
        return RUN_ROOT / self.course

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def tickets_socket(self) -> Path:
        return self.run / "tickets.sock"

    @property
    def kernels_socket(self) -> Path:
        """0666 root: students' servers request forked kernels here; the peer's uid decides."""
        return self.run / "kernels.sock"

    @property
    def preloaded(self) -> Path:
        """0600 root: the modules that a notebook server loads; determined again after a reboot."""
        return self.run / "preloaded.json"

    @property
    def kernels_home(self) -> Path:
        """0700 root: the home of the kernels' fork server, for caches of libraries and the list of modules."""
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
    def appearance(self) -> Path:
        """0644 root: title and language, which every page of the class has; see nblauncher.auth.appearance."""
        return self.run / "etc" / "jupyter" / "appearance.json"

    @property
    def students_run(self) -> Path:
        """0711 root: holds `UID/`, 0700 of the student (JUPYTER_RUNTIME_DIR)."""
        return self.run / "student"

    @property
    def environments(self) -> Path:
        """0755 root: the environments of notebook.requirements, with the link `current` to the one in use."""
        return ENVIRONMENTS_ROOT / self.course

    @property
    def grading_environments(self) -> Path:
        """0755 root: the environments of grading.requirements, with the link `current` to the one in use. No course
        has a `+` in its name.
        """
        return ENVIRONMENTS_ROOT / f"{self.course}+grading"

    @property
    def grading(self) -> Path:
        """0711 root: sockets and working folders while an assignment is graded."""
        return self.run / "grading"

    @property
    def logs(self) -> Path:
        """0700 root: nblauncher.log and one capped log per student's server."""
        return LOG_ROOT / self.course


def make_folders(paths: CoursePaths) -> None:
    """Make the folders of a course, as root; existing ones get the right mode."""
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


def submission_locks() -> Path:
    """0700 root: a lock for each uid that a submission of any course is graded as. No course has a `.` in its name."""
    return RUN_ROOT / "submissions.locks"
