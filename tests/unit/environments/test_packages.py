"""What a course wants installed: which lines are taken, and when `setup` builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nblauncher.commands import packages
from nblauncher.commands.packages import Environment
from nblauncher.config import requirements, settings
from nblauncher.config.requirements import Requirements
from nblauncher.environments import course_packages
from nblauncher.environments.wheels import Chosen
from nblauncher.errors import InputError
from nblauncher.forkserver import renewal
from nblauncher.forkserver.bare_python import bare
from nblauncher.preflight import kernels

FILE = Path("/srv/class/notebooks.cfg")


def config(text: str) -> settings.Settings:
    return settings.parse(f"course: physics101\nnotebook: {{{text}}}".encode(), FILE)


def test_a_requirements_file_is_its_lines_without_comments():
    content = b"\xef\xbb\xbf# the course\nnumpy\r\npandas>=2.2  # tables\n\nscipy[all]; python_version > '3.9'\nx @ https://example.org/c.whl#e=1\n"
    assert requirements.parse(content, "requirements.txt").lines == (
        "numpy",
        "pandas>=2.2",
        "scipy[all]; python_version > '3.9'",
        "x @ https://example.org/c.whl#e=1",
    )


@pytest.mark.parametrize(
    "line, why",
    [
        ("-e .", "is an option"),
        ("--index-url https://example.org/evil", "is an option"),
        ("-r other.txt", "is an option"),
        ("./wheels/x.whl", "is a path"),
        ("/etc/passwd", "is a path"),
        ("~/x", "is a path"),
        ("file:///etc/passwd", "is a path"),
        ("x @ file:///etc/passwd", "is a path"),
        ("numpy \\", "is not a package"),
        ("numpy>=", "is not a package"),
        ("numpy = 2", "is not a package"),
        ("pandas 2.2", "is not a package"),
        ("$(id)", "is not a package"),
        ("x\x1b[2J", "is not a package"),
        ("x" * 501, "is not a package"),
    ],
)
def test_what_is_no_package_is_refused_with_its_line_and_all_at_once(line, why):
    with pytest.raises(InputError) as caught:
        requirements.parse(f"numpy\n{line}\n-q\n".encode(), "requirements.txt")
    first, last = caught.value.problems
    assert first.startswith("requirements.txt line 2: ") and why in first and first.isprintable()
    assert last.startswith("requirements.txt line 3: ")
    with pytest.raises(InputError, match=why.replace("(", "")):
        config(f"requirements: [numpy, {line!r}]" if line.isprintable() else 'requirements: ["x\\e[2J"]')


def test_whatever_pip_takes_is_taken():
    lines = (
        "numpy>=2,<3",
        'scipy[extra] ~=1.14 ; python_version < "3.14"',
        "pendulum @ https://example.org/pendulum-1.whl",
        "git+https://example.org/waves.git@v1#egg=waves",
        "toys==1 --hash=sha256:00",
    )
    assert requirements.parse("\n".join(lines).encode(), "requirements.txt").lines == lines


def test_a_config_names_a_file_or_a_list_but_not_a_python_as_well():
    assert config("requirements: requirements.txt").notebook.requirements == Path("/srv/class/requirements.txt")
    listed = config('requirements: [numpy, "pandas>=2"]')
    assert packages.wanted(listed, {}) == Requirements(("numpy", "pandas>=2"))
    with pytest.raises(InputError, match="choose one"):
        config("requirements: [numpy], kernel_python: /opt/x/bin/python")


def test_the_file_is_part_of_the_course():
    named = config("requirements: requirements.txt")
    assert packages.wanted(named, {packages.CONTENT: b"numpy\n"}) == Requirements(("numpy",))
    assert settings.conflicts(named, {"ada": Path("/srv/class")}, None)[-1].startswith("notebook.requirements: ")


def test_an_environment_is_another_one_when_the_lines_change():
    one, other = (course_packages.digest_of(Requirements(lines)) for lines in (("numpy",), ("numpy", "pandas")))
    assert one != other and one == course_packages.digest_of(Requirements(("numpy",)))


def test_only_a_finished_environment_is_used(tmp_path):
    wanted = Requirements(("numpy",))
    folder = tmp_path / course_packages.digest_of(wanted)
    assert course_packages.current(tmp_path) is None
    folder.mkdir()
    (tmp_path / "current").symlink_to(folder.name)
    assert course_packages.current(tmp_path) is None and not course_packages.is_built(tmp_path, wanted)
    (folder / course_packages.HASHES).write_text("{}")
    assert course_packages.current(tmp_path) == folder and course_packages.is_built(tmp_path, wanted)
    assert not course_packages.is_built(tmp_path, Requirements(("pandas",)))
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(folder)  # another account's link
    assert course_packages.current(tmp_path) is None


def test_check_says_that_setup_is_to_build_the_packages():
    course = config("requirements: [numpy, pandas]")
    (found,) = kernels.packages(course, Requirements(("numpy", "pandas")))
    assert (found.level, found.hint) == ("warning", "`nblauncher setup` builds them.")
    assert found.message == "the course's packages (2 asked for) are not installed yet"
    assert list(kernels.preloading(course, ())) == [] and list(kernels.packages(course, None)) == []


def reported(**more):
    item = {
        "metadata": {"name": "Nbt_Built", "version": "1.0"},
        "download_info": {"url": "https://example.org/nbt_built-1.0.tar.gz"},
        "is_direct": False,
    }
    return {**item, **more}


def test_of_what_the_resolver_says_only_name_and_version_count():
    chosen = Chosen.parse(reported())
    assert (chosen.line, chosen.is_wheel) == ("nbt-built==1.0", False)
    wheel = Chosen.parse(reported(download_info={"url": "file:///tmp/evil-9-py3-none-any.whl"}))
    assert (wheel.line, wheel.is_wheel) == ("nbt-built==1.0", True), "fetched again, from the index"


def test_an_address_of_the_teachers_is_kept_with_its_sum_and_commit():
    about = {"url": "https://example.org/x.zip", "archive_info": {"hash": "sha256=ab"}, "subdirectory": "python"}
    assert Chosen.parse(reported(download_info=about, is_direct=True)).line == (
        "nbt-built @ https://example.org/x.zip#subdirectory=python&sha256=ab"
    )
    about = {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    assert Chosen.parse(reported(download_info=about, is_direct=True)).line == (
        "nbt-built @ git+https://example.org/x.git@c0ffee"
    )


@pytest.mark.parametrize(
    "forged",
    [
        {"metadata": {"name": "--index-url", "version": "1"}},
        {"metadata": {"name": "x\ny", "version": "1"}},
        {"metadata": {"name": "x", "version": "1\n-e ."}},
        {"is_direct": True, "download_info": {"url": "file:///etc/passwd"}},
        {"is_direct": True, "download_info": {"url": "https://example.org/x y"}},
        {"is_direct": True, "download_info": {"url": "https://example.org/x", "subdirectory": "../../etc"}},
        {"is_direct": True, "download_info": {"url": "https://example.org/x", "archive_info": {"hash": "a\n-e ."}}},
    ],
    ids=str,
)
def test_a_forged_report_is_refused(forged):
    with pytest.raises(ValueError):
        Chosen.parse(reported(**forged))


def test_the_host_lock_is_not_held_while_packages_are_built(tmp_path):
    """`change` carries out a preparation before it takes the locks."""
    wanted = Requirements(("numpy",))
    build, use = packages.phases_of(Environment(tmp_path), wanted)
    assert build.is_preparation and [step.describe() for step in build.steps] == [
        "build and install the course's packages (1 requested)"
    ]
    assert not use.is_preparation and [step.describe() for step in use.steps] == [
        "use the course's packages for new kernels"
    ]
    made = tmp_path / course_packages.digest_of(wanted)
    made.mkdir()
    (made / course_packages.HASHES).write_text("{}")
    build, use = packages.phases_of(Environment(tmp_path), wanted)
    assert not build.steps and use.steps
    course_packages.use(tmp_path, wanted)
    assert packages.phases_of(Environment(tmp_path), wanted) == ()


def test_only_paths_in_the_environments_pth_files_count_for_root(tmp_path, monkeypatch):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = tmp_path / "lib" / version / "site-packages"
    (folder / "beside").mkdir(parents=True)
    ran = tmp_path / "ran"
    (folder / "a.pth").write_text(f"# a\nimport os; open({str(ran)!r}, 'w')\nbeside\nmissing\nimport\tos\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = len(sys.path)
    renewal._add_paths(str(folder))
    assert sys.path[before:] == [str(folder), str(folder / "beside")] and not ran.exists()


def test_the_fork_server_starts_without_the_environments_packages(tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = bare(str(environment / "bin/python"), tmp_path / "bare")
    if os.geteuid() != 0:
        assert python == str(environment / "bin/python"), "its configuration is not root's"
        return
    code = "import sys; print([one for one in sys.path if 'site-packages' in one], sys.base_prefix)"
    said = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == f"[] {sys.base_prefix}\n"
