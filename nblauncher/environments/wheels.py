"""The wheels of a course's packages: chosen, fetched and built by an account that owns nothing, taken over by root.

A source distribution already runs code when pip asks for its dependencies, so nothing that ran beside it is believed.
Therefore these steps follow each other, each in a new folder and an enclosure of its own:

    choose   pip resolves (network): only names and versions are taken from this step
    fetch    pip downloads the chosen wheels (network) and runs none of their code
    build    each source distribution alone: fetch it and its build requirements (network), then build (no network)

A package can influence the versions of others, as it can by its metadata, but not the content of their wheels. Root
copies the chosen wheels from each folder, by descriptor, and hashes what it copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from nblauncher.errors import HostError
from nblauncher.isolation import enclosure
from nblauncher.isolation.enclosure import Enclosed
from nblauncher.model import Account
from nblauncher.printable import printable

HINT = (
    "The log has all of it. Correct notebook.requirements and run `nblauncher setup` again; kernels still have what "
    "they had before."
)
BUILDING = 3600.0

_PIP = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input")
"""The pip of nblauncher's own Python."""

_QUIET = ("--no-cache-dir", "--progress-bar", "off")
_SCRIPT = Path(__file__).with_name("source_package.py")
_PATH = "/usr/bin:/bin"
_PASSED_ON = re.compile(
    r"(?i)(https?|no|all)_proxy|PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|CERT|TRUSTED_HOST|DEFAULT_TIMEOUT)"
    r"|SSL_CERT_FILE|REQUESTS_CA_BUNDLE"
)
"""Root's variables that say where packages come from."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"((git|hg|svn|bzr)\+)?(https?|ssh)://[\x21-\x7e]{1,2000}")
_DIRECT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*@\s*(\S+)")
_SUBFOLDER = re.compile(r"(?!/)(?!.*\.\.)[\w./-]{0,200}", re.ASCII)
_SUM = re.compile(r"[a-z0-9]+=[0-9a-f]+")
_MOST_BYTES = 4 << 30
"""In one wheel."""

_MOST_REPORTED = 256 << 20
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """A package and version that the resolver chose. `address`: where the teacher said it is; else from the index."""

    name: str
    version: Version
    is_wheel: bool
    address: str = ""
    subfolder: str = ""

    @property
    def line(self) -> str:
        return f"{self.name} @ {self.address}" if self.address else f"{self.name}=={self.version}"

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Chosen:
        """An entry of the report, which a package may have forged. ValueError when it is malformed."""
        name, version = given["metadata"]["name"], Version(given["metadata"]["version"])
        download = given["download_info"]
        url, repository = download["url"], download.get("vcs_info", {})
        if not _NAME.fullmatch(name):
            raise ValueError("a name")
        is_wheel = urlsplit(url).path.endswith(".whl") and not repository
        if not given["is_direct"]:
            return cls(canonicalize_name(name), version, is_wheel)
        subfolder = download.get("subdirectory", "")
        if repository:
            url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
        if not _ADDRESS.fullmatch(url) or not _SUBFOLDER.fullmatch(subfolder):
            raise ValueError("an address")
        ending = [f"subdirectory={subfolder}"] if subfolder else []
        if digest := download.get("archive_info", {}).get("hash"):
            if not _SUM.fullmatch(digest):
                raise ValueError("a sum")
            ending.append(digest)
        return cls(
            canonicalize_name(name), version, is_wheel, "#".join([url, *filter(None, ["&".join(ending)])]), subfolder
        )


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folder and the account for all steps: `folder` is root's, and empty."""

    folder: Path
    builder: Account
    environment: Mapping[str, str]

    def stage(self, name: str, files: Mapping[str, str]) -> Path:
        """A new folder with these files, for one program."""
        home = self.folder / name
        home.mkdir(mode=0o700)
        for folder in ("scratch", "wheels"):
            (home / folder).mkdir(mode=0o700)
            os.chown(home / folder, self.builder.uid, self.builder.gid)
        for file, text in files.items():
            (home / file).write_text(text, encoding="utf-8")
            (home / file).chmod(0o600)
            os.chown(home / file, self.builder.uid, self.builder.gid)
        os.chown(home, self.builder.uid, self.builder.gid)
        return home

    def run(self, home: Path, argv: Sequence[str], *, has_network: bool, timeout: float = BUILDING) -> str:
        """Why it failed; empty when it succeeded."""
        passed_on = {name: value for name, value in self.environment.items() if _PASSED_ON.fullmatch(name)}
        own = {"PATH": _PATH, "HOME": str(home), "TMPDIR": f"{home}/scratch", "LANG": "C.UTF-8"}
        links = [Path(word) for word in passed_on.get("PIP_FIND_LINKS", "").split() if word.startswith("/")]
        program = Enclosed(argv, {**passed_on, **own}, home, has_network, tuple(links))
        return enclosure.run(self.builder, program, timeout=timeout)


def provide(target: Path, lines: Sequence[str], workshop: Workshop) -> dict[str, str]:
    """Everything that these lines require, as wheels in the new folder `target`. Their sha256 by file name."""
    given: dict[str, str] = {canonicalize_name(match[1]): match[2] for line in lines if (match := _DIRECT.match(line))}
    # pip's report omits the credentials in an address.
    chosen = [
        replace(package, address=given.get(package.name, package.address)) for package in _choose(lines, workshop)
    ]
    target.mkdir(mode=0o755)
    hashes = _fetch([package for package in chosen if package.is_wheel], target, workshop)
    for number, package in enumerate(package for package in chosen if not package.is_wheel):
        hashes |= _build(package, f"build-{number}", target, workshop)
    return hashes


