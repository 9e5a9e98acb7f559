"""What a course wants installed: which lines are taken, and when `setup` builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher import environments, requirements, settings
from nblauncher.commands import packages
from nblauncher.errors import InputError
from nblauncher.preflight import kernels
from nblauncher.requirements import Requirements

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
    one, other = (environments.digest_of(Requirements(lines)) for lines in (("numpy",), ("numpy", "pandas")))
    assert one != other and one == environments.digest_of(Requirements(("numpy",)))


def test_only_a_finished_environment_is_used(tmp_path):
    wanted = Requirements(("numpy",))
    folder = tmp_path / environments.digest_of(wanted)
    assert environments.current(tmp_path) is None
    folder.mkdir()
    (tmp_path / "current").symlink_to(folder.name)
    assert environments.current(tmp_path) is None and not environments.is_built(tmp_path, wanted)
    (folder / environments.HASHES).write_text("{}")
    assert environments.current(tmp_path) == folder and environments.is_built(tmp_path, wanted)
    assert not environments.is_built(tmp_path, Requirements(("pandas",)))
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(folder)  # somebody else's link
    assert environments.current(tmp_path) is None


def test_check_says_that_setup_is_to_build_the_packages():
    course = config("requirements: [numpy, pandas]")
    (found,) = kernels.packages(course, Requirements(("numpy", "pandas")))
    assert (found.level, found.hint) == ("warning", "`nblauncher setup` builds them.")
    assert found.message == "the course's packages (2 asked for) are not installed yet"
    assert list(kernels.preloading(course, ())) == [] and list(kernels.packages(course, None)) == []
