"""The block `slurm:` of notebooks.cfg: what may be passed on to sbatch, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.config import settings
from nblauncher.errors import InputError
from nblauncher.model import SlurmSettings


def parsed(text: str) -> SlurmSettings:
    return settings.parse(f"course: a\n{text}".encode(), Path("/srv/class/notebooks.cfg")).slurm


def test_a_whole_block_is_read():
    text = """
        notebook: {spawner: slurm}
        slurm: {partition: "class,short", account: physics, qos: high, reservation: lesson_1, time: 90,
          gres: "gpu:a100:1",
          constraint: "[rack1|rack2]&ib", options: [--exclude=n7, --mail-type=NONE, --exclusive],
          prologue: [module load python/3.11, "export A='b c'"], python: /opt/nblauncher/current/bin/python,
          config: /etc/slurm/slurm.conf, programs: /opt/slurm/bin}
    """.replace("\n        ", "\n")
    assert parsed(text) == SlurmSettings(
        partition="class,short",
        account="physics",
        qos="high",
        reservation="lesson_1",
        time=90,
        gres="gpu:a100:1",
        constraint="[rack1|rack2]&ib",
        options=("--exclude=n7", "--mail-type=NONE", "--exclusive"),
        prologue=("module load python/3.11", "export A='b c'"),
        python="/opt/nblauncher/current/bin/python",
        config="/etc/slurm/slurm.conf",
        programs="/opt/slurm/bin",
    )


def test_without_the_block_the_site_decides():
    assert parsed("") == SlurmSettings()


@pytest.mark.parametrize(
    "key", ["partition", "account", "qos", "reservation", "gres", "constraint", "python", "config", "programs"]
)
@pytest.mark.parametrize(
    "value", ["-x", "--uid=0", "a b", "a\\nb", "$(id)", "`id`", "a;b", "a'b", "\\x00", "ü", "x" * 300]
)
def test_a_value_that_could_be_an_option_a_command_or_a_second_line_is_refused(key, value):
    with pytest.raises(InputError, match=rf"slurm\.{key}"):
        parsed(f'slurm: {{{key}: "{value}"}}\n')


@pytest.mark.parametrize(
    "option",
    [
        *("--uid=0", "--gid=0", "--ui=0", "--export=ALL", "--expor=ALL", "--propagate=ALL", "--requeue", "--requ"),
        *("--wrap=id", "--array=1-9", "--output=/etc/x", "--chdir=/", "--job-name=x", "--comment=x", "--time=9"),
        *("--mem=1G", "--cpus-per-task=9", "--hold", "--test-only", "--help"),
        *("-p", "-x7", "exclude=n7", "--exclude n7", "--exclude=a\\nb", "--exclude=$(id)", "", "--", "---x"),
    ],
)
def test_an_option_of_ours_or_in_another_form_is_refused(option):
    with pytest.raises(InputError, match=r"slurm\.options"):
        parsed(f'slurm: {{options: ["{option}"]}}\n')


@pytest.mark.parametrize(
    "lines", ['["a\\nb"]', '["\\x00"]', "module load x", f'["{"x" * 600}"]', f"[{', '.join(['a'] * 60)}]"]
)
def test_a_prologue_is_a_list_of_single_lines(lines):
    with pytest.raises(InputError, match=r"slurm\.prologue"):
        parsed(f"slurm: {{prologue: {lines}}}\n")


@pytest.mark.parametrize("value", ["0", "4", "99999", '"1:00:00"', "1:00:00", "-5"])
def test_a_time_is_in_minutes(value):
    with pytest.raises(InputError, match=r"slurm\.time"):
        parsed(f"slurm: {{time: {value}}}\n")
