"""Trust on arrival: notebooks that hold only the teacher's outputs are signed as the student.

Jupyter shows the JavaScript, widgets and SVG saved in a notebook only when its content is signed with the student's own
key (https://jupyter-server.readthedocs.io/en/latest/operators/security.html, "Notebook trust"). Key and signatures are
in the student's home, so a child that is the student makes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from nblauncher.errors import HostError
from nblauncher.exchange.students import student
from nblauncher.model import Account
from nblauncher.system import workers

_LONGEST = 20.0


def load() -> None:
    """Import what signing needs before the children are forked."""
    from nblauncher.exchange.send import notary  # noqa: F401 — importing nbformat takes longer than many commands


def sign(
    account: Account, target: str, wanted: Mapping[str, str], spool: int, given: Mapping[str, tuple[int, int]]
) -> int:
    """Sign, as the student, the notebooks with these contents (sha256 by path below `target`); how many were signed.

    A content comes from the spool if that has it (`given`: offset and size by sha256), else from its file in the home
    if that still holds it. What is not a notebook is not signed, whatever its name: nothing in it could run.
    RefusedError for uid 0. HostError when the student's key or database is unusable.
    """
    student(account)
    from nblauncher.exchange.send import notary

    arguments = (account.home, target, dict(wanted), spool, dict(given), _LONGEST)
    try:
        return int(workers.run_as(account, notary.sign, *arguments, keep={spool}, timeout=_LONGEST))
    except HostError as error:
        raise HostError(f"the notebooks are not trusted: {error.problem}", error.hint) from error
