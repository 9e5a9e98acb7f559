"""The keys of notebooks.cfg for a class on a cluster with Slurm. Part of SCHEMA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from nblauncher.config.settings import kinds
from nblauncher.config.settings.keys import Key, Taken

OURS = frozenset(
    {
        *("array", "batch", "chdir", "clusters", "comment", "cpus-per-task", "error", "export", "export-file"),
        *("get-user-env", "gid", "help", "hold", "ignore-pbs", "input", "job-name", "mem", "nodes", "no-requeue"),
        *("ntasks", "open-mode", "output", "parsable", "propagate", "quiet", "requeue", "test-only", "time", "uid"),
        *("usage", "version", "wait", "wrap"),
    }
)
"""Options of sbatch that nblauncher writes itself, or that would make another job of it."""

_NAME = r"|[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}"
_NAMES = r"|[A-Za-z0-9_][A-Za-z0-9_.@+,-]{0,127}"
_PATH = r"|/[A-Za-z0-9_./@%+=~-]{0,250}"
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(=[A-Za-z0-9_.,:;/@%+=~^*|&()\[\]-]+)?")
_MOST = 50


def options(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    """Options of sbatch in their long form. It takes a unique beginning for the whole name, so those of ours count."""
    values = kinds.command(node, folder)
    for value in values:
        match = _OPTION.fullmatch(value)
        if match is None:
            raise ValueError(f"{kinds.quoted(value)} is not an option of sbatch, such as --exclude=n7")
        if whole := next((name for name in sorted(OURS) if name.startswith(match[1])), None):
            raise ValueError(f"{kinds.quoted(value)}: --{whole} is set by nblauncher and cannot be set here")
    return _few(values)


def prologue(node: yaml.Node, folder: Path) -> tuple[str, ...]:
    """Lines of bash."""
    values = kinds.command(node, folder)
    for value in values:
        if not value.isprintable() or len(value) > 500:
            raise ValueError(f"{kinds.quoted(value)} is not one line of bash")
    return _few(values)


def _few(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > _MOST:
        raise ValueError(f"more than {_MOST} lines")
    return values


def _name(example: str, explanation: str, pattern: str = _NAME) -> Key:
    what = f"one that Slurm can have, such as {example}"
    return Key(Taken.RESTART, kinds.text(pattern, what), '""', explanation)


SLURM: Mapping[str, Key] = {
    "slurm.partition": _name(
        "class", "The partition that servers are submitted to. Empty: the cluster's default.", _NAMES
    ),
    "slurm.account": _name("physics", "The account that is charged. Empty: each student's default."),
    "slurm.qos": _name("teaching", "The quality of service. Empty: the account's default."),
    "slurm.reservation": _name(
        "physics101", "Nodes that the cluster's administrator has reserved for the lesson. Without them students queue."
    ),
    "slurm.time": Key(
        Taken.RESTART,
        kinds.or_none(kinds.whole_number(5, 44640)),
        "none",
        "Minutes that one server may run; then Slurm ends it. none: what the partition has by default.",
        allowed="5 to 44640",
    ),
    "slurm.gres": _name(
        "gpu:1", "Generic resources for each student, such as gpu:1.", r"|[A-Za-z0-9_][A-Za-z0-9_.:,=/*-]{0,127}"
    ),
    "slurm.constraint": _name(
        "intel", "Features that the nodes must have.", r"|[A-Za-z0-9_(\[][A-Za-z0-9_.,:|&*!()\[\]=+-]{0,127}"
    ),
    "slurm.options": Key(
        Taken.RESTART,
        options,
        "[]",
        "Further options of sbatch in their long form, such as [--exclude=n7]. What nblauncher sets cannot be set "
        "here; memory and processors come from limits.",
    ),
    "slurm.prologue": Key(
        Taken.RESTART,
        prologue,
        "[]",
        "Lines of bash that run on the node, as the student, before the server starts: [module load python/3.11].",
    ),
    "slurm.python": Key(
        Taken.RESTART,
        kinds.text(_PATH, "a whole path, beginning with /"),
        '""',
        "The Python on the nodes that has nblauncher. Empty: the same path as here, on a file system that the nodes "
        "share.",
    ),
    "slurm.config": Key(
        Taken.RESTART,
        kinds.text(_PATH, "a whole path, beginning with /"),
        '""',
        "The cluster's slurm.conf, here and on the nodes. Empty: where Slurm looks.",
    ),
    "slurm.programs": Key(
        Taken.RESTART,
        kinds.text(_PATH, "a whole path, beginning with /"),
        '""',
        "The folder with sbatch, squeue and the others. Empty: the system's.",
    ),
}
