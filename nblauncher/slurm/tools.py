"""Slurm's commands: what they are started with, and what their last words mean."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from nblauncher.errors import HostError, RefusedError
from nblauncher.model import SlurmSettings
from nblauncher.system import processes, trusted

PATIENCE = 15.0
"""Seconds for one command. Without its controller Slurm's own take 9 to 60."""

LEAST_VERSION = (22, 5)

_SILENT = ("unable to contact slurm controller", "connection timed out", "connection refused", "still not done after")
_NO_CONFIG = ("establish a configuration source", "unable to process configuration")
_NO_MUNGE = ("authentication error", "munge", "invalid authentication credential")


class UnansweredError(HostError):
    """Slurm's controller does not answer: nothing is known about any job, which does not mean that it has ended."""


def environment(settings: SlurmSettings) -> dict[str, str]:
    """The whole environment of one of Slurm's commands. Times come as Unix seconds."""
    path = processes.ENVIRONMENT["PATH"]
    found = {
        **processes.ENVIRONMENT,
        "PATH": f"{settings.programs}:{path}" if settings.programs else path,
        "SLURM_TIME_FORMAT": "%s",
    }
    return {**found, "SLURM_CONF": settings.config} if settings.config else found


def call(settings: SlurmSettings, *argv: str, timeout: float = PATIENCE, inherit: Collection[int] = ()) -> str:
    """What the command printed. `inherit` lists descriptors that it keeps open, as a lock. UnansweredError or HostError
    in words for the administrator.
    """
    _require_config(settings, argv[0])
    try:
        return processes.run(argv, timeout=timeout, inherit=inherit, environment=environment(settings))
    except HostError as error:
        raise explained(argv[0], error.problem) from error


def _require_config(settings: SlurmSettings, program: str) -> None:
    """Slurm itself waits for its configuration, for a minute."""
    if settings.config and not os.path.isfile(settings.config):
        raise explained(program, _NO_CONFIG[0])


def explained(program: str, words: str) -> HostError:
    """The error behind the last words of one of Slurm's commands."""
    lower = words.lower()
    if "is not installed" in lower:
        return HostError(
            f"Slurm's command {program} is not on this host",
            "Install Slurm's client programs (Debian: slurm-client), or name their folder in slurm.programs.",
        )
    if any(sign in lower for sign in _NO_CONFIG):
        return HostError(
            f"{program} found no configuration of a cluster",
            "Copy the cluster's slurm.conf to this host, or name it in slurm.config.",
        )
    if any(sign in lower for sign in _NO_MUNGE):
        return HostError(
            "Slurm does not accept this host's authentication: munged is down here, or has another key",
            "Start munge on this host with the cluster's key; `munge -n | unmunge` tests it.",
        )
    if any(sign in lower for sign in _SILENT):
        who = "accounting (slurmdbd)" if program.startswith("sacct") else "controller"
        return UnansweredError(
            f"Slurm's {who} does not answer ({program})",
            "Jobs that run are not affected. `scontrol ping` says whether it is up; then run the command again.",
        )
    return HostError(f"Slurm: {words.removeprefix(f'{program}: ').removeprefix('error: ')}")


def refuse_untrusted(settings: SlurmSettings) -> None:
    """RefusedError if another account than root can change what root is about to run: slurm.conf names plugins."""
    for key, place in (("slurm.config", settings.config), ("slurm.programs", settings.programs)):
        if not place or not os.path.exists(place):
            continue
        for words in trusted.objections_to(Path(place)):
            raise RefusedError(
                f"{key}: {words}, and what it names would run as root",
                f"Let root own {place} and every folder above it, and no other account write there.",
            )


def ping(settings: SlurmSettings) -> None:
    """Nothing if the controller answers; UnansweredError if not, within two seconds where the rest takes minutes.

    HostError if Slurm is not there, has no configuration, or does not accept us.
    """
    _require_config(settings, "scontrol")
    try:
        answer = processes.run(("scontrol", "ping"), timeout=PATIENCE, environment=environment(settings))
    except HostError as error:
        # Its last words are a row of stars, unless munge is down.
        raise explained("scontrol", "connection refused" if "***" in error.problem else error.problem) from error
    if " is UP" not in answer:
        raise explained("scontrol", "connection refused")


def version(settings: SlurmSettings) -> tuple[int, ...]:
    """Of the commands on this host: (22, 5, 8). HostError where it is too old or not to be read."""
    words = call(settings, "squeue", "--version").split()
    parts = words[-1].split(".") if words else []
    found = tuple(int(part) for part in parts if part.isdigit())
    if found < LEAST_VERSION:
        said = " ".join(words)
        raise HostError(
            f"this host has {said or 'an unknown version of Slurm'}, and classes need Slurm 22.05 or newer",
            "Use another host of the cluster, or start the class on one host (notebook.spawner: forkserver).",
        )
    return found
