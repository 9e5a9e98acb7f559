"""A real client of a notebook server, as a browser would be one: signs in, runs cells, opens terminals."""

from __future__ import annotations

import json
import re
import ssl
import uuid
from pathlib import Path
from typing import Any

import httpx
import websocket

DEADLINE = 90


class JupyterClient:
    """Talks to `https://localhost:PORT/user/NAME/`. `ca` is the class CA's certificate file, None without TLS."""

    def __init__(self, username: str, port: int, ca: Path | None, host: str = "localhost") -> None:
        scheme = "https" if ca else "http"
        self.ca = ca
        self.origin = f"{scheme}://{host}:{port}"
        self.base = f"/user/{username}/"
        verify: Any = ssl.create_default_context(cafile=str(ca)) if ca else True
        self.http = httpx.Client(base_url=self.origin + self.base, verify=verify, timeout=DEADLINE)

    def __enter__(self) -> JupyterClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def sign_in(self, password: str) -> httpx.Response:
        """Fill in the server's own form."""
        form = self.http.get("login").text
        found = re.search(r'name="_xsrf" value="([^"]+)"', form)
        assert found, form
        return self.http.post("login", data={"_xsrf": found[1], "password": password})

    def api(self, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"X-XSRFToken": self.http.cookies.get("_xsrf") or "", "Referer": self.origin + self.base}
        response = self.http.request(method, f"api/{path}", headers=headers, **content)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:1000]}"
        return response

    def start_kernel(self) -> str:
        return str(self.api("POST", "kernels", json={"name": "python3"}).json()["id"])

    def run(self, code: str, kernel: str | None = None) -> str:
        """Run one cell; its text output, errors included."""
        kernel = kernel or self.start_kernel()
        session, message = uuid.uuid4().hex, uuid.uuid4().hex
        connection = self.connect(f"api/kernels/{kernel}/channels?session_id={session}")
        try:
            header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": session}
            request = {
                "header": {**header, "version": "5.3", "date": "2026-01-01T00:00:00Z"},
                "parent_header": {},
                "metadata": {},
                "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
                "channel": "shell",
                "buffers": [],
            }
            connection.send(json.dumps(request))
            return _collect(connection, message)
        finally:
            connection.close()

    def terminal(self, command: str, until: str) -> str:
        """Type a command into a new terminal and read until the text comes."""
        name = self.api("POST", "terminals").json()["name"]
        connection = self.connect(f"terminals/websocket/{name}")
        try:
            connection.send(json.dumps(["stdin", f"{command}\r"]))
            seen = ""
            while until not in seen:
                kind, *content = json.loads(connection.recv())
                if kind == "stdout":
                    seen += content[0]
            return seen
        finally:
            connection.close()

    def connect(self, path: str) -> websocket.WebSocket:
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        address = self.origin.replace("http", "ws", 1) + self.base + path
        options = {"ca_certs": str(self.ca)} if self.ca else None
        return websocket.create_connection(
            address, timeout=DEADLINE, cookie=cookies, origin=self.origin, sslopt=options
        )


def _collect(connection: websocket.WebSocket, message: str) -> str:
    text = ""
    while True:
        received = json.loads(connection.recv())
        if received["parent_header"].get("msg_id") != message:
            continue
        content = received["content"]
        match received["msg_type"]:
            case "stream":
                text += content["text"]
            case "execute_result":
                text += content["data"]["text/plain"]
            case "error":
                text += "\n".join(content["traceback"])
            case "status" if content["execution_state"] == "idle":
                return text
