"""Which folder a deadline means, whose time is whose, and what students renamed, deleted and planted."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from tests.classroom import Classroom, set_up_class
from tests.homework import as_student, write

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtasada", "nbtasbob"]
NFD = unicodedata.normalize("NFD", "Übung 1")
LATER = "2036-11-27 17:00"


@pytest.fixture
def room() -> Iterator[Classroom]:
    with set_up_class("nbtas1", NAMES, port=27100, first_uid=31600) as made:
        for folder in ("ps1", "ps2", NFD):
            (made.folder / "material" / folder).mkdir()
            (made.folder / "material" / folder / "lab.py").write_text(f"# {folder}: your answer\n")
            (made.folder / "material" / folder / "data.csv").write_text("1,2\n")
        made.run("send")
        yield made


def soon(seconds: float) -> str:
    return f"{datetime.now().astimezone() + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"


def roster(room: Classroom, *extra_times: str) -> None:
    rows = "".join(f'{name},"{more}"\n' for name, more in zip(NAMES, extra_times, strict=True))
    (room.folder / "students.csv").write_text(f"username,extra_time\n{rows}")


def configure(room: Classroom, deadlines: dict[str, Any]) -> None:
    """The roster stays as it is."""
    room.config["deadlines"] = deadlines
    (room.folder / "notebooks.cfg").write_text(yaml.safe_dump(room.config))


def capture(room: Classroom, folder: str = "ps1", *, expect: int = 0) -> dict[str, dict[str, Any]]:
    """At a moment a second from now; the manifests by student."""
    room.write(deadlines={folder: soon(1)})
    room.run("setup")
    room.run("retrieve", "--unattended", room.course, expect=expect)
    return manifests(room)


def manifests(room: Classroom) -> dict[str, dict[str, Any]]:
    newest = sorted((room.folder / "retrieved").glob("2*"))[-1]
    return {name: json.loads((newest / name / "manifest.json").read_text()) for name in NAMES}


def paths(manifest: dict[str, Any]) -> list[str]:
    return sorted(one["path"] for one in manifest["files"])


def receipt(room: Classroom, name: str) -> tuple[dict[str, Any], str]:
    file = sorted((room.home(name) / "receipts").glob("*.json"))[-1]
    return json.loads(file.read_text()), room.run("verify-receipt", str(file)).stdout


# What a key means


@pytest.mark.parametrize(
    "key",
    [
        "tutorial/ps1",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("material/ps1", "./ps1/", "ps1/", "ps1\\")),
    ],
)
def test_every_usual_form_of_a_folder_captures_it(room, key):
    write(ADA, "tutorial/ps1/lab.py", "answer")
    got = capture(room, key)
    assert paths(got[ADA]) == ["work/ps1/data.csv", "work/ps1/lab.py"]
    assert (got[ADA]["complete"], got[ADA]["deadline"]["folder"]) == (True, "ps1")
    told = room.json("retrieve", "--assignment", f"./{key}")["students"]
    assert [one["handed_in"] for one in told] == [True, False]


def test_accents_may_be_stored_in_another_way_than_on_the_disk(room):
    got = capture(room, unicodedata.normalize("NFC", NFD))
    assert len(got[ADA]["files"]) == 2 and got[ADA]["complete"]
    assert room.json("retrieve", "--assignment", unicodedata.normalize("NFC", NFD))["students"][0]["files"] == 2


def test_a_near_miss_is_named_and_refused_everywhere_and_nothing_changes(room):
    room.run("launch", "--background")
    accepted = (room.paths.accepted / "notebooks.cfg").read_bytes()
    room.write(deadlines={"PS2": LATER, "ps1/lab.py": LATER, "tutorial": LATER})
    for command, code in ((["check"], 1), (["setup"], 3), (["launch", "--background"], 3), (["reload"], 3)):
        told = room.run(*command, expect=code)
        said = told.stdout + told.stderr
        assert "deadline PS2: there is no such folder in the material; did you mean ps2?" in said
        assert "ps1/lab.py is a file of the material" in said and "the material folder itself" in said
    assert (room.paths.accepted / "notebooks.cfg").read_bytes() == accepted
    room.write(deadlines={})
    for options in (["--at", LATER, "--assignment", "PS2"], ["--assignment", "PS2"]):
        assert "did you mean ps2?" in room.run("retrieve", *options, expect=3).stderr
    assert not (room.folder / "retrieved").exists()
    room.write(deadlines={"ps1": LATER, "tutorial/ps1": LATER})
    assert "for the same folder" in room.run("setup", expect=3).stderr


@pytest.mark.slow
def test_a_folder_that_comes_later_in_the_term_is_only_said(room):
    room.write(deadlines={"ps3": LATER, "ps10": LATER})
    for command in ("check", "setup", "launch"):
        told = room.run(command, *(["--background"] if command == "launch" else []), expect=None)
        assert told.returncode in (0, 1)
        assert "deadline ps3: this folder is not in the material yet" in told.stdout + told.stderr
    assert "is not in the material yet" in room.run("reload").stderr
    assert "not in the material yet" in " ".join(room.run("deadlines").stdout.split())
    assert "is not in the material yet" in room.run("retrieve", "--at", LATER, "--assignment", "ps4").stderr
    (room.folder / "material/ps3").mkdir()
    (room.folder / "material/ps3/lab.py").write_text("#\n")
    room.run("send")
    assert "deadline ps3" not in room.run("reload").stderr


def test_who_has_no_such_folder_and_never_had_is_incomplete_and_said(room):
    write(ADA, "tutorial/ps9/lab.py", "made by ada")
    got = capture(room, "ps9", expect=5)
    assert (paths(got[ADA]), got[ADA]["complete"]) == (["work/ps9/lab.py"], True)
    assert (paths(got[BOB]), got[BOB]["complete"]) == ([], False)
    assert "never handed out" in got[BOB]["exclusions"][0]["reason"]
    about, words = receipt(room, BOB)
    assert (about["files"], about["complete"]) == ([], False)
    assert "INCOMPLETE" in words and "there is no such folder" in words
    students = room.json("status")["students"]
    assert [("ps9" in one["reason"]) for one in students] == [False, True]
    told = room.run("retrieve", "--assignment", "ps9", expect=5)
    assert f"{BOB}  folder missing" in told.stdout and "never handed out" in told.stdout


def test_an_assignment_that_does_not_exist_is_no_retrieval(room):
    told = room.run("retrieve", "--assignment", "nonsense", expect=3)
    assert "is not a folder of the material, and no student has one" in told.stderr and "ps1" in told.stderr
    assert not (room.folder / "retrieved").exists()


# What students do with a folder


def test_a_renamed_folder_is_found_by_what_was_handed_out(room):
    write(ADA, "tutorial/ps1/lab.py", "my answer")
    as_student(ADA, "mv", "tutorial/ps1", "tutorial/my work")
    as_student(BOB, "sh", "-c", "mkdir -p deep/er && mv tutorial/ps1 deep/er/x && ln -s ../deep/er/x tutorial/ps1")
    told = room.json("retrieve", "--assignment", "ps1")
    assert [(one["handed_in"], one["files"], one["folder_missing"]) for one in told["students"]] == [
        *((True, 2, False), (False, 2, False))
    ]
    assert 'in "tutorial/my work"' in told["students"][0]["exceptions"][0]["reason"]
    got = capture(room)
    newest = sorted((room.folder / "retrieved").glob("2*"))[-1]
    assert (newest / ADA / "work/ps1/lab.py").read_text() == "my answer"
    assert [len(got[name]["files"]) for name in NAMES] == [2, 2] and got[ADA]["complete"] and got[BOB]["complete"]
    assert "renamed or moved" in got[ADA]["exclusions"][0]["reason"]
    assert 'in "deep/er/x"' in got[BOB]["exclusions"][0]["reason"]
    assert "my work" in receipt(room, ADA)[1]
    assert "my work" in room.json("status")["students"][0]["reason"]


def test_a_deleted_folder_is_told_and_its_neighbour_is_not_taken_for_it(room):
    as_student(ADA, "rm", "-r", "tutorial/ps1")
    got = capture(room, expect=5)
    assert (paths(got[ADA]), got[ADA]["complete"]) == ([], False)
    assert "deleted, or nothing tells where it is" in got[ADA]["exclusions"][0]["reason"]
    assert receipt(room, ADA)[0]["complete"] is False
    told = room.run("retrieve", "--assignment", "ps1", expect=5)
    assert f"{ADA}  folder missing" in told.stdout
    assert "deleted" in room.json("status")["students"][0]["reason"]


def test_after_the_moment_a_student_may_delete_the_folder(room):
    write(ADA, "tutorial/ps1/lab.py", "my answer")
    capture(room)
    as_student(ADA, "rm", "-r", "tutorial/ps1")
    told = room.json("retrieve", "--assignment", "ps1")
    assert (told["students"][0]["handed_in"], told["students"][0]["folder_missing"]) == (True, False)


def test_of_two_folders_that_could_be_it_none_is_taken_and_both_are_named(room):
    write(ADA, "tutorial/ps1/lab.py", "the work that is hidden")
    as_student(ADA, "sh", "-c", "cp -r tutorial/ps1 decoy && mv tutorial/ps1 tutorial/hidden")
    got = capture(room, expect=5)
    assert got[ADA]["files"] == [] and not got[ADA]["complete"]
    (said,) = got[ADA]["exclusions"]
    assert '"tutorial/hidden" or "decoy"' in said["reason"]


def test_a_folder_that_only_looks_like_it_is_named_and_not_taken(room):
    as_student(ADA, "sh", "-c", "mkdir mine; echo x >mine/lab.py; echo y >mine/data.csv; rm -r tutorial/ps1")
    got = capture(room, expect=5)
    assert got[ADA]["files"] == [] and '"mine"' in got[ADA]["exclusions"][0]["reason"]


def test_an_empty_folder_in_the_place_of_the_work_hides_it_from_nobody(room):
    as_student(ADA, "sh", "-c", "mv tutorial/ps1 tutorial/hidden; mkdir tutorial/ps1")
    got = capture(room, expect=5)
    assert not got[ADA]["complete"] and '"tutorial/hidden"' in got[ADA]["exclusions"][0]["reason"]


def test_who_tidies_up_within_the_folder_is_complete(room):
    as_student(ADA, "sh", "-c", "cd tutorial/ps1 && mkdir old && mv lab.py data.csv old")
    as_student(BOB, "sh", "-c", "cd tutorial && mkdir old && mv ps1 ps2 old")
    assert capture(room)[ADA]["complete"]
    assert room.json("retrieve")["students"][1]["exceptions"] == []


def test_a_folder_that_leads_out_of_the_home_gains_nothing(room):
    secret = room.folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "lab.py").write_text("root's")
    script = f"rm -r tutorial/ps1; mkdir away; ln -s {secret} away/x; ln -s {room.home(BOB)}/tutorial/ps1 away/y"
    as_student(ADA, "sh", "-c", f"{script}; mkfifo away/lab.py; ln -s {secret}/lab.py away/data.csv")
    got = capture(room, expect=5)
    assert got[ADA]["files"] == [] and len(got[BOB]["files"]) == 2


@pytest.mark.slow
def test_a_hundred_thousand_folders_cost_nobody_else_the_moment(room):
    write(BOB, "tutorial/ps1/lab.py", "in time")
    script = "import os; os.makedirs('tutorial/a'); os.chdir('tutorial/a'); [os.mkdir(str(n)) for n in range(100_000)]"
    as_student(ADA, "sh", "-c", f'mv tutorial/ps1 tutorial/zz; mkdir tutorial/b; python3 -c "{script}"')
    got = capture(room, expect=None)
    assert [one["deadline"]["late"] for one in got.values()] == [False, False]
    assert paths(got[BOB]) == ["work/ps1/data.csv", "work/ps1/lab.py"] and got[BOB]["complete"]
    assert len(got[ADA]["files"]) == 2 and "tutorial/zz" in got[ADA]["exclusions"][0]["reason"]


# Whose time is whose


def test_extra_time_that_cannot_be_read_is_an_error_and_nothing_changes(room):
    before = (room.paths.accepted / "students.csv").read_bytes()
    room.run("launch", "--background")
    roster(room, "lots", "0.25")
    for command, code in (("check", 1), ("setup", 3), ("reload", 3)):
        told = room.run(command, expect=code)
        said = told.stdout + told.stderr
        assert f'line 2: {ADA}: extra_time: "lots"' in said and f'line 3: {BOB}: extra_time: "0.25"' in said
    assert (room.paths.accepted / "students.csv").read_bytes() == before


def test_a_percentage_of_a_deadline_without_starts_is_an_error(room):
    roster(room, "25 %", "12,5 %")
    room.run("setup")
    config = {"ps1": LATER, "ps2": {"at": LATER, "starts": "2036-11-27 15:00"}}
    configure(room, config)
    for command, code in ((["check"], 1), (["setup"], 3), (["launch", "--background"], 3)):
        told = room.run(*command, expect=code)
        said = told.stdout + told.stderr
        assert f"deadline ps1 has no `starts`, and extra time in percent needs it: {ADA}" in said
        assert "ps1: {at: ..., starts: ...}" in said and "give minutes in the roster" in said and "ps2" not in said
    assert "has no `starts`" in room.run("retrieve", "--at", LATER, "--assignment", NFD, expect=3).stderr


def test_what_an_earlier_release_accepted_takes_nobody_elses_time(room):
    """As an upgrade finds it: `setup` mends it, `launch` names it, the others keep their moments."""
    (room.paths.accepted / "students.csv").write_text(f"username,extra_time\n{ADA},lots\n{BOB},20 min\n")
    assert f"line 2: {ADA}" in room.run("launch", "--background", expect=3).stderr
    rows = room.json("deadlines")["students"]
    assert [one["deadlines"] for one in rows] == [[], []]
    roster(room, "", "20 min")
    configure(room, {"ps1": LATER})
    room.run("setup")
    rows = room.json("deadlines")["students"]
    assert [one["deadlines"][0]["extra_seconds"] for one in rows] == [0, 1200]


def test_deadlines_lists_the_class_once_and_who_differs(room):
    roster(room, "", "1h30m")
    configure(room, {"ps1": soon(2), "ps2": LATER})
    room.run("setup")
    as_student(ADA, "rm", "-r", "tutorial/ps1")
    room.run("retrieve", "--unattended", room.course, expect=5)
    told = room.run("deadlines").stdout
    lines = [line.split() for line in told.splitlines()]
    assert sum(line[:1] == ["ps1"] for line in lines) == 1 and "the class (2)" in told
    assert any(line[0] == ADA and "incomplete:" in line for line in lines)
    assert sum(line[:1] == [BOB] for line in lines) == 2
    assert sum(line[:1] == [ADA] for line in lines) == 1  # of ps2 ada has the class's
    found = room.json("deadlines")
    assert (found["nblauncher"], found["status"], found["exit_code"]) == (1, "ok", 0)
    ps1, ps2 = found["deadlines"]
    assert (ps1["deadline"], ps1["students"], ps1["incomplete"], ps1["to_come"]) == ("ps1", 2, 1, 1)
    assert (ps2["to_come"], ps2["in_material"]) == (2, True)
    ada, bob = found["students"]
    assert (ada["deadlines"][0]["state"], bob["deadlines"][0]["state"]) == ("incomplete", "to come")
    assert bob["deadlines"][0]["extra_seconds"] == 5400
    assert len([line for line in room.run("deadlines", "--only", ADA).stdout.splitlines() if ADA in line]) == 2
    assert room.run("extend", ADA, "10m", "--deadline", "ps2") and ADA in room.run("deadlines").stdout


def test_a_material_folder_that_was_renamed_is_retrieved_and_one_that_was_deleted_is_not_complete(room):
    write(ADA, "tutorial/ps1/lab.py", "my answer")
    as_student(ADA, "mv", "tutorial", "renamed")
    as_student(BOB, "rm", "-r", "tutorial")
    told = room.json("retrieve", expect=5)["students"]
    assert [(one["files"], one["exceptions"][0]["incomplete"]) for one in told] == [(1, False), (0, True)]
    assert paths(manifests(room)[ADA]) == ["work/ps1/lab.py"]
    room.run("remove", "-y")  # takes the whole home, by whatever name
