"""What happens before and around the submission of a job: on a Slurm that a few scripts play."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Account, Limits, SlurmSettings
from nblauncher.supervisor.spawners import slurm

ADA = Account("ada", 1001, 1001, Path("/home/ada"))
SQUEUE = """\
#!/bin/sh
cd {folder}
case "$*" in *--user=1001*)
    case "$*" in *COMPLETING*) ;; *) grep -v COMPLETING jobs; exit 0;; esac
    cat jobs
    [ -e left ] || : >jobs
    grep -q COMPLETING jobs && rm left
    exit 0;;
esac
nonce=$(expr "$*" : '.*jobid:14|\\([0-9a-f]*\\)|')
for job in 7 8; do echo "$job |$nonce|1001|RUNNING|n1|0|0|0|10:00|None|nbl:physics:r |"; done
"""
SCANCEL = "#!/bin/sh\ncd {folder}\necho $* >>cancelled\nsed -i 's/RUNNING   /COMPLETING/' jobs\n"


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    scripts = {"squeue": SQUEUE, "scancel": SCANCEL, "scontrol": "#!/bin/sh\necho 'ctl is UP'\n"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "left").touch()
    monkeypatch.setattr(slurm, "_PAUSE", 0.0)
    return tmp_path


def line(number: int, state: str, mark: str, name: str) -> str:
    return f"{number:<14}{state:<16}{mark:<64}{name:<80}\n"


def test_those_of_the_class_are_cancelled_once_and_waited_for(site):
    jobs = [line(7, "RUNNING", "nbl:physics:r7", "x"), line(8, "RUNNING", "", "nbl-physics")]
    (site / "jobs").write_text("".join([*jobs, line(9, "RUNNING", "nbl:chemistry:r9", "nbl-chemistry")]))
    settings = SlurmSettings(programs=str(site))
    assert slurm._others(settings, ADA, "physics") == {7: False, 8: False}
    slurm._end_others(settings, ADA, "physics")
    assert (site / "cancelled").read_text() == "7 8\n"
    assert not (site / "left").exists(), "it went on while a cancelled job still ran"


def test_one_that_does_not_end_is_named_and_nothing_is_submitted(site, monkeypatch):
    monkeypatch.setattr(slurm, "_ENDING", -1.0)
    (site / "jobs").write_text(line(7, "COMPLETING", "nbl:physics:r7", "nbl-physics"))
    with pytest.raises(HostError, match="an older job of ada does not end: 7"):
        slurm._end_others(SlurmSettings(programs=str(site)), ADA, "physics")
    assert not os.path.exists(site / "cancelled")


def test_a_home_that_hangs_is_told_in_time_and_no_secrets_stay(monkeypatch):
    done: list[object] = []

    def hang(_account: Account, function: object, *_given: object, timeout: float) -> None:
        assert timeout < slurm.SUBMITTING / 3
        done.append(function)
        raise HostError(f"a file worker was still not done after {timeout} s" if len(done) == 1 else "again")

    monkeypatch.setattr(slurm.workers, "run_as", hang)
    monkeypatch.setattr(slurm.tools, "ping", lambda _settings: None)
    monkeypatch.setattr(slurm, "_end_others", lambda *_: None)
    files = [os.memfd_create("given") for _ in range(3)]
    with pytest.raises(HostError, match="still not done"):
        slurm._submit(SlurmSettings(), Limits(), ADA, "physics", "0123456789abcdef", files, {}, "")
    assert done == [slurm._put, slurm._drop]
