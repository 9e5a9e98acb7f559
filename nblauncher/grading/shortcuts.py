"""What nbgrader and its libraries do again and again with the same result, done once in a process.

Loads nbgrader: only in the environment that grades.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import nbgrader.api
from nbformat.notebooknode import NotebookNode
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

jsonschema: Any = importlib.import_module("jsonschema")

_ATOMS = frozenset({str, int, float, bool, type(None)})


def install() -> GradebookEngine:
    """For this process and all that it forks."""
    engine = GradebookEngine()
    nbgrader.api.create_engine = engine
    nbgrader.api.Base.metadata.create_all = engine.create_tables
    nbgrader.api.inspect = engine.inspect
    nbgrader.api.Gradebook.check_course = engine.checked_course(nbgrader.api.Gradebook.check_course)
    NotebookNode.__deepcopy__ = lambda node, _memo: _copied(node)  # type: ignore[method-assign]
    jsonschema.validate = _Validate()
    return engine


def rest() -> None:
    """Close the gradebook's connections. One that was replaced by another file meanwhile is looked at anew."""
    if isinstance(engine := nbgrader.api.create_engine, GradebookEngine):
        engine.rest()


def trust(url: str) -> None:
    """This gradebook was made by nbgrader a moment ago: it has its tables and the course that it has by default."""
    if isinstance(engine := nbgrader.api.create_engine, GradebookEngine):
        engine.trust(url)


class GradebookEngine:
    """In place of sqlalchemy's `create_engine`: one engine for the gradebook that a process opens first.

    nbgrader opens it for every step, and each new engine would compile all statements anew. Prepared before a fork, it
    knows them already.
    """

    def __init__(self) -> None:
        self._url = ""
        self._engine: Engine = create_engine("sqlite://", creator=self._connect, poolclass=QueuePool, future=True)
        self._create_tables = nbgrader.api.Base.metadata.create_all
        self._has_tables = False
        self._file: tuple[int, int] | None = None
        self._courses: set[str] = set()

    def __call__(self, url: str, **given: Any) -> Engine:
        if make_url(url).drivername == "sqlite" and url in (self._url, self._url or url):
            self._url = url
            return self._engine
        return create_engine(url, **given)

    def create_tables(self, bind: Engine, **given: Any) -> None:
        """A gradebook keeps its tables: looking for all of them takes longer than a step."""
        if bind is not self._engine or not self._has_tables:
            self._create_tables(bind=bind, **given)
            if bind is self._engine:
                self._has_tables, self._file = True, self._identity()

    def inspect(self, subject: Any) -> Any:
        """nbgrader asks whether there are tables each time it opens a gradebook."""
        return self if subject is self._engine and self._has_tables else inspect(subject)

    def get_table_names(self) -> Sequence[str]:
        return tuple(nbgrader.api.Base.metadata.tables)

    def checked_course(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """The course is in the gradebook once it was looked for."""

        def check_course(book: Any, course_id: str = "default_course", **given: Any) -> Any:
            if book.engine is not self._engine or given:
                return check(book, course_id, **given)
            if course_id not in self._courses:
                check(book, course_id)
                self._courses.add(course_id)
            return None

        return check_course

    def trust(self, url: str) -> None:
        self._url, self._has_tables, self._courses = url, True, {"default_course"}
        self._file = self._identity()

    def rest(self) -> None:
        self._engine.dispose()
        if self._file != self._identity():
            self._has_tables, self._courses = False, set()

    def forget(self) -> None:
        """Before a fork: the next gradebook is another one."""
        self._engine.dispose()
        self._url, self._has_tables, self._courses = "", False, set()

    def _identity(self) -> tuple[int, int] | None:
        if not self._url:
            return None
        try:
            facts = os.stat(str(make_url(self._url).database))
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(str(make_url(self._url).database), check_same_thread=False)


def _copied(value: Any) -> Any:
    """A deep copy of a notebook, which is a tree. `copy.deepcopy` also looks for what is in it twice."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_copied(one) for one in value]
    if kind is NotebookNode:
        new = NotebookNode.__new__(NotebookNode)
        vars(new).update(vars(value))
        for key, one in value.items():
            dict.__setitem__(new, key, _copied(one))
        return new
    return copy.deepcopy(value)


class _Validate:
    """In place of `jsonschema.validate`, which checks the schema itself each time, ten times longer than the instance.

    nbgrader does so for each of its cells.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._validate = jsonschema.validate

    def __call__(self, instance: Any, schema: Any, *more: Any, **given: Any) -> None:
        if more or given:
            self._validate(instance, schema, *more, **given)
            return
        text = json.dumps(schema, sort_keys=True)
        if text not in self._known:
            kind = jsonschema.validators.validator_for(schema)
            kind.check_schema(schema)
            self._known[text] = kind(schema)
        error = jsonschema.exceptions.best_match(self._known[text].iter_errors(instance))
        if error is not None:
            raise error
