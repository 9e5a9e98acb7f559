"""A student's share of the history, and how much of it is used, in an answer and in words."""

from __future__ import annotations

from typing import Any

from nblauncher.ledger import Usage
from nblauncher.planning.host import Host
from nblauncher.system import memory


def of_each(host: Host) -> int:
    """Each student's share of the budget in bytes."""
    return host.settings.history.budget // max(1, len(host.ledger.members(host.settings.course)))


def details(usage: Usage, share: int) -> dict[str, Any]:
    """A student's part of the answers of `snapshot` and `status` (docs/reference.md)."""
    return {"history_bytes": usage.used, "history_share": share, "history_above_share": usage.needed > share}


def words(usage: Usage, share: int) -> str:
    """For `status`: that a student's versions do not fit, empty when they do."""
    if usage.needed <= share:
        return ""
    return f"versions need {memory.words(usage.needed)}, and the share of the history is {memory.words(share)}"