def _choose(lines: Sequence[str], workshop: Workshop) -> tuple[Chosen, ...]:
    home = workshop.stage("choose", {"wanted.txt": _listed(lines)})
    command = [*_PIP, "install", *_QUIET, "--dry-run", "--ignore-installed", "--no-user", "--use-pep517", "--quiet"]
    command += ["--report", "report.json", "--requirement", "wanted.txt"]
    succeed(workshop.run(home, command, has_network=True))
    try:
        with _opened(home, workshop.builder, "report.json", _MOST_REPORTED) as stream:
            chosen = tuple(Chosen.parse(entry) for entry in json.load(stream)["install"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidVersion) as error:
        raise HostError(f"the course's packages cannot be built: pip's report is not one ({error})", HINT) from error
    if len({package.name for package in chosen}) != len(chosen):
        raise HostError("the course's packages cannot be built: pip's report names a package twice", HINT)
    return chosen


def _fetch(chosen: Sequence[Chosen], target: Path, workshop: Workshop) -> dict[str, str]:
    """pip checks each against the index's sum. No code of a wheel runs here."""
    if not chosen:
        return {}
    home = workshop.stage("fetch", {"wanted.txt": _listed(package.line for package in chosen)})
    command = [*_PIP, "download", *_QUIET, "--no-deps", "--only-binary", ":all:", "--quiet"]
    succeed(workshop.run(home, [*command, "--dest", "wheels", "--requirement", "wanted.txt"], has_network=True))
    return _take(home, chosen, target, workshop.builder)


def _build(package: Chosen, stage: str, target: Path, workshop: Workshop) -> dict[str, str]:
    home = workshop.stage(stage, {"wanted.txt": _listed([package.line])})
    python = (sys.executable, "-I", str(_SCRIPT))
    succeed(workshop.run(home, [*python, "prepare", package.name, package.subfolder], has_network=True))
    succeed(workshop.run(home, [*python, "build"], has_network=False))
    return _take(home, [package], target, workshop.builder)


def _listed(lines: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(lines) + "\n"


def succeed(why: str) -> None:
    """HostError if a step failed; the log has all of it."""
    if why:
        lines = [printable(line) for line in why.splitlines()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise BuildFailed(f"the course's packages cannot be built: {' '.join(errors)[:600]}", "\n".join(lines))


class BuildFailed(HostError):
    """`output` is everything that the step printed."""

    def __init__(self, problem: str, output: str) -> None:
        super().__init__(problem, HINT)
        self.output = output


def _take(home: Path, chosen: Sequence[Chosen], target: Path, builder: Account) -> dict[str, str]:
    """Copy exactly the chosen wheels; their hashes. They do not change any more, but other files may be there."""
    wanted = {package.name: package.version for package in chosen}
    hashes = {}
    try:
        with _entered(home, "wheels") as folder:
            for file in sorted(os.listdir(folder)):
                name, version = _named(file)
                if name is None or wanted.pop(name, None) != version:
                    raise HostError(f"the course's packages cannot be built: {printable(file)} is not among them", HINT)
                hashes[file] = _copied(file, folder, target, builder)
    except OSError as error:
        raise HostError(f"the built packages cannot be taken over: {error.strerror}", HINT) from error
    if wanted:
        raise HostError(f"the course's packages cannot be built: {', '.join(wanted)} is missing", HINT)
    return hashes


def _named(file: str) -> tuple[str | None, Version | None]:
    try:
        name, version, _build, _tags = parse_wheel_filename(file)
    except (InvalidWheelFilename, InvalidVersion):
        return None, None
    return name, version


@contextlib.contextmanager
def _entered(home: Path, name: str) -> Iterator[int]:
    """The builder's folder in the one that root made; no link is followed."""
    how = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    outer = os.open(home, how)
    try:
        folder = os.open(name, how, dir_fd=outer) if name else os.dup(outer)
    finally:
        os.close(outer)
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def _opened(home: Path, builder: Account, name: str, most: int) -> Iterator[Any]:
    try:
        with _entered(home, "") as folder, os.fdopen(_plain(name, folder, builder, most), "rb") as stream:
            yield stream
    except OSError as error:
        raise HostError(f"what pip wrote cannot be read: {error.strerror}", HINT) from error


def _plain(name: str, folder: int, builder: Account, most: int) -> int:
    """HostError for anything but the builder's own file."""
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    facts = os.fstat(source)
    is_file = stat.S_ISREG(facts.st_mode) and facts.st_uid == builder.uid and facts.st_nlink == 1
    if not is_file or facts.st_size > most:
        os.close(source)
        raise HostError(f"the course's packages cannot be built: {printable(name)} is not pip's file", HINT)
    return source


def _copied(name: str, folder: int, target: Path, builder: Account) -> str:
    """The sha256 of what was copied."""
    digest = hashlib.sha256()
    with os.fdopen(_plain(name, folder, builder, _MOST_BYTES), "rb") as stream, open(target / name, "xb") as copy:
        while part := stream.read(_PART):
            digest.update(part)
            copy.write(part)
    return digest.hexdigest()
