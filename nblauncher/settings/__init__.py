"""notebooks.cfg: one schema for the parser, the checks, the commented sample and the reference. Pure."""

from __future__ import annotations

from nblauncher.settings.parser import parse
from nblauncher.settings.rules import conflicts
from nblauncher.settings.sample import course_name, reference, sample
from nblauncher.settings.values import (
    DEFAULT_PRELOAD,
    AccountSettings,
    HistorySettings,
    NotebookSettings,
    RetrieveSettings,
    Settings,
    TlsSettings,
    WebSettings,
)

__all__ = [
    "DEFAULT_PRELOAD",
    "AccountSettings",
    "HistorySettings",
    "NotebookSettings",
    "RetrieveSettings",
    "Settings",
    "TlsSettings",
    "WebSettings",
    "conflicts",
    "course_name",
    "parse",
    "reference",
    "sample",
]
