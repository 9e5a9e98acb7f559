"""notebooks.cfg: one schema for the parser, the checks, the commented sample and the reference. Pure."""

from __future__ import annotations

from nblauncher.config.settings.parser import parse
from nblauncher.config.settings.rules import conflicts
from nblauncher.config.settings.sample import course_name, sample
from nblauncher.config.settings.values import (
    DEFAULT_PRELOAD,
    AccountSettings,
    GradingSettings,
    HistorySettings,
    MailSettings,
    NotebookSettings,
    RetrieveSettings,
    Settings,
    TlsSettings,
    WebSettings,
)

__all__ = [
    "DEFAULT_PRELOAD",
    "AccountSettings",
    "GradingSettings",
    "HistorySettings",
    "MailSettings",
    "NotebookSettings",
    "RetrieveSettings",
    "Settings",
    "TlsSettings",
    "WebSettings",
    "conflicts",
    "course_name",
    "parse",
    "sample",
]
