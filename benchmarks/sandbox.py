"""What limits and isolation cost when a student's server starts.

    sudo python benchmarks/sandbox.py [--students 200]

For each student the supervisor makes a control group with limits and a mount namespace, and a forked child enters both;
beside it the same with neither limits nor namespace. CPU milliseconds (user + system) for each student: of the
supervisor's part and of the child's, from its fork to its end. No account is made, nothing is started.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path

from nblauncher.isolation import cgroups, controllers, limits
from nblauncher.isolation.namespaces import Namespaces
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import NO_LIMITS, Limits

COURSE = "nbtg-sandbox"
FIRST_UID = 27000
WANTED = Limits(memory=1_000_000_000, cpus=1.0, processes=256)


def used(whose: int) -> float:
    """CPU milliseconds so far."""
    figures = resource.getrusage(whose)
    return 1000 * (figures.ru_utime + figures.ru_stime)


def entered(sandbox: Sandbox) -> None:
    """A child's life until it is in the sandbox."""
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.enter()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    count = parser.parse_args().students
    groups = cgroups.choose(COURSE)
    controllers.hand_down(groups)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        apart = Namespaces(Path(folder))
        for words, wanted, is_isolated in (("neither", NO_LIMITS, False), ("both", WANTED, True)):
            own, child = used(resource.RUSAGE_SELF), used(resource.RUSAGE_CHILDREN)
            for uid in range(FIRST_UID, FIRST_UID + count):
                group = groups.group(f"student-{uid}")
                group.create()
                limits.apply(group, wanted)
                namespace = apart.provide(uid, 500_000_000) if is_isolated else None
                entered(Sandbox(group, wanted, namespace))
                group.remove()
                apart.take_away(uid)
            rows.append((words, used(resource.RUSAGE_SELF) - own, used(resource.RUSAGE_CHILDREN) - child))
    groups.remove()
    print(f"{count} students, groups: {groups.kind.value}, limits: {limits.mechanism(groups)}\n")
    print("| limits and isolation | supervisor, CPU ms each | child, CPU ms each |\n|---|---|---|")
    for words, own, child in rows:
        print(f"| {words} | {own / count:.2f} | {child / count:.2f} |")


if __name__ == "__main__":
    main()
