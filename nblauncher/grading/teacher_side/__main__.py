"""`PYTHON foreign.py nblauncher.grading.teacher_side.__main__ VERB`: one order on stdin, one answer on stdout, as JSON.

An order is an object; its keys are the arguments of the verb's function `act` in the module of that name. The answer is
`{"result": ...}`, or `{"problem": ..., "hint": ...}` for what the teacher can mend. What nbgrader logs goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback

from nblauncher.errors import NblauncherError
from nblauncher.system import late_grammar  # noqa: F401 — before jsonschema

VERBS: tuple[str, ...] = ("course_setup", "release", "survey", "feedback", "grades")
"""Modules of this package with a function `act`."""


def main(arguments: list[str]) -> int:
    (verb,) = arguments
    if verb not in VERBS:
        raise ValueError(f"{verb} is not a verb")
    order = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not the answer
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"nblauncher.grading.teacher_side.{verb}")
        try:
            said = {"result": module.act(**order)}
        except NblauncherError as error:
            said = {"kind": type(error).__name__, "problem": error.problem, "hint": error.hint}
        except OSError as error:  # a full disk, a folder that is not the teacher's
            traceback.print_exc()
            where = f" ({error.filename})" if error.filename else ""
            said = {"kind": "HostError", "problem": f"{error.strerror or error}{where}", "hint": ""}
    with answer:
        json.dump(said, answer)
    return 0
