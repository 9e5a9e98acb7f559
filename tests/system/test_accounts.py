"""Real accounts: made whole or not at all, opened and closed by real logins, deleted without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from nblauncher.accounts import linux, state_of
from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.accounts.passwd import clear_stale_locks, find_group, shadow_fields
from nblauncher.errors import NblauncherError, RefusedError
from nblauncher.ledger.locks import locked
from nblauncher.model import Account, AccountState, Secret
from tests.system_accounts import end_sessions, kept_as_found

pytestmark = [pytest.mark.system, pytest.mark.group("accounts")]

TIMEOUT = 30.0
HOME = Path("/home")
ADA = Account("nbta-ada", 24050, 24050, HOME / "nbta-ada", "/bin/bash", "nbl-00000000000000ad")
EVE = Account("nbta-eve", 24051, 24051, HOME / "nbta-eve", "/bin/bash", "nbl-00000000000000ee")
PASSWORD = Secret("abcd-efgh-jkmn-pqrs")


@pytest.fixture
def accounts() -> Iterator[LinuxAccounts]:
    with kept_as_found():
        found = LinuxAccounts()
        found.ensure_system_accounts()
        try:
            yield found
        finally:
            for account in (ADA, EVE):
                tidy(account)


def tidy(account: Account) -> None:
    """Whatever a test left of this name."""
    end_sessions(account.uid)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")  # octal, as proc(5) has it
        if point.startswith(f"{account.home}/"):
            subprocess.run(["umount", point], check=True)
    subprocess.run(["crontab", "-u", account.username, "-r"], check=False, capture_output=True)
    subprocess.run(["userdel", "-f", "--", account.username], check=False, capture_output=True)
    subprocess.run(["groupdel", account.username], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(account.home)], check=True)


@pytest.fixture
def ada(accounts: LinuxAccounts) -> Account:
    return accounts.create(ADA)


@pytest.fixture
def eve(accounts: LinuxAccounts) -> Account:
    return accounts.create(EVE)


# What create makes.


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_a_new_account_is_private_whole_and_closed(accounts, umask):
    before = os.umask(umask)
    try:
        made = accounts.create(ADA)
    finally:
        os.umask(before)
    home = made.home.lstat()
    assert stat.S_ISDIR(home.st_mode) and stat.S_IMODE(home.st_mode) == 0o700
    assert (home.st_uid, home.st_gid) == (ADA.uid, made.gid)
    assert sorted(os.listdir(made.home)) == sorted(os.listdir("/etc/skel"))
    own_group = find_group(ADA.username)
    assert own_group is not None and own_group.gr_gid == made.gid and own_group.gr_mem == []
    assert os.getgrouplist(ADA.username, made.gid) == [made.gid]
    assert (shadow_fields(ADA.username) or ["", ""])[1].startswith("!")
    for file in ("/etc/subuid", "/etc/subgid"):
        assert ADA.username not in Path(file).read_text()


NAMES = [
    "-rf", "--help", "../x", "a b", "a:b", "A", "a" * 32, "root\n", "nbta\n", "nbta-x$", "a;b", "*", "", "1", "12",
    "$(id)", "`id`", "nbtа", "nbta\0", "nbta,x", "nbta/x", ".", "..", "~",
]  # fmt: skip


@pytest.mark.parametrize(
    "claim",
    [
        *(replace(ADA, username=name, home=HOME / name.replace("\0", "")) for name in NAMES),
        *(replace(ADA, home=Path(home)) for home in ("/home/x/../nbta-ada", "nbta-ada", "/home/other", "/", "/home\n")),
        replace(ADA, home=Path("/home/a:b/nbta-ada")),
        replace(ADA, home=Path("/home/a\nroot::0:0::/:/bin/sh\n/nbta-ada")),
        *(replace(ADA, nonce=nonce) for nonce in ("", "x", "nbl-", "nbl-a,b", "nbl-a:b", "nbl-a\nb", "nbl-$(id)")),
        *(replace(ADA, shell=shell) for shell in ("/bin/sh:0", "/bin/sh\n", "/no/such/shell", "/etc/passwd", "")),
        *(replace(ADA, uid=uid) for uid in (0, 1, 999, 65534, 65535, 4294967294, -1)),
    ],
    ids=lambda claim: repr((claim.username, claim.uid, str(claim.home), claim.shell, claim.nonce)),
)
def test_odd_words_never_reach_a_tool(accounts, claim):
    before = {file: Path(file).read_bytes() for file in ("/etc/shells", "/etc/login.defs")}
    with pytest.raises(RefusedError):
        accounts.create(claim)
    assert accounts.name_of(ADA.uid) is None
    assert not ADA.home.exists()
    assert before == {file: Path(file).read_bytes() for file in before}


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_an_existing_home_is_not_handed_to_a_new_student(accounts, kind, tmp_path):
    (tmp_path / "secret").write_text("root's")
    match kind:
        case "folder":
            ADA.home.mkdir(mode=0o700)
        case "file":
            ADA.home.write_text("x")
        case "link":
            ADA.home.symlink_to(tmp_path)
        case "dangling link":
            ADA.home.symlink_to(tmp_path / "nowhere")
    before = ADA.home.lstat()
    with pytest.raises(RefusedError, match="exists already"):
        accounts.create(ADA)
    assert ADA.home.lstat() == before
    assert accounts.lookup(ADA.username) is None
    assert (tmp_path / "secret").lstat().st_uid == 0


@pytest.mark.parametrize("danger", ["world-writable", "group-writable", "a student's", "a file", "missing", "in /tmp"])
def test_homes_are_made_only_where_nobody_but_root_can_write(accounts, danger, tmp_path):
    root = Path("/srv/nbta-homes")
    root.mkdir()
    try:
        match danger:
            case "world-writable":
                root.chmod(0o1777)
            case "group-writable":
                root.chmod(0o775)
            case "a student's":
                os.chown(root, EVE.uid, EVE.gid)
            case "a file":
                root.rmdir()
                root.touch()
            case "missing":
                root.rmdir()
            case "in /tmp":
                root.rmdir()
                root.symlink_to(tmp_path)
        with pytest.raises(RefusedError, match=r"does not exist|only root can write|is the system's"):
            accounts.create(replace(ADA, home=root / ADA.username))
        assert accounts.lookup(ADA.username) is None
    finally:
        if root.is_dir() and not root.is_symlink():
            root.rmdir()
        else:
            root.unlink(missing_ok=True)


def test_a_group_of_the_name_or_number_is_refused(accounts):
    subprocess.run(["groupadd", "-g", str(ADA.uid), "nbta-eve"], check=True)
    assert not accounts.uid_is_free(ADA.uid)
    with pytest.raises(RefusedError, match="uid 24050"):
        accounts.create(ADA)
    with pytest.raises(RefusedError, match="account or group nbta-eve exists"):
        accounts.create(EVE)


def test_a_subordinate_uid_of_somebody_is_not_free(accounts, eve):
    subprocess.run(["usermod", "--add-subuids", f"{ADA.uid}-{ADA.uid}", eve.username], check=True)
    assert not accounts.uid_is_free(ADA.uid)


RECORDS = Path("/run/userdb")


@pytest.mark.skipif("systemd" not in Path("/etc/nsswitch.conf").read_text(), reason="no second source of accounts")
def test_accounts_that_are_in_no_local_file_count(accounts):
    """A record of systemd's stands in for LDAP: getent finds it, /etc/passwd does not have it."""
    was_there = RECORDS.is_dir()
    RECORDS.mkdir(exist_ok=True)
    record, link = RECORDS / f"{ADA.username}.user", RECORDS / f"{ADA.uid}.user"
    record.write_text(
        f'{{"userName": "{ADA.username}", "uid": {ADA.uid}, "gid": {ADA.gid}, "disposition": "regular", '
        f'"realName": "From The Network", "homeDirectory": "{ADA.home}", "shell": "/bin/bash"}}'
    )
    link.symlink_to(record.name)
    try:
        if accounts.lookup(ADA.username) is None:
            pytest.skip("libnss-systemd does not read records here")
        assert accounts.name_of(ADA.uid) == ADA.username and not accounts.uid_is_free(ADA.uid)
        for claim in (ADA, replace(EVE, uid=ADA.uid)):
            with pytest.raises(RefusedError):
                accounts.create(claim)
    finally:
        link.unlink()
        record.unlink()
        if not was_there:
            RECORDS.rmdir()


