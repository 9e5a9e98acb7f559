"""Our memory of what we did, in SQLite. Never the truth about the host, and never a secret.

`HostLedger` (host.db) has every account that we made and every port that we assigned; `CourseLedger` (course.db) what
one course has done for its students; `HistoryLedger` (history.db) what their folders contained at which time. An
intention is recorded before the act, its completion after it.

Run by: root.
May import: system.
"""

from nblauncher.ledger.course_ledger import CourseLedger
from nblauncher.ledger.course_records import Arrived, Brought, Capture, Retrieval
from nblauncher.ledger.history_ledger import HistoryLedger, Snapshot, Usage, Version
from nblauncher.ledger.host_ledger import Claim, CourseRecord, HostLedger, Membership
from nblauncher.ledger.locks import locked

__all__ = [
    "Arrived",
    "Brought",
    "Capture",
    "Claim",
    "CourseLedger",
    "CourseRecord",
    "HistoryLedger",
    "HostLedger",
    "Membership",
    "Retrieval",
    "Snapshot",
    "Usage",
    "Version",
    "locked",
]
