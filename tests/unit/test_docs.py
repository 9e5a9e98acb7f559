"""README and docs say what the program does: neither less nor more."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nblauncher import errors
from nblauncher.auth.credentials import COLUMNS
from nblauncher.cli import manual, render
from nblauncher.cli.carry_out import EXIT_INTERRUPTED, EXIT_PARTIAL
from nblauncher.cli.main import EXIT_BUG, cli
from nblauncher.commands import retrieve
from nblauncher.config import roster, settings
from nblauncher.exchange.retrieve.scope import CACHES
from tests import envelope as envelopes

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
REFERENCE = TOP / "docs/reference.md"
PACKAGE = TOP / "nblauncher"
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
SHARED = "Options that commands share"

KNOWN_BEGINNINGS = frozenset(
    [
        *("bin", "boot", "dev", "etc", "home", "lib", "mnt", "nonexistent", "opt", "proc", "root", "run", "sbin"),
        *("srv", "sys", "tmp", "usr", "var"),
        *("user", "static", "lab", "formgrader", "nblauncher", "org"),  # of web addresses, and of D-Bus
    ]
)
"""Where a path in a page or in the program may begin; anything else is somebody's own machine."""
PUBLIC_HOSTS = (
    *("example", "example.com", "example.org", "localhost", "127.0.0.1", "python.org", "github.com", "readthedocs.io"),
    *("rfc-editor.org", "ietf.org", "man7.org", "systemd.io", "pypi.org", "owasp.org", "w3.org", "astral.sh"),
    *(
        "cdnjs.cloudflare.com",
        "sqlite.org",
        "debian.org",
        "keepachangelog.com",
        "jupyter.org",
        "freedesktop.org",
        "mozilla.org",
        "chromium.org",
        "openxmlformats.org",
        "no-color.org",
    ),
)


