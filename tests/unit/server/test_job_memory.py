"""What a server on a node reads of the memory of its job."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nblauncher.server.job_memory import JobMemory
from tests.fakes import Clock

SLEEP = [sys.executable, "-c", "data = bytes(range(256)) * 100000; print(1, flush=True); input()"]


def test_without_a_group_that_counts_it_is_the_share_of_the_jobs_processes():
    clock, memory = Clock(), None
    environment = {**os.environ, "SLURM_JOB_ID": "424242424242"}
    with subprocess.Popen(SLEEP, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        memory = JobMemory("424242424242", clock)
        assert 25_600_000 < (memory.bytes() or 0) < 100_000_000
        process.stdin.close()
    assert memory.bytes(), "the sum is believed for a while"
    clock.now += 60
    assert memory.bytes() == 0


@pytest.mark.parametrize("job", ["", "x", "1 2"])
def test_outside_of_a_job_it_is_not_known(job):
    assert JobMemory(job).bytes() is None
