"""The owner's IPython profile on its way to the students: read as the owner, refused when it holds secrets.

It goes to each student's `~/.ipython/profile_NAME`, delivered like the material. The owner's profile is looked for in
`~/.ipython` only: a command that runs under sudo does not see the owner's IPYTHONDIR.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.errors import InputError
from nblauncher.exchange import rows
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.send.material import Bundle, Index, bundle_of
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.model import Account, Exclusion
from nblauncher.system import files
from nblauncher.system.streams import Voice, frames_of

MAX_BYTES = 1 << 20
"""Of one file of a profile."""
MAX_FILES = 200

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SECRET = re.compile(
    r"(.*_)?(password|passwd|token|secret|cookie_secret|cookie_secret_file|keyfile|certfile|api_key)", re.IGNORECASE
)
_EMPTY = ("", b"", None, False)
_SETTERS = ("setattr", "setdefault", "putenv", "__setattr__", "__setitem__")
_DEAD = "ipython_notebook_config.py"
_README = b"Python files in this folder run when a kernel of this profile starts, in the order of their names.\n"


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """The `*.py` and `startup/*.py` of a profile, in memory, and what was left out."""

    name: str
    contents: Mapping[str, bytes] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def target(self) -> str:
        """Where it goes, below each home."""
        return f".ipython/profile_{self.name}"

    @property
    def index(self) -> Index:
        items = (Item(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in self.contents.items())
        return Index(tuple(sorted(items, key=lambda item: item.path)), self.exclusions)

    def spool(self, folder: Path, *, versions: ObjectStore | None = None, bases: Iterable[str] = ()) -> Bundle:
        """The contents for `delivery.deliver`, as of `material.spool`."""
        return bundle_of(self.contents, folder, versions=versions, bases=bases)


def read_profile(owner: Account, name: str, *, stall: float = 60.0) -> ProfileFiles:
    """The owner's profile, read and judged by a child that is the owner.

    InputError names every line that sets a secret and every file that is not Python; when the profile is missing, the
    profiles that exist. A profile without a file to hand out gets a README.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not the name of an IPython profile")
    contents: dict[str, bytes] = {}
    exclusions: list[Exclusion] = []
    problems: list[str] = []
    for frame in frames_of(owner, _read, owner.home / ".ipython", name, stall=stall, longest=stall):
        problems += frame.header["problems"]
        if frame.header["kind"] == "file":
            contents[str(frame.header["path"])] = frame.payload
        elif frame.header["kind"] == "excluded":
            exclusions.append(rows.exclusion_from(frame.header))
    if problems:
        raise InputError(problems, "Every student would get it: keep it out of the profile.")
    if not contents:
        contents["startup/README"] = _README
    return ProfileFiles(name, contents, tuple(exclusions))


def kernelspec(python: str, profile: str) -> dict[str, Any]:
    """The `kernel.json` of the kernel `python3`, for a class whose kernels start with the profile.

    Without auto_create, deleting the profile's folder would leave a student without kernels.
    """
    arguments = [f"--profile={profile}", "--BaseIPythonApplication.auto_create=True"] if profile else []
    return {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}", *arguments],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }


def secrets_in(source: bytes, path: str) -> Iterator[str]:
    """A line for each place where Python code sets something named like a secret. Never shows its value.

    Code that cannot be parsed counts as one: what it sets is unknown.
    """
    try:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            for name in _names_set(node):
                if _SECRET.fullmatch(name):
                    yield f"{path} line {getattr(node, 'lineno', '?')} sets {name}"
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        yield f"{path}{line} is not Python that can be checked for secrets"


def _names_set(node: ast.AST) -> Iterator[str]:
    """Names that get a non-empty value: in assignments, keywords, defaults, dict keys, setattr."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _assigned(target, node.value)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
        yield from _assigned(node.target, node.value)
    elif isinstance(node, ast.keyword) and node.arg and not _is_empty(node.value):
        yield node.arg
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and not _is_empty(value):
                yield key.value.rpartition(".")[2]
    elif isinstance(node, ast.arguments):
        arguments = [*node.posonlyargs, *node.args]
        defaults = zip(reversed(arguments), reversed(node.defaults), strict=False)
        yield from (argument.arg for argument, value in defaults if not _is_empty(value))
        keywords = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        yield from (argument.arg for argument, value in keywords if value is not None and not _is_empty(value))
    elif isinstance(node, ast.Call) and len(node.args) >= 2 and _called(node) in _SETTERS:
        key, value = node.args[-2:]
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and not _is_empty(value):
            yield key.value


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[str]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for element in target.elts:
            yield from _assigned(element, value)
        return
    if _is_empty(value):
        return
    if isinstance(target, ast.Attribute):
        yield target.attr
    elif isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        yield str(target.slice.value).rpartition(".")[2]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_empty(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and any(value.value is empty or value.value == empty for empty in _EMPTY)


def _read(output: int, ipython: Path, name: str) -> None:
    """Send the profile's files, each with its problems. Runs as the owner."""
    voice = Voice(output)
    root = _open_profile(ipython, name)
    count = 0
    for above in ("", "startup"):
        try:
            folder = files.open_below(root, above)
        except FileNotFoundError:
            continue
        except OSError:
            _exclude(voice, above, "a link or file, not a folder", incomplete=True)
            continue
        names = [file for file in reversed(files.names_of(folder, 10_000)) if file.endswith(".py")]
        count += len(names)
        if count > MAX_FILES:
            raise InputError(f"the IPython profile {name} has more than {MAX_FILES} Python files")
        for file in names:
            _read_one(voice, file, files.join(above, file), folder)


def _open_profile(ipython: Path, name: str) -> int:
    """The path to the profile may contain links: it is the owner's choice."""
    try:
        return os.open(ipython / f"profile_{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        try:
            found = sorted(
                folder.name.removeprefix("profile_") for folder in ipython.glob("profile_*") if folder.is_dir()
            )
        except OSError:
            found = []
        there = f"There are: {', '.join(found)}." if found else "There is none at all."
        raise InputError(
            f"the IPython profile {name} cannot be read in {ipython}: {os.strerror(error.errno or 0).lower()}",
            f"{there} Make one with `ipython profile create {name}` or change `profile`.",
        ) from error


def _read_one(voice: Voice, name: str, path: str, folder: int) -> None:
    try:
        path.encode("utf-8")
        descriptor, status = files.open_file(name, folder)
    except (OSError, UnicodeEncodeError) as error:
        reason = files.words_of(error) if isinstance(error, OSError) else "its name is not UTF-8"
        reason = "not a file of its own (a link?)" if reason == "changed while it was read" else reason
        _exclude(voice, path, reason, incomplete=True)
        return
    try:
        data = b"".join(files.chunks(descriptor, MAX_BYTES + 1))
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES or status.st_size > MAX_BYTES:
        raise InputError(f"{path} of the IPython profile is larger than {MAX_BYTES} bytes")
    voice.send({"kind": "file", "path": path, "problems": list(secrets_in(data, path))}, data)
    if name == _DEAD:
        reason = "no Jupyter reads this file any more; it is handed out, but does nothing"
        _exclude(voice, path, reason, incomplete=False)


def _exclude(voice: Voice, path: str, reason: str, *, incomplete: bool) -> None:
    voice.send({"kind": "excluded", "problems": [], **rows.exclusion_row(Exclusion(path, reason, incomplete))})