# Reading a page.


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or a higher one."""
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.M)
    assert found, f'there is no heading "{title}"'
    rest = text[found.end() :]
    following = re.search(rf"^#{{1,{len(found[1])}}} ", without_code_lines(rest), re.M)
    return rest[: following.start()] if following else rest


def without_code_lines(text: str) -> str:
    """Of the same length, so that places in it are places in the text."""
    return re.sub(r"^```.*?^```", lambda block: re.sub(r"[^\n]", ".", block[0]), text, flags=re.M | re.S)


def rows(text: str) -> list[list[str]]:
    """The cells of every table, head and rule left out."""
    found: list[list[str]] = []
    for line in without_code(text).splitlines():
        if line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return [cells for cells, before in zip(found, [[], *found], strict=False) if is_body(cells, before, found)]


def is_body(cells: list[str], before: list[str], found: list[list[str]]) -> bool:
    following = found[found.index(cells) + 1] if found.index(cells) + 1 < len(found) else []
    return not is_rule(cells) and not is_rule(following)


def is_rule(cells: list[str]) -> bool:
    return bool(cells) and all(re.fullmatch(r":?-+:?", cell) for cell in cells)


def words_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    made: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_code(text), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in made:
            number += 1
        made.add(name)
    return made


# The command line.


def commands() -> dict[str, click.Command]:
    """By name; an alias is not a command of its own."""
    return {name: command for name, command in cli.commands.items() if command.name == name and not command.hidden}


def options_of(command: click.Command) -> set[str]:
    """Those that `--help` shows."""
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return {name for option in options for name in option.opts}


def documented_options(text: str) -> set[str]:
    return {word.split()[0] for cells in rows(text) for word in words_of(cells[0]) if word.startswith("-")}


def test_every_command_has_a_section_and_no_section_is_invented():
    titles = re.findall(r"^### (.+)$", section(REFERENCE.read_text(), "Commands"), re.M)
    assert sorted(titles) == sorted([*commands(), "ipython_dir", SHARED])


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_commands_synopsis_names_its_options_and_arguments(name):
    command = commands()[name]
    text = section(REFERENCE.read_text(), name)
    synopsis = code_blocks(text, "text")[0]
    assert synopsis.startswith(f"nblauncher {name}")
    assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", synopsis)) == options_of(command)
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert (parameter.metavar or f"[{(parameter.name or '').upper()}]") in synopsis


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_commands_options_are_explained(name):
    text = REFERENCE.read_text()
    own, shared = documented_options(section(text, name)), documented_options(section(text, SHARED))
    assert own <= options_of(commands()[name]), "an option that the command does not have"
    assert options_of(commands()[name]) <= own | shared


def test_no_shared_option_is_invented():
    general = {"-h", "--help", *options_of(cli)}
    known = general.union(*map(options_of, commands().values()))
    assert documented_options(section(REFERENCE.read_text(), SHARED)) <= known
    assert general <= documented_options(section(REFERENCE.read_text(), SHARED))


def test_every_alias_is_named():
    for name, command in cli.commands.items():
        if command.name != name:
            assert f"`{name}`" in section(REFERENCE.read_text(), command.name or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_commands_in_a_page_exist(page):
    text = page.read_text()
    # Not what scripts and prose quote of other programs: only lines that a person types, and `nblauncher ...` in prose.
    typed = [
        line[2:] for block in code_blocks(text, "console") for line in block.splitlines() if line[:2] in ("$ ", "# ")
    ]
    quoted = re.findall(r"`((?:sudo )?nblauncher [^`]+)`", without_code(text))
    for line in [*typed, *quoted]:
        words = shlex.split(line.partition(" # ")[0])
        if "nblauncher" in words:
            check_call(words[words.index("nblauncher") + 1 :], line)
        for word in words:
            if word.startswith("./"):
                assert (TOP / word).is_file(), line


def check_call(words: list[str], line: str) -> None:
    """`[options] COMMAND [options and files]`; a placeholder in capitals stands for any command."""
    general = options_of(cli) | {"-h", "--help", "-vv"}
    command: click.Command | None = None
    for word in words:
        if word in ("|", ">", "&&", ";"):
            return
        if word.startswith("-"):
            allowed = general if command is None else options_of(command) | {"-h", "--help"}
            assert word.split("=")[0] in allowed, f"{word} in: {line}"
        elif command is None and not word.endswith((".cfg", "FILE", "COMMAND")):
            assert word in cli.commands, f"{word} in: {line}"
            command = cli.commands[word]


# The config.


def test_the_commented_sample_is_there_as_init_writes_it():
    assert code_blocks(section(REFERENCE.read_text(), "notebooks.cfg"), "yaml") == [settings.sample()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_config_in_a_page_is_one(page):
    for block in code_blocks(page.read_text(), "yaml"):
        text = block if re.search(r"^course:", block, re.M) else f"course: physics101\n{block}"
        settings.parse(text.encode(), TOP / "notebooks.cfg")


def test_the_sample_class_of_the_checkout_is_one():
    course = settings.parse((TOP / "notebooks.cfg").read_bytes(), TOP / "notebooks.cfg")
    assert course.material.source.is_dir()
    assert len(roster.parse(course.students.read_bytes(), "students.csv")) > 0


# Files that people and programs read.


def test_every_column_of_the_roster_and_of_the_credentials_is_named():
    text = REFERENCE.read_text()
    assert [words_of(cells[0])[0] for cells in rows(section(text, "students.csv"))] == list(roster.COLUMNS)
    assert [words_of(cells[0])[0] for cells in rows(section(text, "credentials.csv"))] == list(COLUMNS)


def test_exit_codes_are_those_of_the_program():
    raised = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    known = {0, click.UsageError.exit_code, *raised, EXIT_PARTIAL, EXIT_BUG, EXIT_INTERRUPTED}
    assert {int(cells[0]) for cells in rows(section(REFERENCE.read_text(), "Exit codes"))} == known
    assert manual.EXIT_CODES.keys() == known


def test_json_keys_are_those_of_the_program():
    envelope = ast.literal_eval(render.envelope("send", "ok", 0))
    text = section(REFERENCE.read_text(), "JSON")
    assert [words_of(cells[0])[0] for cells in rows(section(text, "The envelope"))] == list(envelope)
    assert {"files", "bytes", "exceptions"} == set(retrieve.work_details(0, 0, []))
    added = section(text, "What commands add")
    of_students, of_objects = added.split("The object itself has besides:")
    assert keys_of_commands(of_students) == {form: set(kinds) for form, kinds in envelopes.STUDENT.items()}
    assert keys_of_commands(of_objects) == {form: set(kinds) for form, kinds in envelopes.OBJECT.items()}
    every_object = (
        envelopes.CHANGE,
        envelopes.EXCEPTION,
        envelopes.CAPTURE,
        envelopes.SUBMISSION,
        envelopes.OWN_DEADLINE,
        envelopes.DEADLINE,
    )
    every_object += (envelopes.SNAPSHOT, envelopes.VERSION, envelopes.FINDING, envelopes.HISTORY, envelopes.DRY_RUN)
    assert {key for kinds in every_object for key in kinds} - {*envelopes.COUNTS} <= set(words_of(added))


def keys_of_commands(text: str) -> dict[str, set[str]]:
    """From a table of commands and keys, where `those of X` are X's."""
    cells_of: dict[str, str] = {}
    for cells in rows(text):
        for form in words_of(cells[0]):
            cells_of[form] = cells_of.get(form, "") + re.sub(r"\([^)]*\)", "", cells[1])

    def keys(form: str) -> set[str]:
        others = re.findall(r"of `(\w+)`", cells_of[form])
        return set(words_of(re.sub(r"of `\w+`", "", cells_of[form]))).union(*map(keys, others))

    return {form: keys(form) for form in cells_of}


