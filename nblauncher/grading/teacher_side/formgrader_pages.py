"""What nblauncher changes in the formgrader's pages: requests from elsewhere, and pages that show a student's work.

A submission is a stranger's document on the origin that holds the teacher's session. So its page runs only the scripts
that the page of an empty notebook has (by hash), its HTML is cleaned (`shown_work`), its files are in a sandbox, and
the buttons that would run it as the teacher refuse (docs/security.md, Grading by hand).
"""

from __future__ import annotations

import json
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from nbgrader.server_extensions.formgrader import handlers as formgrader
from tornado import httputil, web
from tornado.routing import Matcher, Rule

from nblauncher.grading.teacher_side import shown_work

FIRST_PAGE = "/formgrader/manage_assignments"
_SANDBOX = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; sandbox"


class FromElsewhere(Matcher):
    """Matches what a page of another origin sent. Ports of a host and hosts of a domain are one site for browsers, and
    a student may serve pages there: `same-site` is as foreign as `cross-site`.
    """

    def __init__(self, scheme: str, host: str) -> None:
        self._scheme, self._host = scheme, host

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        if request.host_name.lower() != self._host:
            return {}  # another name that leads here
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{self._scheme}://{request.host}":
            return {}
        is_own = request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        return None if is_own or _is_arrival(request) else {}


def _is_arrival(request: httputil.HTTPServerRequest) -> bool:
    """Someone followed a link to the first page."""
    headers = request.headers
    is_page = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    return is_page and request.method == "GET" and request.uri == "/"


class Refusal(web.RequestHandler):
    def prepare(self) -> None:
        self.set_status(403)
        self.finish("This address is for the teacher's own tab: type it, or open it from the terminal.")


def guard(scheme: str, host: str) -> Rule:
    """Comes before all other rules of the application."""
    return Rule(FromElsewhere(scheme, host), Refusal)


class FirstPage(JupyterHandler):
    """In place of nbgrader's: its `path` would load the nbgrader_config.py of any folder as a program."""

    @web.authenticated
    def get(self) -> None:
        self.redirect(FIRST_PAGE)


class Submission(formgrader.SubmissionHandler):
    """A student's notebook, for marks and comments."""

    @property
    def exporter(self) -> Submission:
        return self

    def from_filename(self, filename: str, resources: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Called by nbgrader's handler, in place of its exporter's."""
        own = f"{self.request.protocol}://{self.request.host}/formgrader/static/"
        shown = shown_work.page(filename, resources, self.settings["nbgrader_formgrader"].config)
        self.set_header("Content-Security-Policy", shown_work.policy(shown, own))
        return shown.html, resources


class SubmittedFile(formgrader.SubmissionFilesHandler):
    """A file beside the notebook: a picture is shown, a page runs nothing."""

    @property
    def content_security_policy(self) -> str:
        return _SANDBOX


class NotHere(JupyterHandler):
    """A button that would run students' code as the teacher, or use nbgrader's exchange."""

    def initialize(self, instead: str) -> None:
        self._instead = instead

    @web.authenticated
    def post(self, assignment: str, _student: str | None = None) -> None:
        words = f"{self._instead} {assignment}` instead."
        self.finish(json.dumps({"success": False, "log": words, "error": None}))


def handlers() -> list[tuple[Any, ...]]:
    """They come before nbgrader's own."""
    grade = {"instead": "Students' code does not run as the teacher.\nRun `sudo nblauncher grade"}
    send = {"instead": "There is no exchange.\nRun `sudo nblauncher send --assignment"}
    collect = {"instead": "There is no exchange.\nRun `sudo nblauncher retrieve --assignment"}
    feedback = {"instead": "There is no exchange.\nRun `sudo nblauncher feedback"}
    api, name = "/formgrader/api", "([^/]+)"
    return [
        ("/formgrader/?", FirstPage),
        (rf"{api}/submission/{name}/{name}/autograde", NotHere, grade),
        (rf"{api}/assignment/{name}/(?:un)?release", NotHere, send),
        (rf"{api}/assignment/{name}/collect", NotHere, collect),
        (rf"{api}/assignment/{name}/(?:{name}/)?release_feedback", NotHere, feedback),
        (r"/formgrader/submissions/components/(.*)", web.StaticFileHandler, {"path": formgrader.components_path}),
        (rf"/formgrader/submissions/{name}/?", Submission),
        (
            rf"/formgrader/submissions/(?P<submission_id>[^/]+)/{formgrader._navigation_regex}/?",
            formgrader.SubmissionNavigationHandler,
        ),
        (r"/formgrader/submissions/(.*)", SubmittedFile),
    ]
