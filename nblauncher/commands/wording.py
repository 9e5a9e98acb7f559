"""What students' pages say, and in which language: web.title, web.language, web.texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace

from nblauncher.auth.appearance import Appearance
from nblauncher.config import texts
from nblauncher.config.settings import Settings
from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import InputError, RefusedError
from nblauncher.paths import CoursePaths
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import root_files

log = logging.getLogger(__name__)

CONTENT = "texts.yaml"
"""The name under which the teacher's texts are read and kept."""


def appearance(settings: Settings) -> Appearance:
    """What all pages of the class have in common."""
    web = settings.web
    return Appearance(web.title or settings.course, web.language, settings.texts, web.time_zone)


def with_texts(settings: Settings, contents: MutableMapping[str, bytes], allowed_uids: frozenset[int]) -> Settings:
    """Reads web.texts into `contents`. InputError or RefusedError when it cannot be used."""
    file = settings.web.texts
    if file is None:
        return settings
    contents[CONTENT] = read_trusted(file, allowed_uids=allowed_uids, max_bytes=texts.MOST_BYTES)
    return _with(settings, contents)


def with_texts_or_accepted(
    settings: Settings, contents: MutableMapping[str, bytes], allowed_uids: frozenset[int]
) -> Settings:
    """For commands that stop a class, or look at it: a file that is gone must not keep them from it."""
    try:
        return with_texts(settings, contents, allowed_uids)
    except (InputError, RefusedError) as error:
        log.warning("the texts that were accepted last are used: %s", error.problem)
        contents.pop(CONTENT, None)
        return with_accepted(settings)


def with_accepted(settings: Settings) -> Settings:
    """With the texts that were accepted last, or none."""
    file = CoursePaths(settings.course).accepted / CONTENT
    try:
        return _with(settings, {CONTENT: file.read_bytes()}) if settings.web.texts else settings
    except (OSError, InputError):
        return settings


def require(host: Host, contents: Sequence[tuple[str, bytes]]) -> None:
    """InputError if a teacher starts a class whose texts could not be read."""
    file = host.settings.web.texts
    if file is not None and contents and CONTENT not in dict(contents):
        raise InputError(
            f"web.texts: {printable(str(file))} cannot be used", "Nothing was changed. `nblauncher check` says why."
        )


def write(host: Host) -> None:
    """For the pages of students' servers and of the porter. OSError when the runtime folder cannot be written."""
    root_files.replace(host.paths.appearance, appearance(host.settings).to_bytes(), mode=0o644)


def is_written(host: Host) -> bool:
    try:
        return host.paths.appearance.read_bytes() == appearance(host.settings).to_bytes()
    except OSError:
        return False


def _with(settings: Settings, contents: Mapping[str, bytes]) -> Settings:
    name = settings.web.texts.name if settings.web.texts else CONTENT
    return replace(settings, texts=texts.parse(contents[CONTENT], printable(name)))
