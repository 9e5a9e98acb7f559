"""Debian's own kernel and systemd, where controllers and quotas are as on most teachers' hosts."""

from __future__ import annotations

import pytest

from tests.booted import Emulated

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("machine"), pytest.mark.timeout(2400)]

JOB = """
mkdir class; cd class; cp -r /root/src/{students.csv,notebooks.cfg,examples} .
nblauncher check | grep limits
cd /root/src
python=$(dirname $(readlink -f /usr/local/bin/nblauncher))/python
time $python -m pytest -p no:cacheprovider --color=no --basetemp=/var/tmp/nbt -rA --durations=0 -o timeout=0 \\
    tests/system/test_limits.py tests/system/test_server_quota.py \\
    tests/system/test_grading_command.py::test_scores_and_feedback_find_their_way \\
    tests/system/test_grading_command.py::test_a_program_sees_neither_others_nor_a_network \\
    tests/system/test_grading_command.py::test_what_does_not_end_is_ended_and_costs_one_row
"""


@pytest.fixture(scope="module")
def machine() -> Emulated:
    return Emulated.made()


def test_limits_and_quotas_hold_there_and_submissions_are_confined(machine):
    said = machine.run(JOB, timeout=1500)
    assert "memory by systemd scope, cpus by systemd scope, processes by systemd scope" in said, said
    assert "12 passed" in said, said
    assert not any(word in said for word in (" failed", " error", " skipped")), said