def test_two_runs_at_once_make_one_account_with_its_own_home(accounts, tmp_path):
    def run(account: Account) -> None:
        with locked(tmp_path / "host.lock", "accounts") as lock:
            accounts.create(account, locks=[lock])

    children = [started(run, claim) for claim in (ADA, replace(ADA, uid=EVE.uid, nonce=EVE.nonce))]
    assert sorted(os.waitpid(pid, 0)[1] for pid in children) == [0, 256]
    made = accounts.lookup(ADA.username)
    assert made is not None and made.home.lstat().st_uid == made.uid


def started(function: Callable[..., object], *arguments: object) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except NblauncherError:
            status = 1
        finally:
            os._exit(status)
    return pid


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# After a crash.


@contextlib.contextmanager
def databases_held() -> Iterator[None]:
    """Stand where the shadow tools wait for each other (lckpwdf)."""
    with open("/etc/.pwd.lock", "w") as stream:
        wait_until(lambda: _is_locked_by_us(stream.fileno()))
        yield


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def test_useradd_finishes_before_the_next_run_also_when_we_are_killed(accounts, tmp_path):
    file = tmp_path / "host.lock"

    def run() -> None:
        with locked(file, "accounts") as lock:
            (tmp_path / "locked").touch()
            accounts.create(ADA, locks=[lock])

    with databases_held():
        child = started(run)
        wait_until((tmp_path / "locked").exists)
        wait_until(lambda: "useradd" in children_of(child))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not can_lock(file)
    wait_until(lambda: can_lock(file))
    assert accounts.repair(ADA) == accounts.lookup(ADA.username)


