"""What root does to jobs, and the addresses of nodes."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping

from nblauncher.errors import HostError
from nblauncher.model import SlurmSettings
from nblauncher.slurm import jobs, tools
from nblauncher.slurm.jobs import Job


def cancel(settings: SlurmSettings, owners: Mapping[int, int]) -> dict[int, Job]:
    """Cancel those of these jobs (number → uid) that Slurm has for this very uid. Returns all of them as Slurm had them
    before: who wants to know whether they ended polls again, because scancel does not say.

    UnansweredError when the controller does not answer: nothing was cancelled then, as far as is known.
    """
    if not owners:
        return {}
    tools.ping(settings)
    found = jobs.poll(settings, owners.keys())
    ours = [number for number, job in found.items() if job.is_live and job.uid == owners[number]]
    if ours:
        tools.call(settings, *cancel_argv(ours))
    return found


def cancel_argv(ids: Collection[int]) -> tuple[str, ...]:
    """For jobs whose uid was just seen to be the recorded one."""
    if not ids or min(ids) <= 0:
        raise ValueError(f"no jobs to cancel: {sorted(ids)}")
    return ("scancel", *map(str, sorted(ids)))


def suspend(settings: SlurmSettings, ids: Collection[int], *, inherit: Collection[int] = ()) -> str:
    """Freeze running jobs, whose uids were just seen to be the recorded ones. What became of each of them tells the
    next poll. Returns what Slurm complained about; UnansweredError when the controller does not answer.
    """
    return _all_of(settings, "suspend", ids, inherit)


def resume(settings: SlurmSettings, ids: Collection[int], *, inherit: Collection[int] = ()) -> str:
    """Let suspended jobs run again. As `suspend`."""
    return _all_of(settings, "resume", ids, inherit)


def _all_of(settings: SlurmSettings, verb: str, ids: Collection[int], inherit: Collection[int]) -> str:
    if not ids or min(ids) <= 0:
        raise ValueError(f"no jobs to {verb}: {sorted(ids)}")
    try:
        tools.call(settings, "scontrol", verb, ",".join(map(str, sorted(ids))), inherit=inherit)
    except tools.UnansweredError:
        raise
    except HostError as error:
        return error.problem  # of one of them: the others are done
    return ""


def down_nodes(settings: SlurmSettings) -> dict[str, str]:
    """Nodes that do not answer, or that Slurm has given up, with the state: what ran there may still run."""
    listed = tools.call(settings, "sinfo", "--noheader", "--Node", "--format=%N|%T").splitlines()
    states = dict(line.strip().split("|", 1) for line in listed if "|" in line)
    return {node: state for node, state in states.items() if state.endswith("*") or state.startswith("down")}


def node_argv(node: str) -> tuple[str, ...]:
    """The question for a node's address, whose answer `read_node` reads. The name comes from Slurm itself."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", node):
        raise ValueError(f"not the name of a node: {node}")
    return ("scontrol", "show", "node", node, "--oneliner")


def read_node(output: str) -> str:
    """The node's address as Slurm has it: an IP address, or a name."""
    match = re.search(r"(?:^| )NodeAddr=(\S+)", output)
    if match is None:
        raise HostError("Slurm names no address for this node")
    return match[1]


def node_address(settings: SlurmSettings, node: str) -> str:
    """The node's IP address. HostError when Slurm does not know the node, or this host does not know its name."""
    name = read_node(tools.call(settings, *node_argv(node)))
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise HostError(
            f"this host does not know the address of the node {node}, which Slurm calls {name}",
            "Add it to the DNS or to /etc/hosts of this host.",
        ) from error
