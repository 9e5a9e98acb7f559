"""A real client of a notebook server, as a browser would be one: signs in, runs cells, opens terminals."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import websocket

DEADLINE = 90
_NUDGE = 1.0
_SHOWN = ("image/", "application/vnd.")


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

    def sign_in(self, password: str, **ticked: str) -> httpx.Response:
        """Fill in the server's own form. `ticked` are its other fields."""
        form = self.http.get("login").text
        found = re.search(r'name="_xsrf" value="([^"]+)"', form)
        assert found, form
        return self.http.post("login", data={"_xsrf": found[1], "password": password, **ticked})

    def api(self, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"X-XSRFToken": self.http.cookies.get("_xsrf") or "", "Referer": self.origin + self.base}
        response = self.http.request(method, f"api/{path}", headers=headers, **content)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:1000]}"
        return response

    def log_out(self) -> httpx.Response:
        """As the button on the pages does it."""
        return self.http.post("logout", data={"_xsrf": self.http.cookies.get("_xsrf") or ""})

    def start_kernel(self) -> str:
        return str(self.api("POST", "kernels", json={"name": "python3"}).json()["id"])

    def run(self, code: str, kernel: str | None = None, answer: str | None = None) -> str:
        """Run one cell; its text output, errors included. `answer` is what it gets from input()."""
        with self.notebook(kernel or self.start_kernel()) as notebook:
            return notebook.run(code, answer)

    @contextlib.contextmanager
    def notebook(self, kernel: str) -> Iterator[Notebook]:
        """A tab that shows the kernel's notebook."""
        session = uuid.uuid4().hex
        connection = self.connect(f"api/kernels/{kernel}/channels?session_id={session}")
        try:
            yield Notebook(connection, session)
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


class Notebook:
    """One connection to a kernel's channels."""

    def __init__(self, connection: websocket.WebSocket, session: str) -> None:
        self.connection, self.session = connection, session

    def send(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any] | None = None) -> str:
        """Send a message; its id."""
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": kind, "username": "", "session": self.session}
        request = {
            "header": {**header, "version": "5.3", "date": "2026-01-01T00:00:00Z"},
            "parent_header": parent or {},
            "metadata": {},
            "content": content,
            "channel": channel,
            "buffers": [],
        }
        self.connection.send(json.dumps(request))
        return message

    def receive(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted."""
        while True:
            received = json.loads(self.connection.recv())
            if wanted(received):
                return received

    def wait_for_new_kernel(self) -> None:
        """Ask a kernel that was restarted until its answers arrive here, as a page does: the first ones may be lost."""
        asked: set[str] = set()
        patience = self.connection.gettimeout()
        self.connection.settimeout(_NUDGE)
        try:
            for _ in range(int(DEADLINE / _NUDGE)):
                asked.add(self.send("shell", "kernel_info_request", {}))
                with contextlib.suppress(websocket.WebSocketTimeoutException):
                    self.receive(lambda one: one["channel"] == "iopub" and one["parent_header"].get("msg_id") in asked)
                    return
        finally:
            self.connection.settimeout(patience)
        raise AssertionError(f"the new kernel did not answer within {DEADLINE} s")

    def begin(self, code: str, *, allow_stdin: bool = False) -> str:
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": allow_stdin}
        return self.send("shell", "execute_request", content)

    def run(self, code: str, answer: str | None = None) -> str:
        return self.finish(self.begin(code, allow_stdin=answer is not None), answer)

    def finish(self, message: str, answer: str | None = None) -> str:
        """What the cell showed until it was done."""
        text = ""
        while True:
            received = self.receive(lambda one: one["parent_header"].get("msg_id") == message)
            content = received["content"]
            match received["msg_type"]:
                case "stream":
                    text += content["text"]
                case "execute_result" | "display_data":
                    text += content["data"].get("text/plain", "")
                    text += "".join(f"[{kind}]" for kind in content["data"] if kind.startswith(_SHOWN))
                case "error":
                    text += "\n".join(content["traceback"])
                case "input_request":
                    self.send("stdin", "input_reply", {"value": answer}, received["header"])
                case "status" if content["execution_state"] == "idle":
                    return text

    def ask_debugger(self, command: str, **arguments: Any) -> str:
        content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        return self.send("control", "debug_request", content)

    def debug(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask the kernel's debugger; its answer."""
        message = self.ask_debugger(command, **arguments)
        answer = self.receive(
            lambda one: one["msg_type"] == "debug_reply" and one["parent_header"].get("msg_id") == message
        )
        return dict(answer["content"])