def children_of(pid: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = []
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append(Path(f"/proc/{child}/comm").read_text().strip())
    return names


def can_lock(file: Path) -> bool:
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("milliseconds", [0, 2, 4, 6, 8, 10, 13, 17])
def test_useradd_killed_at_any_moment_is_repaired(accounts, milliseconds):
    tool = subprocess.Popen(linux.useradd_words(ADA), start_new_session=True, stderr=subprocess.DEVNULL)
    time.sleep(milliseconds / 1000)
    os.killpg(tool.pid, signal.SIGKILL)
    tool.wait()
    assert_whole(accounts.repair(ADA))
    assert_whole(accounts.repair(ADA))
    assert not [crumb for crumb in Path("/etc").glob("*.lock") if was_left_behind(crumb)]


def was_left_behind(lock: Path) -> bool:
    """Whether nobody has this lock of the accounts any more; a test beside this one may use useradd. It has the pid."""
    if not lock.name.startswith(("passwd", "shadow", "group")):
        return False
    with contextlib.suppress(FileNotFoundError):
        owner = lock.read_bytes()
        return not Path("/proc", owner.rstrip(b"\0").decode()).exists() and lock.read_bytes() == owner
    return False


def assert_whole(made: Account) -> None:
    assert state_of(ADA, LinuxAccounts().lookup(ADA.username)) is AccountState.COMPLETE
    assert shadow_fields(ADA.username) is not None
    assert find_group(ADA.username) is not None
    assert sorted(os.listdir(ADA.home)) == sorted(os.listdir("/etc/skel"))
    for path in (ADA.home, *ADA.home.iterdir()):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (ADA.uid, made.gid)
    assert stat.S_IMODE(ADA.home.lstat().st_mode) == 0o700
    assert LinuxAccounts().set_passwords({ADA.username: PASSWORD}) == {}


def without_shadow() -> None:
    edit_database("-s")


def edit_database(option: str) -> None:
    """Remove the account's line as the system's own editor does it, under the system's locks."""
    file = {"-p": "passwd", "-g": "group", "-s": "shadow"}[option]
    # vipw takes a file for unchanged when its time, in seconds, is.
    edit = f"""sh -c 'sed -i /^{ADA.username}:/d "$0"; touch -d 2001-01-01 "$0"'"""
    subprocess.run(["vipw", option], env={**os.environ, "VISUAL": edit}, check=True, capture_output=True)
    assert f"{ADA.username}:" not in Path("/etc", file).read_text()


HALVES: dict[str, Callable[[], object]] = {
    "without shadow": without_shadow,
    "without group": lambda: edit_database("-g"),
    "without passwd": lambda: edit_database("-p"),
    "without home": lambda: shutil.rmtree(ADA.home),
    "home still root's": lambda: os.chown(ADA.home, 0, 0),
    "home still 0755": lambda: ADA.home.chmod(0o755),
    "an empty home": lambda: [file.unlink() for file in ADA.home.iterdir()],
    "half a file": lambda: os.truncate(ADA.home / ".bashrc", 10),
    "a file still root's": lambda: os.chown(ADA.home / ".bashrc", 0, 0),
    "group only": lambda: [edit_database("-p"), edit_database("-s"), shutil.rmtree(ADA.home)],
    "home only": lambda: [edit_database("-p"), edit_database("-s"), edit_database("-g")],
}


@pytest.mark.parametrize("half", HALVES)
def test_a_half_made_account_is_made_whole(accounts, ada, half):
    HALVES[half]()
    assert_whole(accounts.repair(ADA))


PLANTED: dict[str, Callable[[], object]] = {
    "a file": lambda: (ADA.home / "thesis.txt").write_text("work"),
    "a longer file": lambda: (ADA.home / ".bashrc").write_bytes(bytes(100_000)),
    "a link": lambda: (ADA.home / "link").symlink_to("/etc"),
    "a link in place of a file": lambda: [
        (ADA.home / ".bashrc").unlink(), (ADA.home / ".bashrc").symlink_to("/etc/shadow")
    ],
    "somebody else's file": lambda: os.chown(ADA.home / ".bashrc", EVE.uid, EVE.gid),
    "somebody else's home": lambda: os.chown(ADA.home, EVE.uid, EVE.gid),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_half_made_account_with_anything_of_value_is_left_alone(accounts, ada, planted):
    edit_database("-g")
    PLANTED[planted]()
    before = {path: path.lstat() for path in (ADA.home, *ADA.home.iterdir())}
    with pytest.raises(RefusedError, match=r"files that useradd did not put there|was not made for"):
        accounts.repair(ADA)
    after = {path: path.lstat() for path in (ADA.home, *ADA.home.iterdir())}
    assert {path: status.st_ino for path, status in before.items()} == {p: s.st_ino for p, s in after.items()}
    assert accounts.lookup(ADA.username) is not None


def test_the_home_of_an_earlier_human_survives_a_repair(accounts):
    """`create` refused because it was there; the claim stays, and so must the home."""
    ADA.home.mkdir(mode=0o700)
    (ADA.home / "thesis.txt").write_text("work")
    os.chown(ADA.home, EVE.uid, EVE.gid)
    with pytest.raises(RefusedError):
        accounts.create(ADA)
    with pytest.raises(RefusedError):
        accounts.repair(ADA)
    assert (ADA.home / "thesis.txt").read_text() == "work"


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"%d\0" % os.getpid(), b"%d\0" % 4_194_000],
    ids=["empty", "garbage", "a pid in use", "a pid that is free"],
)
@pytest.mark.parametrize("database", ["passwd", "shadow", "gshadow"])
def test_a_lock_that_a_power_cut_left_does_not_block_us_for_ever(accounts, database, content):
    with databases_held():
        Path(f"/etc/{database}.lock").write_bytes(content)
    assert_whole(accounts.create(ADA))
    wait_until(lambda: not Path(f"/etc/{database}.lock").exists())  # other tests' tools hold it for a moment


