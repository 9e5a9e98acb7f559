"""The packages that a course installs for its kernels (notebook.requirements): lines of a requirements file. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nblauncher.errors import InputError
from nblauncher.printable import printable

_LONGEST = 500
_ADDRESS = re.compile(r"[A-Za-z0-9+.-]+://")
"""An address without a name in front: only pip can find out what it holds."""
_OPTIONS_OF_ONE = re.compile(r"\s--\S.*")
"""`--hash=...` and similar options after a package."""

_USUAL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?: ?(?:==|>=|<=|~=|!=|<|>) ?[0-9]+\.[0-9]+(?:\.[0-9]+)*)?", re.ASCII
)
"""`numpy`, `pandas>=2.2`: accepted without `packaging`, which takes long to import."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines as pip reads them: names, versions, markers, addresses; no options and no paths."""

    lines: tuple[str, ...]


def parse(content: bytes, source: str) -> Requirements:
    """The lines of a requirements file. InputError with every line that is not a requirement."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}, byte {error.start + 1}: not UTF-8", "Nothing was changed.") from None
    lines, problems = [], []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if line and (why := objection(line)):
            problems.append(f"{source} line {number}: {why}")
        elif line:
            lines.append(line)
    if problems:
        raise InputError(problems, "Nothing was changed.")
    return Requirements(tuple(lines))


def objection(line: str) -> str:
    """Why this is not a requirement that we accept; empty when it is."""
    shown = f'"{printable(line if len(line) <= 60 else line[:57] + "...")}"'
    if line.startswith("-"):
        return f"{shown} is an option; where packages come from belongs in /etc/pip.conf"
    if re.match(r"[./~\\]|file:", line) or re.search(r"@\s*(file:|[./~])", line):
        return f"{shown} is a path, and the account that builds packages cannot read other users' files"
    if not re.match(r"[A-Za-z0-9]", line) or line.endswith("\\") or not line.isprintable() or len(line) > _LONGEST:
        return f"{shown} is not a package such as numpy or pandas>=2.2"
    if not _ADDRESS.match(line) and not _USUAL.fullmatch(line):
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            Requirement(_OPTIONS_OF_ONE.sub("", line))
        except InvalidRequirement as error:
            why = str(error).splitlines()[0].partition(": ")[0]
            return f"{shown} is not a package such as numpy or pandas>=2.2 ({printable(why)})"
    return ""
