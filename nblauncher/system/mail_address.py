"""Mail addresses as they may stand in the header of a mail: one address, without a way to end the line. Pure."""

from __future__ import annotations

import re

_LOCAL = r"[^\s@,;:<>()\[\]\\\"\x00-\x20\x7f]{1,64}"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_ADDRESS = re.compile(rf"(?P<local>{_LOCAL})@(?P<domain>(?:{_LABEL}\.)*{_LABEL})")
_MAILBOX = re.compile(r"\s*\"?(?P<name>[^<>\"]*?)\"?\s*<(?P<address>[^<>]*)>\s*")
_LONGEST = 254
_LONGEST_NAME = 100


def address(text: str) -> str:
    """The address in the form that SMTP takes, its domain in ASCII. ValueError, in words, for anything else."""
    plain = text.strip()
    match = _ADDRESS.fullmatch(plain)
    if match is None or not plain.isprintable() or match["local"].strip(".") != match["local"]:
        raise ValueError("is not a mail address")
    try:
        found = f"{match['local']}@{match['domain'].encode('idna').decode('ascii')}"
    except UnicodeError:
        raise ValueError("is not a mail address") from None
    if len(found.encode()) > _LONGEST:
        raise ValueError("is not a mail address")
    return found


def mailbox(text: str) -> tuple[str, str]:
    """Name and address of `Physics <kim@uni.example>` or `kim@uni.example`. ValueError in words."""
    match = _MAILBOX.fullmatch(text)
    name = match["name"] if match else ""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError("has a name that cannot stand in a mail")
    return name, address(match["address"] if match else text)