def test_a_lock_that_is_in_use_is_waited_for(accounts, tmp_path):
    with databases_held():
        Path("/etc/group.lock").write_bytes(b"%d\0" % os.getpid())
        child = started(lambda: [(tmp_path / "started").touch(), clear_stale_locks()])
        wait_until((tmp_path / "started").exists)
        assert Path("/etc/group.lock").exists()
        Path("/etc/group.lock").unlink()
    assert os.waitpid(child, 0)[1] == 0


def test_crumbs_of_killed_tools_are_swept_up_by_a_repair(accounts):
    crumbs = [Path("/etc/passwd.4194000"), Path("/etc/gshadow.4194000"), Path("/etc/subuid+")]
    bystanders = [Path("/etc/passwd-nbta"), Path("/etc/passwd.nbta")]
    for file in (*crumbs, *bystanders):
        file.write_text("4194000")
    try:
        accounts.repair(ADA)
        accounts.discard(ADA)
        assert [file for file in crumbs if file.exists()] == []
        assert all(file.exists() for file in bystanders)
    finally:
        for file in (*crumbs, *bystanders):
            file.unlink(missing_ok=True)


# Logging in.


def logs_in(visitor: Account, username: str, password: Secret) -> bool:
    """`su` by an unprivileged person at a terminal: what it takes is the password, and an account that is open."""
    shell = pexpect.spawn(
        "setpriv",
        [f"--reuid={visitor.uid}", f"--regid={visitor.gid}", "--clear-groups", "su", "-", username, "-c", "id -u"],
        timeout=TIMEOUT,
        encoding="utf-8",
    )
    shell.expect("Password:")
    shell.sendline(password.reveal())
    shell.expect(pexpect.EOF)
    shell.close()
    return str(LinuxAccounts().lookup(username).uid) in shell.before.split()