def test_the_caches_that_remove_leaves_behind_are_listed():
    listed = words_of(section(REFERENCE.read_text(), "Left out of the whole home"))
    assert set(CACHES) <= set(listed)


# Links, names, lines.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [TOP / "docs/how-to.md", REFERENCE], ids=lambda page: page.name)
def test_the_contents_of_a_page_list_all_its_sections(page):
    text = without_code(page.read_text())
    contents = re.findall(r"^- \[(.+)\]\(#.+\)$", text.partition("\n## ")[0], re.M)
    assert contents == re.findall(r"^## (.+)$", text, re.M)


def test_every_page_can_be_reached_from_the_readme():
    reached: set[Path] = set()
    todo = [README]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", without_code(page.read_text()))
        todo += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_lines_are_short_enough_to_read_in_a_terminal(page):
    long = [number for number, line in enumerate(page.read_text().splitlines(), start=1) if len(line) > 120]
    assert long == []


def own_files() -> Iterator[Path]:
    """What belongs to the repository; without git everything that is not hidden or generated."""
    listed = subprocess.run(["git", "-C", TOP, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        yield from (TOP / name for name in listed.stdout.split("\0") if name and (TOP / name).is_file())
        return
    for file in TOP.rglob("*"):
        parts = file.relative_to(TOP).parts
        if file.is_file() and not any(
            part.startswith(".") or part.endswith((".egg-info", "__pycache__")) for part in parts
        ):
            yield file


def test_no_file_names_somebodys_own_machine():
    """Hosts are public or examples; pages and the program name only folders that every host has."""
    problems = []
    for file in own_files():
        text = file.read_bytes().decode("utf-8", "replace")
        where = file.relative_to(TOP)
        for host in re.findall(r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)+)", text):
            is_public = any(host == one or host.endswith(f".{one}") for one in PUBLIC_HOSTS)
            if not is_public and not re.fullmatch(r"(127|192\.0\.2|198\.51\.100|203\.0\.113|10)\.[0-9.]+", host):
                problems.append(f"{where}: {host}")
        if where.parts[0] in ("nblauncher", "docs", "benchmarks") or where.suffix in (".md", ".sh", ".cfg"):
            problems += [f"{where}: {path}" for path in strange_paths(text)]
    assert problems == []


def strange_paths(text: str) -> Iterator[str]:
    for path in re.findall(r"(?:(?<=[\s\"'`(=])|^)(/[a-z][a-z0-9-]+(?:/[\w.-]+)+)", text, re.M):
        if path.split("/")[1] not in KNOWN_BEGINNINGS:
            yield path


def test_every_package_that_is_needed_has_its_reason():
    needed = re.search(r"install_requires=\[(.*?)\]", (TOP / "setup.py").read_text(), re.S)
    assert needed
    names = re.findall(r'"([A-Za-z0-9-]+)', needed[1])
    titles = re.findall(r"^## (.+)$", (TOP / "docs/decisions/packages.md").read_text(), re.M)
    assert sorted(names) == sorted(titles)


def test_every_test_that_a_promise_names_is_there():
    """The table promise -> test of docs/security.md."""
    table = section((TOP / "docs/security.md").read_text(), "Which test would notice")
    named = re.findall(r"\| `(\w+)` \| ([\w/]+) \|", table)
    assert len(named) > 30
    for name, file in named:
        assert f"def {name}(" in (TOP / "tests" / f"{file}.py").read_text(), f"{file} has no {name}"


# What docstrings and comments cite.

CITATION = re.compile(
    r"(docs/[\w/-]+\.md)(?:,\s+(?:promises?\s+((?:\d+(?:, | and )?)+)|([A-Z][\w `'-]*\w|[a-z]+\.(?:cfg|csv))))?"
)
"""`docs/security.md, promise 3`, `docs/security.md, promises 2 and 3`, `docs/deadlines.md, What happens`, or a page."""


def cited() -> Iterator[tuple[str, str, list[str], str]]:
    """File, page, the numbers of promises, a heading; of programs, not of pages, whose links are tried above."""
    for file in own_files():
        if file.suffix in (".py", ".sh", ".toml", ".cfg") or file.name == "Makefile":
            for page, numbers, heading in CITATION.findall(file.read_text()):
                yield str(file.relative_to(TOP)), page, re.findall(r"\d+", numbers), heading


def test_every_page_promise_and_heading_that_the_code_cites_is_there():
    promises = set(re.findall(r"^(\d+)\. ", section((TOP / "docs/security.md").read_text(), "What is promised"), re.M))
    assert len(promises) > 9
    missing = []
    for file, page, numbers, heading in cited():
        if not (TOP / page).is_file():
            missing.append(f"{file}: {page}")
            continue
        missing += [
            f"{file}: promise {number}" for number in numbers if page != "docs/security.md" or number not in promises
        ]
        headings = re.findall(r"^#+ (.+)$", without_code((TOP / page).read_text()), re.M)
        if heading and heading not in headings:
            missing.append(f"{file}: {page}, {heading}")
    assert missing == []


def test_a_promise_is_cited_with_its_page_and_no_file_cites_what_is_not_in_the_repository():
    abroad = "DES" + "IGN"
    for file in own_files():
        text = file.read_bytes().decode("utf-8", "replace")
        assert abroad not in text, file
        if file.suffix == ".py" and file != Path(__file__):
            bare = re.findall(r"(?<!docs/security\.md, )\bpromises? \d", text)
            assert bare == [], f"{file}: say which page, docs/security.md"


def test_every_promise_has_a_test():
    page = (TOP / "docs/security.md").read_text()
    promises = re.findall(r"^(\d+)\. ", section(page, "What is promised"), re.M)
    assert promises == [str(number) for number in range(1, len(promises) + 1)]
    assert set(promises) <= {cells[0] for cells in rows(section(page, "Which test would notice"))}


@pytest.mark.skipif(not (TOP / "nblauncher/exchange/send").is_dir(), reason="the modules have not moved yet")
def test_every_file_that_the_map_of_the_package_names_is_there():
    """Contributing: paths from the top or from nblauncher/; a name without a folder is said beside its folder."""
    text = (TOP / "CONTRIBUTING.md").read_text()
    named = re.findall(
        r"(?:^|[\s`(])((?:\w+/)+(?:\w+\.py)?)(?=[\s`,.:;)]|$)", section(text, "A map of the package"), re.M
    )
    inner = {"running/", "deadlines/", "teaching/", "send/", "retrieve/", "history/", "merge/", "spawners/"}
    assert len(named) > 20
    assert [one for one in named if one not in inner and not any((top / one).exists() for top in (TOP, PACKAGE))] == []
    rooms = {words_of(cells[0])[0] for cells in rows(section(text, "A map of the package")) if "`" in cells[0]}
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert folders <= rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_test_that_a_page_names_is_there(page):
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text()):
        assert (TOP / file).is_file(), f"{page.name}: {file}"
        assert f"def {name}" in (TOP / file).read_text(), f"{page.name}: {file}::{name}"


