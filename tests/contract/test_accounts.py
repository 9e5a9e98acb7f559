"""What every implementation of `Accounts` promises. A port to another system passes when this suite does."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nblauncher.accounts import Accounts, nonce_in, state_of
from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.errors import HostError, NblauncherError, RefusedError
from nblauncher.model import Account, AccountState, Secret
from tests.fakes import FakeAccounts
from tests.system_accounts import kept_as_found

ADA = Account("nbta-ada", 24010, 24010, Path("/home/nbta-ada"), "/bin/bash", "nbl-0123456789abcdef")
EVE = Account("nbta-eve", 24011, 24011, Path("/home/nbta-eve"), "/bin/bash", "nbl-fedcba9876543210")
GROUP = "nbl-nbtacontract"


@dataclass
class FakeHand:
    """What an administrator does to the host behind our back."""

    accounts: FakeAccounts

    def change_mark(self, account: Account, gecos: str) -> None:
        found = self.accounts.accounts[account.username]
        self.accounts.accounts[account.username] = replace(found, nonce=nonce_in(gecos))

    def delete(self, account: Account) -> None:
        del self.accounts.accounts[account.username]
        del self.accounts.gids[account.username]

    def change_uid(self, account: Account, uid: int) -> None:
        found = self.accounts.accounts[account.username]
        self.accounts.accounts[account.username] = replace(found, uid=uid)

    def put_file(self, account: Account) -> None:
        self.accounts.homes.setdefault(str(account.home), set()).add("thesis.txt")

    def has_home(self, account: Account) -> bool:
        return str(account.home) in self.accounts.homes

    def start_process(self, account: Account) -> Callable[[], bool]:
        """Returns a function that says whether it still runs."""
        self.accounts.running[account.uid] = 1
        return lambda: account.uid in self.accounts.running

    def put_in_group(self, account: Account, group: str) -> None:
        self.accounts.members.setdefault(group, set()).add(account.username)


class RealHand:
    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def change_mark(self, account: Account, gecos: str) -> None:
        subprocess.run(["usermod", "-c", gecos, account.username], check=True)

    def delete(self, account: Account) -> None:
        subprocess.run(["userdel", account.username], check=True)

    def change_uid(self, account: Account, uid: int) -> None:
        subprocess.run(["usermod", "-u", str(uid), account.username], check=True, capture_output=True)

    def put_file(self, account: Account) -> None:
        account.home.mkdir(exist_ok=True)
        (account.home / "thesis.txt").write_text("three years of work\n")

    def has_home(self, account: Account) -> bool:
        return os.path.lexists(account.home)

    def start_process(self, account: Account) -> Callable[[], bool]:
        ids: Any = {"user": account.uid, "group": account.gid, "extra_groups": []}
        process = subprocess.Popen(["sleep", "1000"], **ids)
        self._started.append(process)
        return lambda: process.poll() is None

    def put_in_group(self, account: Account, group: str) -> None:
        subprocess.run(["usermod", "-a", "-G", group, account.username], check=True)

    def clean_up(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        for account in (ADA, EVE):
            with contextlib.suppress(KeyError):
                assert pwd.getpwnam(account.username).pw_uid in (account.uid, account.uid + 20)
                subprocess.run(["userdel", "-f", "--", account.username], check=True, capture_output=True)
            subprocess.run(["rm", "-rf", "--one-file-system", "--", str(account.home)], check=True)
            subprocess.run(["groupdel", account.username], check=False, capture_output=True)
        subprocess.run(["groupdel", GROUP], check=False, capture_output=True)


Hand = FakeHand | RealHand


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.system, pytest.mark.group("accounts")])])
def host(request: pytest.FixtureRequest) -> Iterator[tuple[Accounts, Hand]]:
    if request.param == "fake":
        fake = FakeAccounts()
        fake.ensure_system_accounts()
        yield fake, FakeHand(fake)
        return
    hand = RealHand()
    with kept_as_found():
        real = LinuxAccounts()
        real.ensure_system_accounts()
        try:
            yield real, hand
        finally:
            hand.clean_up()


@pytest.fixture
def accounts(host: tuple[Accounts, Hand]) -> Accounts:
    return host[0]


@pytest.fixture
def hand(host: tuple[Accounts, Hand]) -> Hand:
    return host[1]


def test_a_created_account_is_found_as_it_was_claimed(accounts, hand):
    made = accounts.create(ADA)
    assert accounts.lookup(ADA.username) == made
    assert state_of(ADA, made) is AccountState.COMPLETE
    assert accounts.name_of(ADA.uid) == ADA.username
    assert not accounts.uid_is_free(ADA.uid)
    assert hand.has_home(ADA)
    assert accounts.objection(made) is None


def test_what_is_not_there_is_nobody(accounts):
    assert accounts.lookup(ADA.username) is None
    assert accounts.lookup("") is None
    assert accounts.name_of(ADA.uid) is None
    assert accounts.uid_is_free(ADA.uid)
    assert accounts.members_of(GROUP) == frozenset()


def test_a_taken_name_uid_or_home_is_refused_and_left_alone(accounts, hand):
    accounts.create(ADA)
    for claim in (ADA, replace(ADA, uid=EVE.uid), replace(EVE, uid=ADA.uid)):
        with pytest.raises(RefusedError):
            accounts.create(claim)
    hand.put_file(EVE)
    with pytest.raises(RefusedError, match="exists already"):
        accounts.create(EVE)
    assert accounts.lookup(EVE.username) is None
    assert hand.has_home(EVE)


def test_repair_keeps_a_complete_account_and_what_is_in_its_home(accounts, hand):
    made = accounts.create(ADA)
    hand.put_file(ADA)
    assert accounts.repair(ADA) == made
    assert hand.has_home(ADA)


def test_repair_makes_an_account_of_which_nothing_is_there(accounts):
    assert accounts.repair(ADA) == accounts.lookup(ADA.username)


def test_discard_removes_an_unused_account(accounts, hand):
    accounts.create(ADA)
    accounts.discard(ADA)
    accounts.discard(ADA)
    assert accounts.lookup(ADA.username) is None
    assert not hand.has_home(ADA)
    assert accounts.uid_is_free(ADA.uid)


def test_discard_never_removes_work(accounts, hand):
    accounts.create(ADA)
    hand.put_file(ADA)
    with pytest.raises(RefusedError, match="files that useradd did not put there"):
        accounts.discard(ADA)
    assert hand.has_home(ADA)
    assert accounts.lookup(ADA.username) is not None


DESTRUCTIVE = ["repair", "discard", "lock", "unlock", "remove_schedules", "kill_everything", "delete_home", "delete"]


def by_hand(hand: Hand, how: str) -> None:
    if how == "changed":
        hand.change_mark(ADA, "Ada Lovelace")
    elif how == "another nonce":
        hand.change_mark(ADA, "nbl-0000000000000000")
    else:
        hand.change_uid(ADA, ADA.uid + 20)


@pytest.mark.parametrize("how", ["changed", "another nonce", "another uid"])
@pytest.mark.parametrize("verb", DESTRUCTIVE)
def test_an_account_changed_by_hand_is_left_alone(accounts, hand, verb, how):
    accounts.create(ADA)
    by_hand(hand, how)
    before = accounts.lookup(ADA.username)
    is_running = hand.start_process(before)
    with pytest.raises(RefusedError):
        getattr(accounts, verb)(ADA)
    assert accounts.lookup(ADA.username) == before
    assert is_running() and hand.has_home(ADA) and not accounts.is_locked(before)


@pytest.mark.parametrize("verb", DESTRUCTIVE)
def test_a_guest_is_refused_for_ever(accounts, hand, verb):
    guest = replace(accounts.create(ADA), nonce="")
    is_running = hand.start_process(guest)
    with pytest.raises(RefusedError):
        getattr(accounts, verb)(guest)
    assert is_running() and hand.has_home(ADA) and not accounts.is_locked(ADA)


@pytest.mark.parametrize("verb", ["lock", "unlock", "remove_schedules", "kill_everything", "reclaim"])
def test_an_account_that_is_gone_is_said_to_be(accounts, verb):
    with pytest.raises(RefusedError, match="no longer exists"):
        getattr(accounts, verb)(ADA)


def test_fields_that_a_student_adds_behind_our_mark_change_nothing(accounts, hand):
    accounts.create(ADA)
    hand.change_mark(ADA, f"{ADA.nonce},12,,")
    assert state_of(ADA, accounts.lookup(ADA.username)) is AccountState.COMPLETE
    accounts.kill_everything(ADA)
    accounts.delete(ADA)
    assert accounts.lookup(ADA.username) is None


def test_a_teacher_can_claim_what_was_changed_by_hand(accounts, hand):
    accounts.create(ADA)
    with pytest.raises(RefusedError):
        accounts.reclaim(ADA)
    by_hand(hand, "changed")
    accounts.reclaim(ADA)
    accounts.delete(ADA)
    assert not hand.has_home(ADA)


@pytest.mark.parametrize("how", ["guest", "another uid"])
def test_nobody_can_claim_a_guest_or_a_stranger(accounts, hand, how):
    made = accounts.create(ADA)
    if how == "another uid":
        by_hand(hand, how)
    with pytest.raises(RefusedError):
        accounts.reclaim(replace(made, nonce="") if how == "guest" else made)


def test_lock_and_unlock(accounts):
    made = accounts.create(ADA)
    accounts.set_passwords({ADA.username: Secret("abcd-efgh-jkmn-pqrs")})
    assert not accounts.is_locked(made)
    accounts.lock(made)
    accounts.lock(made)
    assert accounts.is_locked(made)
    accounts.unlock(made)
    accounts.unlock(made)
    assert not accounts.is_locked(made)


def test_passwords_of_others_are_never_set(accounts):
    accounts.create(ADA)
    passwords = {name: Secret("abcd-efgh-jkmn-pqrs") for name in (ADA.username, "root", "nobody", EVE.username)}
    assert set(accounts.set_passwords(passwords)) == {"root", "nobody", EVE.username}


def test_disabled_passwords_are_not_a_lock_and_survive_one(accounts):
    ada = accounts.create(ADA)
    accounts.create(EVE)
    accounts.set_passwords({name: Secret("abcd-efgh-jkmn-pqrs") for name in (ADA.username, EVE.username)})
    names = [ADA.username, EVE.username, "root", "nobody"]
    assert set(accounts.disable_passwords(names)) == {"root", "nobody"}
    assert not accounts.is_locked(ada)
    accounts.lock(ada)
    assert accounts.disable_passwords([ADA.username]) == {}
    assert accounts.is_locked(ada)
    accounts.unlock(ada)
    assert not accounts.is_locked(ada)
    assert accounts.set_passwords({ADA.username: Secret("abcd-efgh-jkmn-pqrs")}) == {}


def test_one_password_that_cannot_be_set_does_not_stop_the_others(accounts):
    accounts.create(ADA)
    accounts.create(EVE)
    failures = accounts.set_passwords({ADA.username: Secret("two\nlines:x"), EVE.username: Secret("abcd-efgh")})
    assert set(failures) == {ADA.username}
    assert "lines" not in str(failures)


def test_a_group_has_the_members_it_is_given(accounts):
    ada, eve = accounts.create(ADA), accounts.create(EVE)
    accounts.ensure_group(GROUP)
    accounts.ensure_group(GROUP)
    accounts.add_to_group([ada], GROUP)
    accounts.add_to_group([eve, ada], GROUP)
    assert accounts.members_of(GROUP) == {ADA.username, EVE.username}
    accounts.remove_from_group([ada], GROUP)
    accounts.remove_from_group([ada], GROUP)
    assert accounts.members_of(GROUP) == {EVE.username}
    accounts.remove_from_group([eve], GROUP)
    accounts.remove_group(GROUP)
    accounts.remove_group(GROUP)
    assert accounts.members_of(GROUP) == frozenset()


def test_a_group_has_a_number_and_what_is_not_there_has_none(accounts):
    made = accounts.create(ADA)
    assert accounts.gid_of(ADA.username) == made.gid
    accounts.delete(made)
    assert accounts.gid_of(ADA.username) is None


def test_system_accounts_that_we_made_are_no_obstacle(accounts):
    accounts.ensure_system_accounts()
    assert accounts.objections_to_system_accounts() == ()


def test_only_a_courses_group_is_touched(accounts):
    made = accounts.create(ADA)
    for act in (accounts.ensure_group, accounts.remove_group):
        with pytest.raises(RefusedError):
            act("sudo")
    for act in (accounts.add_to_group, accounts.remove_from_group):
        with pytest.raises(RefusedError):
            act([made], "sudo")


def test_a_stranger_of_the_same_name_is_not_put_into_the_group(accounts):
    made = accounts.create(ADA)
    accounts.ensure_group(GROUP)
    with pytest.raises(RefusedError):
        accounts.add_to_group([replace(made, uid=EVE.uid)], GROUP)
    assert accounts.members_of(GROUP) == frozenset()


def test_a_member_of_a_privileged_group_is_objected_to(accounts, hand):
    made = accounts.create(ADA)
    hand.put_in_group(made, "sudo")
    assert "sudo" in (accounts.objection(made) or "")
    assert accounts.objection(Account("root", 0, 0, Path("/root"))) == "it is root"


def test_every_process_ends_and_only_those_of_the_account(accounts, hand):
    ada, eve = accounts.create(ADA), accounts.create(EVE)
    hers, others = hand.start_process(ada), hand.start_process(eve)
    accounts.kill_everything(ada)
    assert not hers()
    assert others()
    accounts.kill_everything(ada)


def test_an_account_with_processes_is_not_deleted(accounts, hand):
    made = accounts.create(ADA)
    hand.start_process(made)
    for verb in (accounts.delete, accounts.delete_home, accounts.discard):
        with pytest.raises(RefusedError, match="still run"):
            verb(made)
    assert accounts.lookup(ADA.username) == made
    assert hand.has_home(ADA)


def test_delete_removes_account_and_home_and_may_be_repeated(accounts, hand):
    made = accounts.create(ADA)
    hand.put_file(made)
    accounts.delete(made)
    accounts.delete(made)
    assert accounts.lookup(ADA.username) is None
    assert not hand.has_home(ADA)
    assert accounts.uid_is_free(ADA.uid)


def test_a_home_may_be_deleted_first_and_the_account_later(accounts, hand):
    made = accounts.create(ADA)
    hand.put_file(made)
    accounts.delete_home(made)
    accounts.delete_home(made)
    assert not hand.has_home(made) and accounts.lookup(ADA.username) is not None
    accounts.delete(made)
    assert accounts.lookup(ADA.username) is None


def test_the_home_of_an_account_that_was_deleted_by_hand_stays(accounts, hand):
    made = accounts.create(ADA)
    hand.put_file(made)
    hand.delete(made)
    with pytest.raises(RefusedError, match="no longer exists"):
        accounts.delete(made)
    assert hand.has_home(ADA)


def test_what_goes_wrong_is_an_error_for_a_person(accounts):
    with pytest.raises(HostError):
        accounts.add_to_group([], GROUP)
    assert issubclass(RefusedError, NblauncherError)