def test_a_password_opens_the_account_and_a_lock_closes_it(accounts, ada, eve):
    assert accounts.set_passwords({ada.username: PASSWORD}) == {}
    assert logs_in(eve, ada.username, PASSWORD)
    assert not logs_in(eve, ada.username, Secret("wrong"))
    accounts.lock(ada)
    assert not logs_in(eve, ada.username, PASSWORD)
    accounts.unlock(ada)
    assert logs_in(eve, ada.username, PASSWORD)


def test_unlocking_an_account_without_a_password_opens_nothing(accounts, ada, eve):
    accounts.lock(ada)
    accounts.unlock(ada)
    for password in (Secret(""), Secret("!"), PASSWORD):
        assert not logs_in(eve, ada.username, password)


def test_a_lock_holds_for_those_who_need_no_password(accounts, ada):
    """As root, su asks for none, as with an ssh key, cron and at; the account's own state decides."""
    assert subprocess.run(["su", ada.username, "-c", "true"], capture_output=True).returncode == 0
    accounts.lock(ada)
    assert subprocess.run(["su", ada.username, "-c", "true"], capture_output=True).returncode != 0
    accounts.unlock(ada)
    assert subprocess.run(["su", ada.username, "-c", "true"], capture_output=True).returncode == 0


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM yes\nPidFile none\n"
    )
    was_there = Path("/run/sshd").is_dir()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port))
        yield port
    finally:
        server.terminate()
        server.wait()
        if not was_there:
            Path("/run/sshd").rmdir()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="no ssh server here")
