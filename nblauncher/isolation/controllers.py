"""The controllers (memory, cpu, pids) that the groups of a course have, for limits. Everything here runs as root.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, systemd.resource-control(5).
"""

from __future__ import annotations

import contextlib

from nblauncher.isolation.cgroups import CONTROLLERS, Groups, Kind, make_folder, words_of


def hand_down(groups: Groups) -> frozenset[str]:
    """Enable every controller that the host offers for limits in the course's groups. Returns those that they have now.

    For v2 and a scope it is written from the top down; a scope has what systemd delegates. A group with processes of
    its own cannot enable controllers below it (cgroups(7), "no internal processes"): it could enable cpu and pids, but
    then no process could enter the groups below ("thread mode"). Only the host's root group, without cgroup.type, is
    exempt.
    """
    given: set[str] = set()
    if groups.kind in (Kind.V2, Kind.SCOPE):
        top = groups.root if groups.kind is Kind.SCOPE else groups.root.parents[1]
        for folder in (top, *([groups.root.parent, groups.root] if top != groups.root else [])):
            make_folder(folder)
            if (folder / "cgroup.type").exists() and words_of(folder / "cgroup.procs"):
                break
            for controller in words_of(folder / "cgroup.controllers").intersection(CONTROLLERS):
                with contextlib.suppress(OSError):  # the result is read below
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        given = words_of(groups.root / "cgroup.subtree_control")
    return frozenset(given | dict(groups.beside).keys()).intersection(CONTROLLERS)


def offered(groups: Groups) -> frozenset[str]:
    """The controllers that a group of this course has, or would have: looks only.

    For a scope that does not exist yet, systemd will enable all that the host has, whatever its slice has now
    (systemd.resource-control(5), Delegate=).
    """
    folder = groups.root
    if groups.kind is Kind.SCOPE and not folder.is_dir():
        folder = folder.parents[1]
    while folder != folder.parent and not (folder / "cgroup.controllers").exists():
        folder = folder.parent
    own = words_of(folder / "cgroup.controllers") if groups.kind in (Kind.V2, Kind.SCOPE) else set()
    return frozenset(own | dict(groups.beside).keys()).intersection(CONTROLLERS)
