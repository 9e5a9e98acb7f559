"""notebooks.cfg: one schema, every problem at once."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.config import settings
from nblauncher.config.settings import (
    AccountSettings,
    GradingSettings,
    HistorySettings,
    MailSettings,
    NotebookSettings,
    RetrieveSettings,
    Settings,
    TlsSettings,
    WebSettings,
)
from nblauncher.config.settings.keys import Taken
from nblauncher.config.settings.schema import SCHEMA, SECTIONS
from nblauncher.errors import InputError
from nblauncher.model import Limits, Material, SlurmSettings
from nblauncher.system import system_folders

FILE = Path("/srv/class/notebooks.cfg")
TOP = Path(__file__).parents[3]


def parsed(text: str) -> Settings:
    return settings.parse(text.encode(), FILE)


def problems(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        settings.parse(text if isinstance(text, bytes) else text.encode(), FILE)
    return caught.value.problems


DEFAULTS = Settings(
    course="physics101",
    students=Path("/srv/class/students.csv"),
    credentials=Path("/srv/class/credentials.csv"),
    material=Material(Path("/srv/class/material"), "tutorial"),
    retrieve=RetrieveSettings(Path("/srv/class/retrieved")),
    grading=GradingSettings(Path("/srv/class/grading")),
    file=FILE,
)


def test_the_sample_is_the_defaults() -> None:
    assert parsed(settings.sample()) == DEFAULTS


def test_a_course_name_is_all_that_a_config_needs() -> None:
    assert parsed("course: physics101\n") == DEFAULTS


def test_the_sample_names_every_key_that_the_settings_have() -> None:
    sections = {
        "accounts": AccountSettings,
        "material": Material,
        "retrieve": RetrieveSettings,
        "history": HistorySettings,
        "web": WebSettings,
        "tls": TlsSettings,
        "notebook": NotebookSettings,
        "limits": Limits,
        "slurm": SlurmSettings,
        "grading": GradingSettings,
        "mail": MailSettings,
    }
    top = {field.name for field in dataclasses.fields(Settings)} - {*sections, "file", "texts"}
    below = {f"{name}.{field.name}" for name, kind in sections.items() for field in dataclasses.fields(kind)}
    below = {"mail.from" if name == "mail.sender" else name for name in below}  # no name for a field
    below.discard("material.folder")  # of `send --assignment`
    assert set(SCHEMA) == top | below and set(SECTIONS) == set(sections)
    for key in SCHEMA:
        assert f"{key.rpartition('.')[2]}: " in settings.sample()


@pytest.mark.parametrize("name", [name for name, key in SCHEMA.items() if key.allowed])
def test_the_range_that_a_key_states_is_the_one_that_it_accepts(name: str) -> None:
    least, most = map(Decimal, SCHEMA[name].allowed.split(" to "))
    section, _, last = name.rpartition(".")
    for value, is_allowed in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        text = f"course: physics101\n{section}: {{{last}: {value}}}\n"
        if is_allowed:
            parsed(text)
        else:
            with pytest.raises(InputError, match=name):
                parsed(text)


def test_the_sample_says_of_every_key_what_takes_a_change_over() -> None:
    legend = settings.sample().partition("course:")[0]
    assert all(f"[{taken.value}]" in legend for taken in Taken)
    for name, key in SCHEMA.items():
        above = settings.sample().partition(f"{name.rpartition('.')[2]}: ")[0]
        assert re.search(r"\[\w+\]", above)
        assert key.taken in Taken


def test_the_example_class_differs_from_the_sample_only_in_its_name_material_and_packages() -> None:
    text = (TOP / "notebooks.cfg").read_text(encoding="utf-8")
    assert text == settings.sample(
        {"course": "quickstart", "material.source": "examples", "notebook.requirements": "[numpy, pandas, matplotlib]"}
    )
    assert parsed(text).material.source == Path("/srv/class/examples")


def test_all_values_can_be_set() -> None:
    found = parsed(
        """
        course: chem-2
        students: /data/people.csv
        owner: kim
        credentials: secret/pw.csv
        profile: lab
        accounts: {create: no, home: /srv/homes, shell: /bin/sh, system_password: none, uid_range: 30000 - 30999}
        material: {source: ../shared/out, target: lab/one}
        retrieve: {target: in, max_file: 1.5 MiB, max_student: 2GB, max_files: 5, max_depth: 6}
        web: {names: [lab.example.org, 192.0.2.1], bind: ["2001:DB8::1"], port: 9000, frontend: direct}
        tls: {mode: files, certificate: a.pem, key: b.pem, share_key_with_students: true}
        notebook: {interface: lab, spawner: process, environment: {OMP_NUM_THREADS: "1"}, start_deadline: 60}
        limits: {memory: 2 GB, cpus: 2, processes: none, disk: 5 GB}
        grading: {course: marks, parallel: 3, port: 7000}
        isolation: off
        """
    )
    assert found == Settings(
        course="chem-2",
        students=Path("/data/people.csv"),
        owner="kim",
        credentials=Path("/srv/class/secret/pw.csv"),
        profile="lab",
        accounts=AccountSettings(False, Path("/srv/homes"), "/bin/sh", "none", range(30000, 31000)),
        material=Material(Path("/srv/shared/out"), "lab/one"),
        retrieve=RetrieveSettings(Path("/srv/class/in"), 1572864, 2_000_000_000, 5, 6),
        web=WebSettings(("lab.example.org", "192.0.2.1"), ("2001:db8::1",), 9000, "direct"),
        tls=TlsSettings("files", Path("/srv/class/a.pem"), Path("/srv/class/b.pem"), True),
        notebook=NotebookSettings("lab", "process", {"OMP_NUM_THREADS": "1"}, 60),
        limits=Limits(2_000_000_000, 2.0, None, 5_000_000_000),
        grading=GradingSettings(Path("/srv/class/marks"), parallel=3, port=7000),
        isolation=False,
        file=FILE,
    )


def test_what_students_read_may_be_in_any_script() -> None:
    greeting = "  greeting: |\n    سلام می‌خواهم\n    👩‍🏫 <b>\n"
    web = parsed(f"course: a\nweb:\n  title: 物理 101\n{greeting}  language: fa\n  texts: fa.yaml\n").web
    assert (web.title, web.greeting) == ("物理 101", "سلام می‌خواهم\n👩‍🏫 <b>")
    assert (web.language, web.texts) == ("fa", Path("/srv/class/fa.yaml"))
    assert parsed("course: a\nweb: {language: de-AT, time_zone: Europe/Vienna}\n").web.time_zone == "Europe/Vienna"


def test_a_bare_off_is_the_word_and_not_a_boolean() -> None:
    assert parsed("course: a\ntls: {mode: off}\n").tls.mode == "off"


def test_a_group_whose_keys_are_all_commented_out_is_its_defaults() -> None:
    assert parsed("course: physics101\nweb:\n  # port: 9000\nnotebook:\n  environment:\n") == DEFAULTS


def test_every_problem_is_named_at_once_with_its_line() -> None:
    assert problems(
        "cours: x\nport: 80\ncourse: Bad\ncourse: b\nweb:\n  prot: 1\n  port: x\ntls: {mode: on}\nlimit: {memory: 1}\n"
    ) == (
        'notebooks.cfg line 1: unknown key "cours"; did you mean course?',
        'notebooks.cfg line 2: unknown key "port"; did you mean web.port?',
        'notebooks.cfg line 3: course: "Bad" is not a course name: a letter a-z, then up to 19 of a-z, 0-9 and -',
        "notebooks.cfg line 4: the key course is there twice, in line 3 already",
        'notebooks.cfg line 6: unknown key "web.prot"; did you mean web.port?',
        'notebooks.cfg line 7: web.port: "x" is not a whole number',
        'notebooks.cfg line 8: tls.mode: "on" is not one of class-ca, files or off',
        'notebooks.cfg line 9: unknown key "limit"; did you mean limits?',
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("course: a\nweb:\n\tport: 1\n", "line 3: there is a tab; indent with spaces"),
        ("course: [a\n", "this is not YAML"),
        ("course: a\n---\ncourse: b\n", "expected a single document"),
        ("- a\n- b\n", "line 1: the file is a list of `key: value`, not a list"),
        ("", "the key course is missing"),
        ("course: a\nweb: 8000\n", 'line 2: web is a group of keys, not "8000"'),
        ("course: a\naccounts: {create: 'true'}\n", 'accounts.create: "true" is not true or false'),
        ("course: a\nprofile: 7\n", 'profile: "7" is not a text for YAML (int); put it in quotes'),
        ("course: a\nprofile: ../x\n", "is not the name of an IPython profile"),
        ("course: a\nowner: -rf\n", 'owner: "-rf" is not the name of an account'),
        ("course: a\nstudents:\n", 'students: there is no value; write "" or remove the line'),
        ("course: a\nstudents: ~/x.csv\n", "~ means another folder for each user"),
        ("course: !!python/object/apply:os.system [x]\n", "course: a list is not a text"),
        ("course: &a [*a]\n", "course: a list is not a text"),
        ("course: a\nweb: {port: 6000}\n", "web.port: no browser opens port 6000"),
        ("course: a\nweb: {port: 443}\n", "web.port: 443 is not between 1024 and 65000"),
        ("course: a\nweb: {port: 0x1f90}\n", 'web.port: "0x1f90" is not a whole number'),
        ("course: a\nweb: {port: 8000.0}\n", "is not a whole number"),
        ("course: a\nweb: {names: x}\n", 'web.names: "x" is not a list such as [one, two]'),
        ("course: a\nweb: {names: ['https://x']}\n", "is not the name or address of a host"),
        ("course: a\nweb: {names: ['x:8000']}\n", "is not the name or address of a host"),
        ("course: a\nweb: {bind: [localhost]}\n", '"localhost" is not an IP address'),
        ("course: a\nweb: {frontend: apache}\n", '"apache" is not one of direct or nginx'),
        ("course: a\nweb: {routing: paths}\n", "web.routing: paths needs `frontend: nginx`"),
        ("course: a\nweb: {title: 101}\n", 'web.title: "101" is not a text for YAML (int); put it in quotes'),
        ("course: a\nweb: {title: 'a\n\n  b'}\n", "has several lines"),
        ('course: a\nweb: {contact: "a\\x1b[31m"}\n', "has control characters"),
        (f"course: a\nweb: {{greeting: {'x' * 1001}}}\n", "longer than 1000 characters"),
        ("course: a\nweb: {language: no}\n", 'web.language: "no" is not a text for YAML (bool); put it in quotes'),
        ("course: a\nweb: {language: '<b>'}\n", '"<b>" is not a language such as en, de, fr or pt-BR'),
        ("course: a\nweb: {language: fr}\n", "web.language: for fr name a file with the texts in web.texts"),
        ("course: a\nweb: {time_zone: Mars/Base}\n", '"Mars/Base" is not a zone that this host knows'),
        ("course: a\nweb: {time_zone: /etc/passwd}\n", "is not a zone that this host knows"),
        ("course: a\nmaterial: {source: x}\nweb: {texts: x/t.yaml}\n", "web.texts: /srv/class/x/t.yaml is inside"),
        ("course: a\nlimits: {memory: 20 MB}\n", "limits.memory: a server and one kernel with pandas need 66 MB"),
        ("course: a\nlimits: {cpus: 0}\n", "0 is not between 0.05 and 1024"),
        ("course: a\nlimits: {cpus: many}\n", '"many" is not a number such as 1 or 0.5'),
        ("course: a\nlimits: {processes: 3}\n", "3 is not between 32 and 1000000"),
        ("course: a\nlimits: {disk: 5}\n", '"5" is not a size with a unit'),
        ("course: a\naccounts: {home: /tmp/homes}\n", "with isolation a student's server sees its own /tmp"),
        ("course: a\nnotebook: {spawner: nomad}\n", '"nomad" is not one of forkserver, process or slurm'),
        ("course: a\nretrieve: {max_file: 100}\n", '"100" is not a size with a unit'),
        ("course: a\nretrieve: {max_file: 100 XB}\n", "is not a size with a unit"),
        ("course: a\nretrieve: {max_file: 0 MB}\n", "is not a size that a file can have"),
        ("course: a\naccounts: {uid_range: 29999-20000}\n", "ends before it begins"),
        ("course: a\naccounts: {uid_range: 20000}\n", "is not a range such as 20000-29999"),
        ("course: a\naccounts: {uid_range: 60000-70000}\n", "holds 65534 or 65535"),
        ("course: a\naccounts: {uid_range: 0-999}\n", "0 is below 1000"),
        ("course: a\naccounts: {home: homes}\n", "must be a whole path"),
        ("course: a\naccounts: {home: /}\n", "/ is not a folder for homes"),
        ("course: a\nmaterial: {source: /}\n", "/ is not a folder to hand out"),
        ("course: a\nmaterial: {source: /home}\n", "/home is not a folder to hand out"),
        ("course: a\nmaterial: {source: /home/kim}\n", "/home/kim is a whole home"),
        ("course: a\nmaterial: {source: .}\n", "students: /srv/class/students.csv is inside material.source"),
        ("course: a\nmaterial: {source: x}\nretrieve: {target: x/back}\n", "is inside material.source"),
        ("course: a\nmaterial: {source: x}\ncredentials: x/pw.csv\n", "would be handed out to every student"),
        ("course: a\nmaterial: {source: back/x}\nretrieve: {target: back}\n", "is inside retrieve.target"),
        ("course: a\nretrieve: {target: /}\n", "/ is not a folder for students' work"),
        ("course: a\ncredentials: students.csv\n", "is the roster or the config and would be lost"),
        ("course: a\ncredentials: notebooks.cfg\n", "is the roster or the config and would be lost"),
        ("course: a\nmaterial: {target: ../x}\n", "is not a plain folder name"),
        ("course: a\nmaterial: {target: /x}\n", "is not a plain folder name"),
        ("course: a\nmaterial: {target: .ssh}\n", "is not a plain folder name"),
        ("course: a\nmaterial: {target: a//b}\n", "is not a plain folder name"),
        ('course: a\nmaterial: {target: ""}\n', "is not a plain folder name"),
        ('course: a\nmaterial: {target: "a\\nb"}\n', "is not a plain folder name"),
        ("course: a\ntls: {mode: files}\n", "tls.mode: files needs tls.certificate"),
        ("course: a\ntls: {mode: files, certificate: a, key: b}\n", "every student can read it and pose as this host"),
        ("course: a\ntls: {key: b}\n", "tls.key is used with `mode: files` only"),
        ("course: a\nnotebook: {environment: {A: 1}}\n", 'A: "1" is not a text for YAML (int); put it in quotes'),
        ("course: a\nnotebook: {environment: {1A: x}}\n", "is not a name for a variable"),
        ("course: a\nnotebook: {environment: {A: x, A: y}}\n", "A is there twice"),
        ("course: a\nnotebook: {environment: [A]}\n", "a list is not a list of `NAME: value`"),
        ("course: a\n<<: {web: {port: 9000}}\n", 'unknown key "<<"'),
        ("[" * 5000, "too many brackets"),
        ("course: a\x07\n", "special characters are not allowed"),
        (b"course: \xe9\n", "line 1, byte 9: not UTF-8"),
    ],
)
def test_what_a_config_may_not_say_is_refused(text: str | bytes, words: str) -> None:
    assert any(words in problem for problem in problems(text)), problems(text)


@pytest.mark.parametrize(
    "name", ["HOME", "USER", "LOGNAME", "SHELL", "PATH", "LD_PRELOAD", "PYTHONPATH", "JUPYTER_TOKEN"]
)
def test_the_variables_that_keep_a_server_safe_cannot_be_set(name: str) -> None:
    (words,) = problems(f"course: a\nnotebook: {{environment: {{{name}: x}}}}\n")
    assert f"{name} is set by nblauncher" in words


@pytest.mark.parametrize("course", ["a", "physics-101", "a" * 20])
def test_a_course_name_fits_into_a_group_name(course: str) -> None:
    assert parsed(f"course: {course}\n").course == course


@pytest.mark.parametrize("course", ["A", "1a", "a" * 21, "a_b", "../x", "a b", "é", '"a\\n"'])
def test_a_course_name_that_no_folder_or_group_should_carry_is_refused(course: str) -> None:
    assert any("course" in problem for problem in problems(f"course: {course}\n"))


def test_the_lowest_uid_is_that_of_the_host() -> None:
    with pytest.raises(InputError, match="70000 is below 80000"):
        settings.parse(b"course: a\n", FILE, uid_min=80000)


def test_a_folder_of_the_course_in_a_students_home_is_a_conflict() -> None:
    found = settings.conflicts(
        parsed("course: a\nretrieve: {target: /home/ada/in}\nmaterial: {source: /home/bob/out/x}\n"),
        {"ada": Path("/home/ada"), "bob": Path("/home/bob"), "eve": Path("/home/eve")},
        Path("/home/kim"),
    )
    assert found == [
        "material.source: /home/bob/out/x is inside the home of the student bob",
        "retrieve.target: /home/ada/in is inside the home of the student ada",
    ]


def test_roster_and_config_in_a_students_home_are_a_conflict() -> None:
    course = settings.parse(b"course: a\nstudents: /home/ada/s.csv\n", Path("/home/ada/c/notebooks.cfg"))
    found = settings.conflicts(course, {"ada": Path("/home/ada")}, None)
    assert any("students:" in words for words in found) and any("the config:" in words for words in found)


def test_the_whole_home_of_the_teacher_is_no_material() -> None:
    course = parsed("course: a\nmaterial: {source: /data/kim}\n")
    assert settings.conflicts(course, {}, Path("/data/kim")) != []
    assert settings.conflicts(course, {}, Path("/data/kim/deeper")) != []
    assert settings.conflicts(course, {}, Path("/data")) == []


def test_a_path_that_only_begins_like_a_home_is_no_conflict() -> None:
    course = parsed("course: a\nmaterial: {source: /data/adam/x}\n")
    assert settings.conflicts(course, {"ada": Path("/data/ada")}, None) == []


def test_a_folder_that_holds_students_homes_is_no_material() -> None:
    course = parsed("course: a\nmaterial: {source: /data/all}\n")
    assert settings.conflicts(course, {"ada": Path("/data/all/ada")}, None) == [
        "material.source: /data/all holds the home of the student ada"
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_an_input_error(data: bytes) -> None:
    try:
        settings.parse(data, FILE)
    except InputError as error:
        assert all(problem.isprintable() for problem in error.problems)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["/", "off", "1 GB", "5-9"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=4,
)
_NAMES = sorted({*SECTIONS, *(part for key in SCHEMA for part in key.split("."))})


@given(
    st.dictionaries(st.sampled_from(_NAMES), _VALUES | st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=4))
)
def test_any_yaml_is_settings_or_an_input_error(document: dict[str, object]) -> None:
    try:
        settings.parse(yaml.safe_dump(document).encode(), FILE)
    except InputError as error:
        assert error.problems and all(problem.isprintable() for problem in error.problems)


NO_HOMES = """
/ /usr /usr/local/lib/python3.11/dist-packages /usr/home /bin/homes /lib64/x /etc/cron.d /boot /dev/shm/x /sys/x
/proc/1/root/home /run/x /root/x /tmp/x /var /var/lib/homes /var/spool/cron /var/log/x /var/run/x /var/cache/x
/var/tmp/x /var/www /opt/nblauncher/x /opt /home/../etc/x /srv/venv/lib/python3.12/site-packages
/srv/tools/sudoers.d/x /srv/bin
"""


@pytest.mark.parametrize("folder", NO_HOMES.split())
def test_homes_are_made_nowhere_where_the_system_takes_a_name_for_a_part_of_it(folder: str) -> None:
    found = problems(f"course: physics101\naccounts:\n  home: {folder}\n")
    assert any("line 3: accounts.home: " in one and "is not a folder for homes" in one for one in found)


@pytest.mark.parametrize(
    "folder",
    ["/home", "/home/physics", "/srv", "/srv/homes", "/var/home", "/var/home/x", "/data", "/opt/homes", "/users"],
)
def test_homes_may_be_where_people_keep_them(folder: str) -> None:
    assert parsed(f"course: physics101\naccounts:\n  home: {folder}\n").accounts.home == Path(folder)


def test_a_link_to_a_folder_of_the_systems_is_one(tmp_path: Path) -> None:
    (tmp_path / "homes").symlink_to("/etc")
    found = system_folders.why_no_homes(tmp_path / "homes" / "x")
    assert found.startswith("/tmp is") or "/etc is the system's" in found or "/var/tmp is" in found


@pytest.mark.parametrize("key", ["retrieve:\n  target", "credentials"])
@pytest.mark.parametrize("folder", ["/etc/cron.d/x", "/usr/lib/python3/dist-packages", "/var/spool/cron/x"])
def test_what_students_are_called_is_not_written_where_the_system_looks(key: str, folder: str) -> None:
    assert any("nothing of a course may be in" in one for one in problems(f"course: physics101\n{key}: {folder}\n"))


def with_grading(name: str, *more: str, port: str = "") -> str:
    """A config with this grading.name, in a class with a name of its own."""
    parts = [part for part in (f"name: {name}" if name else "", f"port: {port}" if port else "") if part]
    lines = ["course: a", f"grading: {{{', '.join(parts)}}}", *more]
    return "\n".join([*lines, *([] if any("web:" in line for line in more) else ["web: {names: [class.example.org]}"])])


def test_grading_by_hand_is_reached_one_port_before_the_class_unless_it_has_a_port() -> None:
    assert parsed("course: a\nweb: {port: 9000}\n").grading_port == 8999
    assert parsed("course: a\ngrading: {port: 7001}\n").grading_port == 7001
    assert parsed(with_grading("Grading.Class.Example.org.")).grading.name == "grading.class.example.org"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (with_grading("class.example.org"), "a name of the students' servers"),
        (with_grading("localhost"), "a name of the students' servers"),
        (with_grading("192.0.2.1"), "an address, and a name is needed"),
        (with_grading("grading.class.example.org", "tls: {mode: off}"), "without TLS"),
        (with_grading("marks.example.org"), "the class CA vouches for names below those of web.names"),
        (
            with_grading(
                "marks.example.org",
                "tls: {mode: files, certificate: a, key: b, share_key_with_students: true}",
            ),
            "a student could pose as this name",
        ),
        (
            with_grading(
                "grading.class.example.org",
                "web: {names: [class.example.org], frontend: nginx, routing: hosts}",
            ),
            "a student may have the name",
        ),
        (with_grading("grading.class.example.org", port="8000"), "is web.port"),
        (with_grading("grading.class.example.org", port="6000"), "no browser opens port 6000"),
    ],
)
def test_a_name_for_grading_is_refused_where_students_would_get_its_cookie(text: str, words: str) -> None:
    assert any(words in problem for problem in problems(text)), problems(text)


def test_a_name_for_grading_that_no_student_shares_is_accepted() -> None:
    hosts = "web: {names: [class.example.org], frontend: nginx, routing: hosts}"
    assert parsed(with_grading("hand.grading.class.example.org", hosts)).grading.name
    own = "tls: {mode: files, certificate: a, key: b}", "web: {names: [class.example.org], frontend: nginx}"
    assert parsed(with_grading("marks.example.org", *own)).grading.name