def test_a_lock_stops_an_ssh_key(accounts, ada, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    ssh_folder = ada.home / ".ssh"
    ssh_folder.mkdir(mode=0o700)
    (ssh_folder / "authorized_keys").write_bytes((tmp_path / "key.pub").read_bytes())
    for path in (ssh_folder, ssh_folder / "authorized_keys"):
        os.chown(path, ada.uid, ada.gid)
    accounts.set_passwords({ada.username: PASSWORD})
    with ssh_server(tmp_path) as port:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "IdentitiesOnly=yes"]
        command = ["ssh", "-i", tmp_path / "key", "-p", str(port), *(f"-o{option}" for option in options)]

        def can_enter() -> bool:
            shell = [*command, f"{ada.username}@127.0.0.1", "true"]
            return subprocess.run(shell, capture_output=True, timeout=TIMEOUT).returncode == 0

        assert can_enter()
        accounts.lock(ada)
        assert not can_enter()
        accounts.unlock(ada)
        assert can_enter()
        accounts.kill_everything(ada)


def test_one_account_that_chpasswd_refuses_does_not_cost_the_others_theirs(accounts, ada, eve):
    without_shadow()
    subprocess.run(["usermod", "-p", "!", eve.username], check=True)
    failures = accounts.set_passwords({ada.username: PASSWORD, eve.username: PASSWORD})
    assert set(failures) <= {ada.username}
    assert (shadow_fields(eve.username) or ["", "!"])[1].startswith("$")


def test_passwords_are_in_no_log_and_no_argument(accounts, ada, caplog):
    caplog.set_level(logging.DEBUG)
    accounts.set_passwords({ada.username: PASSWORD})
    assert "chpasswd" in caplog.text
    assert PASSWORD.reveal() not in caplog.text


# Deleting.


def test_nothing_is_left_of_a_deleted_account(accounts, ada):
    subprocess.run(["crontab", "-u", ada.username, "-"], input=b"* * * * * true\n", check=True)
    mail = Path("/var/mail", ada.username)
    mail.write_text("From eve\n")
    os.chown(mail, ada.uid, ada.gid)
    lingers = Path("/var/lib/systemd/linger", ada.username)
    has_linger = lingers.parent.is_dir()
    if has_linger:
        lingers.touch()
    accounts.delete(ada)
    assert accounts.lookup(ada.username) is None and find_group(ada.username) is None
    assert shadow_fields(ada.username) is None
    assert not ada.home.exists() and not mail.exists() and not lingers.exists()
    assert subprocess.run(["crontab", "-u", "root", "-l"], capture_output=True).returncode in (0, 1)
    assert not Path("/var/spool/cron/crontabs", ada.username).exists()


@pytest.mark.skipif(shutil.which("at") is None, reason="no at here")
def test_jobs_of_the_account_go_and_other_peoples_stay(accounts, ada, eve):
    def make_job(account: Account) -> None:
        command = ["su", account.username, "-c", "echo true | at now + 1 year"]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def owners() -> list[str]:
        listed = subprocess.run(["atq"], check=True, capture_output=True, text=True).stdout
        return [line.split()[-1] for line in listed.splitlines()]

    make_job(ada)
    make_job(ada)
    make_job(eve)
    try:
        assert accounts.remove_schedules(ada) == ("at jobs",)
        assert owners() == [eve.username]
        assert accounts.remove_schedules(ada) == ()
    finally:
        accounts.remove_schedules(eve)


def test_a_mail_spool_that_is_a_link_or_somebody_elses_stays(accounts, ada, tmp_path):
    target = tmp_path / "target"
    target.write_text("root's")
    mail = Path("/var/mail", ada.username)
    mail.symlink_to(target)
    try:
        accounts.delete(ada)
        assert mail.is_symlink() and target.read_text() == "root's"
    finally:
        mail.unlink()


def test_a_home_with_hostile_things_in_it_goes_and_nothing_else(accounts, ada, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("root's")
    (ada.home / "link").symlink_to(outside)
    (ada.home / "-rf").touch()
    (ada.home / "new\nline").touch()
    os.mkfifo(ada.home / "fifo")
    secret = HOME / "nbta-secret"
    secret.write_text("root's")
    try:
        os.link(secret, ada.home / "hard")
        folder = os.open(ada.home, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=folder)
            below = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)
        accounts.delete(ada)
        assert not os.path.lexists(ada.home)
        assert (outside / "file").read_text() == "root's" and secret.read_text() == "root's"
    finally:
        secret.unlink()


