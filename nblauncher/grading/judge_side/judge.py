"""Grade one submission: nbgrader's own steps in nbgrader's order, but those that write the teacher's gradebook.

The order comes from the teacher's child over a socket, with the notebooks as texts; the answer goes back over it. The
gradebook that nbgrader's steps read here is a copy that holds this assignment and no student.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import Exporter, NotebookExporter
from nbformat.v4.rwbase import strip_transient
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, Execute, SaveAutoGrades
from nbgrader.utils import determine_grade, is_grade
from traitlets.config import Config

from nblauncher.errors import HostError
from nblauncher.grading import parcels, shortcuts
from nblauncher.grading.judge_side import executing, kernels, known_cells, restoring
from nblauncher.isolation import views

_MOST_TAKEN = 200 << 20
_MOST_LINES = 50
_MOST_TRACE = 4000
_LATER = (SaveAutoGrades, AssignLatePenalties)
"""What the teacher's child does with the result."""


def run(_connection: socket.socket, _order: Mapping[str, Any], channel: int, gradebook: int) -> int:
    """`channel` leads to the teacher's child, `gradebook` is a sealed memory file. The exit status."""
    try:
        _judge(channel, gradebook)
    except Exception:  # a bug, or a host without room: the teacher's log gets it
        parcels.put(channel, "broken", traceback.format_exc()[-_MOST_TRACE:].encode(errors="replace"))
        return 1
    return 0


def rehearse(text: str, name: str, assignment: str, student: str, database: str) -> str:
    """All steps but the execution, in a process that judges are forked from; the notebook's text afterwards."""
    kernel: Mapping[str, Any] = {
        "argv": [],
        "environment": {},
        "folder": "",
        "socket": "",
        "place": "/",
        "language_info": {},
    }
    about = {"assignment": assignment, "student": student, "cells": {}, "config": {}, "kernel": kernel}
    return _Judge({**about, "output": 1, "seconds": 1}, database).rehearsed(name, text)


def _judge(channel: int, gradebook: int) -> None:
    taken = list(parcels.take(channel, most=_MOST_TAKEN))
    order = next((parcel.json() for parcel in taken if parcel.kind == "order"), None)
    if order is None:  # the teacher's child ended
        return
    notebooks = {parcel.name: parcel.data for parcel in taken if parcel.kind == "notebook"}
    database = Path.home() / "gradebook.db"
    os.lseek(gradebook, 0, os.SEEK_SET)
    with open(gradebook, "rb") as source:
        database.write_bytes(source.read())
    lines = _Lines()
    logging.getLogger().addHandler(lines)
    known_cells.Known(order["assignment"], order["cells"], order["kernelspecs"]).install()
    shortcuts.trust(f"sqlite:///{database}")
    judge = _Judge(order, f"sqlite:///{database}")
    for name in sorted(notebooks):
        about = judge.graded(name, notebooks[name])
        if (text := about.pop("text", None)) is not None:
            parcels.put(channel, "graded", text.encode("utf-8", "surrogatepass"), name)
        parcels.put_json(channel, "about", {"notebook": name, **about, "log": lines.taken()})
    parcels.put(channel, parcels.END)


class _Judge:
    def __init__(self, order: Mapping[str, Any], database: str) -> None:
        self._order, self._database = order, database
        config = Config(order["config"])
        config.CourseDirectory.db_url = database
        kernel = {**order["kernel"], "folder": str(views.HOME / order["assignment"])}
        config.SubmissionKernelManager.spec = kernel
        kernels.SubmissionKernelManager.most_bytes = order["output"]
        self._until = time.monotonic() + order["seconds"]
        # What the teacher configured for Execute holds for this subclass as well.
        config.ConfinedExecute.until = self._until
        config.ConfinedExecute.language_info = kernel["language_info"]
        config.ConfinedExecute.most_output = order["output"]
        config.ConfinedExecute.raise_on_iopub_timeout = True
        self._config = config
        self._exporter = NotebookExporter(config=config)
        converter = Autograde(coursedir=CourseDirectory(config=config), config=config)
        self._cleaning = list(converter.sanitize_preprocessors)
        self._grading = [step for step in converter.autograde_preprocessors if step not in _LATER]

    def graded(self, name: str, data: bytes) -> dict[str, Any]:
        """What became of one notebook: its `text` when it was graded, `error` when not."""
        try:
            given = nbformat.reads(data.decode("utf-8"), as_version=4)
            flags = restoring.restored(given, self._order["cells"].get(name, {}))
            cleaned = strip_transient(self._converted(given, self._cleaning, name))
            with _executing():
                text, execute = self._executed(cleaned, name)
        except Exception as error:  # whatever nbgrader and its libraries raise for what a student wrote
            return {"error": _words(error), "trace": traceback.format_exc()[-_MOST_TRACE:]}
        return {"text": text, "flags": [*flags, *execute.events], "ended": execute.ended}

    def rehearsed(self, name: str, text: str) -> str:
        steps = [*self._cleaning, *(step for step in self._grading if step is not Execute)]
        return nbformat.writes(self._converted(nbformat.reads(text, as_version=4), steps, name), version=4) + "\n"

    def _converted(self, notebook: Any, steps: list[Any], name: str) -> Any:
        """As nbgrader's converter does it, with one exporter for all notebooks. It would write the result to a file and
        read it again before the next steps; it is the same then.
        """
        self._exporter._preprocessors = []
        for step in steps:
            self._exporter.register_preprocessor(step)
        return Exporter.from_notebook_node(self._exporter, notebook, resources=self._resources(name))[0]

    def _executed(self, notebook: Any, name: str) -> tuple[str, executing.ConfinedExecute]:
        execute = executing.ConfinedExecute(config=self._config)
        execute.allow_errors = True  # with nbgrader not a part of the config
        graded = self._converted(notebook, [execute if step is Execute else step for step in self._grading], name)
        text = nbformat.writes(graded, version=4) + "\n"
        for cell in graded.cells:
            if is_grade(cell):
                determine_grade(cell)  # what nbgrader refuses, it must not refuse halfway in the gradebook
        return text, execute

    def _resources(self, name: str) -> dict[str, Any]:
        about = {
            "student": self._order["student"],
            "assignment": self._order["assignment"],
            "notebook": name,
            "db_url": self._database,
        }
        return {"unique_key": name, "output_files_dir": f"{name}_files", "nbgrader": about, "metadata": {"path": ""}}


class _Lines(logging.Handler):
    """The last warnings, for the teacher's log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            self._kept = [*self._kept, record.getMessage()[:500]][-_MOST_LINES:]

    def taken(self) -> list[str]:
        kept, self._kept = self._kept, []
        return kept


@contextlib.contextmanager
def _executing() -> Iterator[None]:
    """As nbgrader.converters.Autograde does."""
    os.environ["NBGRADER_EXECUTION"] = "autograde"
    try:
        yield
    finally:
        del os.environ["NBGRADER_EXECUTION"]


def _words(error: Exception) -> str:
    if isinstance(error, (nbformat.reader.NotJSONError, UnicodeDecodeError)):
        return "it is not a notebook: not JSON"
    if isinstance(error, HostError):
        return error.problem
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")
