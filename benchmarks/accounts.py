"""What our care costs: accounts made by `LinuxAccounts`, with passwords and hashes, against a bare loop of useradd.

    sudo python benchmarks/accounts.py [--students 200] [--rounds 2]

Bare is `useradd -m` for each name and one `chpasswd` for all. Ours is create (with all its checks), an argon2 hash of
each notebook password, one batch of system passwords and the course's group. Accounts are called nbta0000... (uids
from 24100 on); each side starts without any and is cleaned up after, and the sides take turns in going first. Prints
a Markdown table of the best round: wall-clock and CPU seconds (user + system, children included).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nblauncher.accounts.linux import LinuxAccounts, useradd_words
from nblauncher.auth import passwords
from nblauncher.model import Account, Secret

FIRST_UID = 24100
GROUP = "nbl-nbtabench"


def claims(count: int) -> list[Account]:
    return [
        Account(name, uid, uid, Path("/home") / name, "/bin/bash", f"nbl-{uid:016x}")
        for index in range(count)
        for name, uid in [(f"nbta{index:04d}", FIRST_UID + index)]
    ]


def bare(accounts: list[Account], secrets: dict[str, Secret]) -> None:
    for account in accounts:
        subprocess.run(["useradd", "-m", "-u", str(account.uid), "--", account.username], check=True)
    lines = "".join(f"{name}:{secret.reveal()}\n" for name, secret in secrets.items())
    subprocess.run(["chpasswd"], input=lines.encode(), check=True)


def ours(accounts: list[Account], secrets: dict[str, Secret]) -> None:
    linux = LinuxAccounts()
    linux.ensure_group(GROUP)
    made = [linux.create(account) for account in accounts]
    linux.add_to_group(made, GROUP)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(passwords.jupyter_hash, [passwords.generate() for _ in accounts]))
    failures = linux.set_passwords(secrets)
    assert not failures, failures


def only_useradd(accounts: list[Account], secrets: dict[str, Secret]) -> None:
    """Our useradd without our checks, to see what those cost."""
    for account in accounts:
        subprocess.run(useradd_words(account), check=True)


def measured(work: Callable[[], None]) -> tuple[float, float]:
    os.sync()
    started, used = time.monotonic(), cpu_seconds()
    work()
    return time.monotonic() - started, cpu_seconds() - used


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def clean_up(accounts: list[Account]) -> None:
    for account in accounts:
        if LinuxAccounts().lookup(account.username) is not None:
            subprocess.run(["userdel", "-r", "--", account.username], check=True, stderr=subprocess.DEVNULL)
    LinuxAccounts().remove_group(GROUP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    accounts = claims(options.students)
    secrets = {account.username: passwords.generate() for account in accounts}
    sides = {"useradd + chpasswd, bare": bare, "our useradd, no checks": only_useradd, "ours, with hashes": ours}
    best: dict[str, tuple[float, float]] = {}
    clean_up(accounts)
    for index in range(options.rounds):
        for name in list(sides) if index % 2 == 0 else list(sides)[::-1]:
            side = sides[name]
            try:
                result = measured(lambda side=side: side(accounts, secrets))  # type: ignore[misc]
            finally:
                clean_up(accounts)
            best[name] = min(best.get(name, result), result, key=lambda pair: pair[1])
    print(f"| {options.students} students | wall s | CPU s | CPU against bare |\n|---|---|---|---|")
    for name, (wall, cpu) in best.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / best['useradd + chpasswd, bare'][1]:.2f} |")


if __name__ == "__main__":
    main()