def test_a_home_with_something_mounted_in_it_is_refused(accounts, ada):
    point = ada.home / "a mount"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "nbta", point], check=True)
    (point / "work").write_text("somebody's")
    with pytest.raises(RefusedError, match="something is mounted"):
        accounts.delete(ada)
    assert (point / "work").read_text() == "somebody's"
    assert accounts.lookup(ada.username) == ada
    subprocess.run(["umount", point], check=True)
    accounts.delete(ada)
    assert not ada.home.exists()


@pytest.mark.parametrize("swap", ["link", "somebody else's"])
def test_a_home_that_is_not_the_accounts_folder_stays(accounts, ada, tmp_path, swap):
    shutil.rmtree(ada.home)
    if swap == "link":
        (tmp_path / "work").write_text("x")
        ada.home.symlink_to(tmp_path)
    else:
        ada.home.mkdir()
        os.chown(ada.home, EVE.uid, EVE.gid)
    with pytest.raises(RefusedError, match="is not a folder of"):
        accounts.delete(ada)
    assert os.path.lexists(ada.home) and accounts.lookup(ada.username) == ada
    assert swap != "link" or (tmp_path / "work").exists()


def test_deleting_again_finishes_what_a_crash_interrupted(accounts, ada):
    shutil.rmtree(ada.home)
    accounts.delete(ada)
    assert accounts.lookup(ada.username) is None


def test_a_new_student_of_the_name_inherits_nothing(accounts, ada):
    subprocess.run(["crontab", "-u", ada.username, "-"], input=b"* * * * * true\n", check=True)
    (ada.home / "diary").write_text("private")
    accounts.delete(ada)
    again = accounts.create(replace(ADA, uid=EVE.uid, nonce=EVE.nonce))
    assert again.uid != ada.uid
    assert not (again.home / "diary").exists()
    assert subprocess.run(["crontab", "-u", again.username, "-l"], capture_output=True).returncode != 0


# Our own accounts.


def test_our_system_accounts_can_do_nothing(accounts):
    for name in ("nblauncher", "nblauncher-kill"):
        found = accounts.lookup(name)
        assert found is not None and 0 < found.uid < 1000
        assert os.getgrouplist(name, found.gid) == [found.gid]
        assert (shadow_fields(name) or ["", "open"])[1].startswith(("!", "*"))
        assert subprocess.run(["su", name, "-c", "true"], capture_output=True).returncode != 0
        end_sessions(found.uid)  # a sweep allows no process of its account
    accounts.ensure_system_accounts()


def test_a_system_account_that_somebody_gave_more_rights_is_refused(accounts, ada):
    subprocess.run(["usermod", "-a", "-G", "adm", "nblauncher-kill"], check=True)
    try:
        for act in (accounts.ensure_system_accounts, lambda: accounts.kill_everything(ada)):
            with pytest.raises(RefusedError, match="other groups"):
                act()
    finally:
        subprocess.run(["gpasswd", "-d", "nblauncher-kill", "adm"], check=True, capture_output=True)


@pytest.mark.parametrize("username, why", [("root", "it is root"), ("daemon", "below"), ("nobody", "system")])
def test_the_systems_accounts_are_nobodys_students(accounts, username, why):
    assert why in (accounts.objection(accounts.lookup(username)) or "")


@pytest.mark.parametrize("group", ["shadow", "adm", "disk"])
def test_a_privileged_main_group_is_objected_to(accounts, ada, group):
    subprocess.run(["usermod", "-g", group, ada.username], check=True)
    assert f'in group "{group}"' in (accounts.objection(accounts.lookup(ada.username)) or "")
