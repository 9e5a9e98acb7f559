"""What the teacher's child does: read the passwords, make the cards, write the file. Root opens none of these files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.model import Account
from nblauncher.printable import printable
from nblauncher.slips import known, page, pdf
from nblauncher.slips.slip import Course, Slip
from nblauncher.system import private_file, workers

PDF, HTML = FORMS = ("pdf", "html")


@dataclass(frozen=True, slots=True)
class Order:
    """A file of slips to write."""

    file: Path
    form: str
    order: str
    paper: str
    never_in: tuple[Path, ...]
    """Folders that are handed out: what is in them reaches every student."""


def write(
    order: Order,
    course: Course,
    slips: Sequence[Slip],
    credentials: Path,
    hashes: Mapping[str, str],
    renderer: Account,
) -> dict[str, Any]:
    """Write the file, 0600 and atomically; an earlier one is replaced. Answers `unknown`, the students without a
    password, and `without_font`.

    `renderer` makes the PDF: this account, or another one if this is root. RefusedError for a file in a folder of
    `never_in`, InputError for one that cannot be written.
    """
    _refuse_shared(order)
    full = known.filled(slips, credentials, hashes)
    html = page.page(course, full, order.order, order.paper)
    without_font: Sequence[str] = ()
    content = html.encode()
    if order.form == PDF:
        names = {slip.username: f"{slip.shown_name} {slip.shown_section} {slip.shown_seat}" for slip in full}
        content, without_font = _as(renderer, html, names)
    try:
        private_file.replace(order.file, content)
    except OSError as error:
        raise HostError(
            f"{printable(str(order.file))} could not be written: {os.strerror(error.errno or 0).lower()}",
            "An earlier file of that name was left as it is. Name a folder that the teacher can write to.",
        ) from error
    return {
        "unknown": [slip.username for slip in full if not slip.notebook_password.reveal()],
        "without_font": list(without_font),
    }


def _refuse_shared(order: Order) -> None:
    folder = Path(os.path.realpath(order.file.parent))
    if not folder.is_dir():
        raise InputError(f"{printable(str(order.file.parent))} is not a folder", "Nothing was written.")
    for shared in order.never_in:
        real = Path(os.path.realpath(shared))
        if folder == real or real in folder.parents:
            raise RefusedError(
                f"{printable(str(order.file))} would be handed out to every student with {printable(str(shared))}",
                "It holds passwords: name another folder. Nothing was written.",
            )


def _as(renderer: Account, html: str, names: Mapping[str, str]) -> tuple[bytes, Sequence[str]]:
    """The PDF by way of a memory file: an answer is a small JSON text."""
    if renderer.uid == os.geteuid():
        return pdf.made(html, names)
    memory = os.memfd_create("slips", os.MFD_CLOEXEC)
    with os.fdopen(memory, "rb") as stream:
        without_font = workers.run_as(
            renderer, _into, memory, html, names, keep=(memory,), timeout=pdf.longest(len(names)) + 10
        )
        stream.seek(0)
        return stream.read(), [str(name) for name in without_font]


def _into(memory: int, html: str, names: Mapping[str, str]) -> Sequence[str]:
    content, without_font = pdf.made(html, names)
    view, written = memoryview(content), 0
    while written < len(view):
        written += os.pwrite(memory, view[written:], written)
    return without_font
