"""A student's job: what sbatch is given, and what its refusal means."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nblauncher.model import SITE_DEFAULTS, Account, Limits, SlurmSettings
from nblauncher.slurm import control, tools
from nblauncher.slurm.submission import Submission, _refused, submission

ADA = Account("ada", 20000, 20000, Path("/home/ada"), "/bin/bash")
LIMITS = Limits(memory=1_000_000_000, cpus=0.5)


def made(settings: SlurmSettings = SITE_DEFAULTS, limits: Limits = LIMITS, account: Account = ADA) -> Submission:
    command = ["/opt/nblauncher/bin/python", "-m", "nblauncher.x", "it's; a $(word)"]
    return submission(settings, limits, account, command, course="physics101", run="r1", variables={"NBL": "a b"})


def test_a_job_has_nothing_of_roots_and_is_not_requeued():
    argv = made().argv
    assert {"--export=NIL", "--propagate=NONE", "--no-requeue", "--parsable"} <= set(argv)
    assert not [word for word in argv if word.startswith(("--uid", "--gid"))]
    assert argv[0] == "sbatch" and all(word.startswith("--") for word in argv[1:])


def test_memory_and_processors_come_from_the_limits():
    assert {"--mem=954M", "--cpus-per-task=1"} <= set(made().argv)
    assert "--cpus-per-task=3" in made(limits=Limits(cpus=2.5)).argv
    assert not [word for word in made(limits=Limits()).argv if word.startswith(("--mem", "--cpus"))]


def test_the_sites_wishes_are_passed_on_and_ours_come_last():
    site = SlurmSettings(partition="class", reservation="lesson", time=90, gres="gpu:1", options=("--exclude=n7",))
    argv = made(site).argv
    assert {"--partition=class", "--reservation=lesson", "--time=90", "--gres=gpu:1", "--exclude=n7"} <= set(argv)
    assert argv.index("--exclude=n7") < argv.index("--job-name=nbl-physics101")
    assert not [word for word in argv if word.endswith("=")]


def test_the_marker_is_for_the_admin_comment_and_holds_course_and_run():
    assert made().admin_comment == "nbl:physics101:r1"
    with pytest.raises(ValueError, match="run"):
        submission(SlurmSettings(), LIMITS, ADA, ["x"], course="physics101", run="a\nb")


def script_says(asked: Submission, home: Path) -> str:
    """What the script's last line would run, with its environment."""
    text = asked.script.replace(
        "exec /opt/nblauncher/bin/python",
        "exec /usr/bin/python3 -I -c "
        "'import os, sys; print(sys.argv[1:], sorted(os.environ), os.environ[\"HOME\"], os.getcwd())'",
    )
    done = subprocess.run(
        ["bash"], input=text, capture_output=True, text=True, env={"SLURM_EXPORT_ENV": "NIL"}, check=True
    )
    return done.stdout


def test_the_script_sets_what_a_node_without_the_account_does_not_know(tmp_path):
    said = script_says(made(account=Account("ada", 20000, 20000, tmp_path)), tmp_path)
    assert f"{tmp_path} {tmp_path}" in said and "it's; a $(word)" in said
    for name in ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "NBL"):
        assert f"'{name}'" in said
    assert "SLURM_EXPORT_ENV" not in said


def test_a_prologue_runs_before_the_server_and_cannot_move_its_home(tmp_path):
    site = SlurmSettings(prologue=("export MODULES=loaded", "export HOME=/elsewhere"))
    said = script_says(made(site, account=Account("ada", 20000, 20000, tmp_path)), tmp_path)
    assert "'MODULES'" in said and f"{tmp_path} {tmp_path}" in said


def test_a_home_with_a_strange_name_is_quoted(tmp_path):
    home = tmp_path / "a'b $(touch x)"
    home.mkdir()
    assert str(home) in script_says(made(account=Account("ada", 20000, 20000, home)), home)


@pytest.mark.parametrize(
    "complaint, words",
    [
        (
            "sbatch: error: invalid partition specified: nosuch\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "Slurm refused the job of ada: Invalid partition name specified (invalid partition specified: nosuch)",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "Slurm refused the job of ada: Requested node configuration is not available "
            "(Memory specification can not be satisfied)",
        ),
        (
            'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"\n'
            "sbatch: error: Batch job submission failed: Protocol authentication error",
            "Slurm does not accept this host's authentication: munged is down here, or has another key",
        ),
        ("sbatch is not installed", "Slurm's command sbatch is not on this host"),
        ("", "Slurm refused the job of ada: "),
    ],
)
def test_a_refusal_is_told_in_slurms_words_and_with_what_to_do(complaint, words):
    error = _refused(ADA, complaint)
    assert error.problem == words and error.hint


def test_a_controller_that_does_not_answer_is_another_error():
    complaint = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    assert isinstance(_refused(ADA, complaint), tools.UnansweredError)


def test_a_missing_association_is_explained():
    complaint = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    assert "sacctmgr add user ada" in _refused(ADA, complaint).hint


def test_nothing_is_cancelled_with_an_empty_list():
    for ids in ([], [0], [-3]):
        with pytest.raises(ValueError, match="no jobs"):
            control.cancel_argv(ids)
    assert control.cancel_argv([9, 8]) == ("scancel", "8", "9")


def test_a_nodes_name_is_no_option():
    for name in ("-o", "a b", "a,b", ""):
        with pytest.raises(ValueError, match="node"):
            control.node_argv(name)


def test_a_nodes_address_is_the_one_of_slurm():
    assert (
        control.read_node("NodeName=n1 Gres=(null) NodeAddr=10.0.0.11 NodeHostName=n1 Comment=NodeAddr=6")
        == "10.0.0.11"
    )
