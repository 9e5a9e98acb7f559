"""Slurm's commands, replaced by scripts that say what the real ones said on a host with this trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.model import SlurmSettings
from nblauncher.slurm import jobs, tools
from nblauncher.slurm.jobs import JobState
from nblauncher.slurm.tools import UnansweredError

NO_MUNGE = """\
scontrol: error: If munged is up, restart with --num-threads=10
scontrol: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory
scontrol: error: slurm_send_node_msg: auth_g_create: REQUEST_PING has authentication error
"""
DOWN = """\
Slurmctld(primary) at ctl is DOWN
*****************************************
** RESTORE SLURMCTLD DAEMON TO SERVICE **
*****************************************
"""


def site(folder: Path, *, out: str = "", err: str = "", status: int = 0, name: str = "scontrol") -> SlurmSettings:
    program = folder / name
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && {{ echo slurm-wlm 22.05.8; exit; }}\n'
        f"cat <<'OUT'\n{out}OUT\ncat >&2 <<'ERR'\n{err}ERR\nexit {status}\n"
    )
    program.chmod(0o755)
    return SlurmSettings(programs=str(folder))


def test_a_controller_that_answers_is_up(tmp_path):
    tools.ping(site(tmp_path, out="Slurmctld(primary) at ctl is UP\n"))


def test_a_backup_controller_is_enough(tmp_path):
    tools.ping(site(tmp_path, out="Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"))


def test_a_controller_that_is_down_is_unanswered(tmp_path):
    with pytest.raises(UnansweredError, match="does not answer"):
        tools.ping(site(tmp_path, out=DOWN, status=1))


def test_without_munge_that_is_what_it_says_though_slurm_says_down(tmp_path):
    with pytest.raises(HostError, match="munged is down") as caught:
        tools.ping(site(tmp_path, out=DOWN, err=NO_MUNGE, status=1))
    assert not isinstance(caught.value, UnansweredError) and "munge" in caught.value.hint


def test_without_a_configuration_it_says_where_one_belongs(tmp_path):
    fatal = "scontrol: fatal: Could not establish a configuration source\n"
    with pytest.raises(HostError, match="no configuration of a cluster") as caught:
        tools.ping(site(tmp_path, err=fatal, status=1))
    assert "slurm.config" in caught.value.hint


def test_a_folder_that_others_can_write_is_not_searched_for_programs_by_root(tmp_path):
    tmp_path.chmod(0o777)
    for settings in (SlurmSettings(programs=str(tmp_path)), SlurmSettings(config=str(tmp_path))):
        with pytest.raises(RefusedError, match="would run as root") as caught:
            tools.refuse_untrusted(settings)
        assert str(tmp_path) in caught.value.hint
    tools.refuse_untrusted(SlurmSettings(programs="/usr/bin", config="/etc/passwd"))


def test_a_configuration_that_does_not_exist_is_not_waited_for(tmp_path):
    with pytest.raises(HostError, match="no configuration of a cluster"):
        tools.ping(SlurmSettings(config=str(tmp_path / "slurm.conf")))


def test_a_command_that_is_not_there_says_what_to_install():
    with pytest.raises(HostError, match="squeue-of-nobody is not on this host") as caught:
        tools.call(SlurmSettings(), "squeue-of-nobody")
    assert "slurm-client" in caught.value.hint


def test_accounting_that_is_down_is_not_taken_for_the_controller(tmp_path):
    """As sacctmgr says it, while the controller works."""
    words = "sacctmgr: error: Sending PersistInit msg: Connection refused\n"
    with pytest.raises(UnansweredError, match="accounting"):
        tools.call(site(tmp_path, err=words, status=1, name="sacctmgr"), "sacctmgr", "list", "associations")


def test_a_command_that_hangs_is_ended_and_means_no_answer(tmp_path):
    settings = site(tmp_path, name="squeue")
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(UnansweredError):
        tools.call(settings, "squeue", timeout=0.2)
    assert jobs.poll(settings, [7], timeout=0.2)[7].state is JobState.UNKNOWN


def test_a_poll_of_a_job_that_slurm_forgot_is_no_error(tmp_path):
    settings = site(tmp_path, err="slurm_load_jobs error: Invalid job id specified\n", status=1, name="squeue")
    assert jobs.poll(settings, [7])[7].state is JobState.GONE


@pytest.mark.parametrize(
    "said, is_enough", [("slurm-wlm 22.05.8", True), ("slurm 24.11.5", True), ("slurm 20.11.9", False)]
)
def test_a_version_that_is_too_old_is_refused(tmp_path, said, is_enough):
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\necho {said}\n")
    program.chmod(0o755)
    settings = SlurmSettings(programs=str(tmp_path))
    if is_enough:
        assert tools.version(settings) >= (22, 5)
    else:
        with pytest.raises(HostError, match=r"20\.11\.9, and classes need Slurm 22\.05"):
            tools.version(settings)


def test_the_callers_environment_does_not_matter(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/elsewhere")
    monkeypatch.setenv("SQUEUE_FORMAT", "%u")
    assert set(tools.environment(SlurmSettings())) == {"PATH", "LC_ALL", "SLURM_TIME_FORMAT"}
    assert tools.environment(SlurmSettings(config="/etc/slurm/a.conf"))["SLURM_CONF"] == "/etc/slurm/a.conf"
