"""The passwords that the teacher's credentials file still knows. Runs as the teacher: root never reads the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from nblauncher.auth import credentials, passwords
from nblauncher.model import Secret
from nblauncher.slips.slip import Slip

_PASSWORD = re.compile(r"[!-~]{8,200}")
_AS_BEFORE = "(as before)"


def filled(slips: Iterable[Slip], file: Path, hashes: Mapping[str, str]) -> list[Slip]:
    """The slips with passwords. A notebook password that is not the one of the hash is left out: it opens nothing."""
    rows = credentials.read(file)
    given = [(slip, rows.get(slip.username, {})) for slip in slips]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = pool.map(lambda one: _is_right(one[1], hashes.get(one[0].username, "")), given)
        return [_filled(slip, row, is_right) for (slip, row), is_right in zip(given, right, strict=True)]


def _is_right(row: Mapping[str, str], hashed: str) -> bool:
    typed = row.get("notebook_password", "")
    return bool(hashed and _PASSWORD.fullmatch(typed)) and passwords.is_right(typed, hashed)


def _filled(slip: Slip, row: Mapping[str, str], is_right: bool) -> Slip:
    system = row.get("system_password", "")
    is_password = bool(_PASSWORD.fullmatch(system)) and not system.startswith("(")
    return replace(
        slip,
        notebook_password=Secret(row["notebook_password"] if is_right else ""),
        system_password=Secret(system if is_password else ""),
        keeps_system_password=system == _AS_BEFORE,
    )