# Decisions.


def test_every_decision_has_a_date_and_a_status_and_the_index_shows_both():
    index = TOP / "docs/decisions/README.md"
    listed = {re.sub(r"^\[.*\]\((.*)\)$", r"\1", cells[0]): cells[1:] for cells in rows(index.read_text())}
    pages = {page.name: page for page in index.parent.glob("*.md") if page != index}
    assert sorted(listed) == sorted(pages)
    for name, page in pages.items():
        found = re.search(r"^# .+\n\nDate: (\d{4}-\d{2}-\d{2})\. Status: (.+)\.$", page.read_text(), re.M)
        assert found, f"{name}: the third line is: Date: 2026-11-28. Status: accepted."
        assert re.fullmatch(r"accepted|superseded by \[.+\]\([a-z-]+\.md\)", found[2]), name
        assert listed[name] == [found[1], found[2]], name


# The changelog.


def test_the_changelog_has_the_form_of_keep_a_changelog():
    titles = re.findall(r"^(##|###) (.+)$", without_code((TOP / "CHANGELOG.md").read_text()), re.M)
    releases = [title for level, title in titles if level == "##"]
    assert releases[0] == "Unreleased"
    assert all(re.fullmatch(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d{2}-\d{2}", title) for title in releases[1:])
    kinds = {title for level, title in titles if level == "###"}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
