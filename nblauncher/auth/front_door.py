"""The way from a student's address to the front page, and back to the page that the visitor requested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode

from tornado.httputil import HTTPServerRequest

_PORT = re.compile(r":[0-9]+$")
_ONWARD = re.compile(r"[A-Za-z0-9_~!$&'()*+,;=:@/?%.-]{1,1000}")
_STEPS_UP = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\]")


@dataclass(frozen=True, slots=True)
class FrontDoor:
    """The front page, for a browser that reached this server: the same host without the student's label, on the front
    page's port.
    """

    port: int
    own_label: str

    def host(self, request: HTTPServerRequest) -> str:
        return _PORT.sub("", request.host).lower().removeprefix(self.own_label)

    def origin(self, request: HTTPServerRequest) -> str:
        default = {"https": 443, "http": 80}[request.protocol]
        port = "" if self.port == default else f":{self.port}"
        return f"{request.protocol}://{self.host(request)}{port}"

    def page(self, request: HTTPServerRequest, username: str = "", onward: str = "") -> str | None:
        """Its address, with the username filled in and the page to open after sign-in; None if the request's Host is
        not valid.
        """
        if not _HOST.fullmatch(self.host(request)):
            return None
        query = f"?{urlencode({'next': onward})}" if onward else ""
        return f"{self.origin(request)}/{username}{query}"


def onward_of(path: str, base_url: str) -> str:
    """A path relative to base_url; empty if it is not below base_url or might lead somewhere else."""
    rest = path.removeprefix(base_url)
    is_here = path.startswith(base_url) and _ONWARD.fullmatch(rest) and not _STEPS_UP.search(rest)
    return rest if is_here and not rest.startswith("/") else ""
