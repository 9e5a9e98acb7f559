"""What a forked process must have anew: all that Python and libraries computed for the process it was forked from.

CPython itself reseeds `random` and renews locks and thread numbers (os.register_at_fork); OpenSSL notices a fork too.
What stays shared is written in docs/security.md: the layout of memory and the hash seed.
"""

from __future__ import annotations

import locale
import logging
import os
import signal
import site
import sys
import tempfile
import time
from collections.abc import Mapping


def renew(environment: Mapping[str, str], title: str) -> None:
    """In the child, as the student, before anything else of it runs. `title` becomes sys.argv."""
    _use_pythons_signals()
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    locale.setlocale(locale.LC_CTYPE, _known_locale())
    tempfile.tempdir = None
    site.USER_BASE = site.USER_SITE = None
    sys.argv[:] = [title]
    # The fork server's own log: a server's modules begin without a handler, as after an exec.
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _use_pythons_signals() -> None:
    """As CPython sets them when it starts (Python/pylifecycle.c, Modules/signalmodule.c)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def _known_locale() -> str:
    """That of the environment; C where the host does not know it, as for a Python that starts."""
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        return "C"
    return locale.setlocale(locale.LC_CTYPE)
