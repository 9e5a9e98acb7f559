"""Our memory of what we did, in SQLite. Never the truth about the host, and never a secret.

`HostLedger` (host.db) knows every account we made and every port we gave; `CourseLedger` (course.db) knows what one
course has done for its students; `HistoryLedger` (history.db) knows what their folders held when. Intention is written
before the act and completion after it.
"""

from nblauncher.ledger.course_ledger import Arrived, Capture, CourseLedger, Retrieval
from nblauncher.ledger.history_ledger import HistoryLedger, Snapshot, Usage, Version
from nblauncher.ledger.host_ledger import Claim, CourseRecord, HostLedger, Membership
from nblauncher.ledger.locks import locked

__all__ = [
    "Arrived",
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
