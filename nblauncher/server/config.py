"""What a notebook server is given at its start. Without Jupyter, which the writers of it need not import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nblauncher.model import COOKIE_BEHIND_PROXY


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All that a server is given. It travels as bytes in a sealed memory file: `to_bytes`, `parse`."""

    username: str
    hashed_password: str = field(repr=False)
    port: int
    front_port: int
    tickets_socket: str
    home: str
    target: str
    """The material folder below the home; the student lands there."""
    settings_folder: str
    """class_files.settings_folder of the class."""
    interface: str = "notebook"
    idle_stop: float = 0.0
    """Idle seconds after which it ends; 0: never."""
    is_behind_proxy: bool = False
    """The headers about the client are believed: only the class's proxy can reach its socket. On a node others can,
    and a false scheme or address is of no use to them: `system.clients` looks at the connection.
    """
    own_label: str = ""
    """What precedes the front page's host in the server's own, with its dot."""
    appearance: str = ""
    """The file with the class's title and language (nblauncher.auth.appearance)."""
    name: str = ""
    """The student's, as it stands in the roster."""
    lost_node: str = ""
    """Of a job: the node on which the last server ran, if it failed."""

    @property
    def base_url(self) -> str:
        return f"/user/{self.username}/"

    @property
    def cookie_name(self) -> str:
        """Of the login cookie. With the port: a student's servers of two courses share host and path, and cookies
        ignore ports. A proxy gives it that name itself (frontends.nginx_config).
        """
        return COOKIE_BEHIND_PROXY if self.is_behind_proxy else f"nblauncher-{self.username}-{self.port}"

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> ServerConfig:
        return cls(**json.loads(content))


@dataclass(frozen=True, slots=True)
class OnNode:
    """What a server on a node has in place of the class's runtime folder. `run` names its start."""

    run: str
    sign_ins: str
    """Names the sign-ins that it takes over from the servers before it, and is part of their cookies' key."""
    logged_out: Path
    """As nblauncher.server.sessions."""
