"""The class after a reboot: a Debian that is booted twice, in a container."""

from __future__ import annotations

import re

import pytest

from tests.booted import Booted

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("machine"), pytest.mark.timeout(2400)]

COUNT = 20

BEGIN = f"""
set -e
rm -rf class; nblauncher init class; cd class
(echo username; seq -f 'stud%02g' 1 {COUNT}) > students.csv
sed -i 's/^course: .*/course: boot/; /^  requirements: /d' notebooks.cfg
nblauncher setup --yes 2>/dev/null
nblauncher launch --background --only $(seq -s, -f 'stud%02g' 1 15) 2>/dev/null
nblauncher launch --background --on-demand --only $(seq -s, -f 'stud%02g' 16 19) 2>/dev/null
nblauncher shutdown --only stud15 2>/dev/null
nblauncher service install
nblauncher service install
systemctl show nblauncher-boot -p Type,Restart,StatusText,ActiveState
nblauncher status
"""

AFTER = """
for i in $(seq 120); do systemctl is-active -q nblauncher-boot && break; sleep 1; done
systemctl show nblauncher-boot -p ActiveState,StatusText
cd class; nblauncher status
for n in $(seq 1 14) $(seq 16 19); do
  code=$(curl -sk -m 60 -o /dev/null -w '%{http_code}' https://127.0.0.1:$((8000+n))/user/stud$(printf %02d $n)/api)
  echo "server $n answers $code"
done
curl -sk -o /dev/null -w 'front page %{http_code}\\n' https://127.0.0.1:8000/
pkill -KILL -f nblauncher.supervisor; sleep 25
systemctl show nblauncher-boot -p NRestarts,ActiveState
echo again; nblauncher status | tail -1
systemctl stop nblauncher-boot
nblauncher status | tail -1
systemctl start nblauncher-boot
nblauncher remove --yes > /dev/null 2>&1; echo removed $?
sleep 7; systemctl is-active nblauncher-boot
ls /etc/systemd/system/nblauncher* /etc/systemd/system/*.wants/nblauncher* 2>&1 | grep -c 'No such'
getent passwd | grep -c ^stud
"""


@pytest.fixture(scope="module")
def machine() -> Booted:
    return Booted.made()


def test_after_a_reboot_the_class_is_back_as_it_was(machine):
    before = machine.run(BEGIN)
    assert "nblauncher-boot.service is installed and watches" in before, before
    assert "is installed already" in before and "Type=notify" in before and "Restart=on-failure" in before
    after = machine.run(AFTER)
    assert "ActiveState=active" in after, after
    assert "StatusText=14 servers up, 4 start on demand" in after
    rows = dict(re.findall(r"^(stud\d+)\s+(\w+)", after, re.M))
    assert [rows[f"stud{n:02}"] for n in range(1, 15)] == ["ready"] * 14
    assert [rows[f"stud{n:02}"] for n in range(15, 21)] == ["stopped", *["asleep"] * 4, "stopped"]
    assert [f"server {n} answers 200" in after for n in (*range(1, 15), *range(16, 20))] == [True] * 18
    assert "front page 200" in after
    again = after.partition("NRestarts=1")[2]
    assert "18 ready" in again or "4 asleep, 14 ready" in again, after
    assert "20 stopped; the front page is stopped" in again
    assert "removed 0\ninactive\n2\n0\n" in again, again
