"""Trust on arrival: notebooks that hold nobody's outputs but the teacher's are signed as the student.

Jupyter shows the JavaScript, widgets and SVG saved in a notebook only when its content is signed with the student's own
key (https://jupyter-server.readthedocs.io/en/latest/operators/security.html, "Notebook trust"). Key and signatures are
in the student's home, so a child that is the student makes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from nblauncher import workers
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account

_LONGEST = 20.0


def load() -> None:
    """Have in memory what signing needs, before a child is forked for it."""
    from nblauncher import notary  # noqa: F401 — nbformat takes longer than many a command


def sign(
    account: Account, target: str, wanted: Mapping[str, str], spool: int, given: Mapping[str, tuple[int, int]]
) -> int:
    """Sign, as the student, the notebooks with these contents (sha256 by path below `target`); how many were signed.

    A content is taken from the spool where it is there (`given`: offset and size by sha256), else from its file in the
    home, if that still holds it. What is no notebook, whatever its name, is not signed: nothing in it could run.
    RefusedError for uid 0. HostError when the student's key or database is unusable.
    """
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    from nblauncher import notary

    arguments = (account.home, target, dict(wanted), spool, dict(given), _LONGEST)
    try:
        return int(workers.run_as(account, notary.sign, *arguments, keep={spool}, timeout=_LONGEST))
    except HostError as error:
        raise HostError(f"the notebooks are not trusted: {error.problem}", error.hint) from error
