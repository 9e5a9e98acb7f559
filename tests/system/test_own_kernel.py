"""Debian's own kernel and systemd, where controllers and quotas are as on most teachers' hosts."""

from __future__ import annotations

import pytest

from tests.booted import Emulated

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]  # a Debian is made and boots, for some emulated

JOB = """
mkdir class; cd class; cp -r /root/src/{students.csv,notebooks.cfg,examples} .
nblauncher check | grep limits
cd /root/src
python=$(dirname $(readlink -f /usr/local/bin/nblauncher))/python
time $python -m pytest -p no:cacheprovider --color=no --basetemp=/var/tmp/nbt -rA --durations=0 -o timeout=0 \\
    tests/system/test_limits.py tests/system/test_server_quota.py
"""


@pytest.fixture(scope="module")
def machine() -> Emulated:
    return Emulated.made()


def test_limits_and_quotas_hold_there(machine):
    said = machine.run(JOB, timeout=1500)
    assert "memory by systemd scope, cpus by systemd scope, processes by systemd scope" in said, said
    assert "7 passed" in said, said
    assert not any(word in said for word in (" failed", " error", " skipped")), said
