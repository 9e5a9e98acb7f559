"""What there is to say of a key of notebooks.cfg, and who takes over a change of its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from nblauncher.config.settings.kinds import Kind


class Taken(str, Enum):
    """When a changed value takes effect."""

    NOW = "now"
    SETUP = "setup"
    RELOAD = "reload"
    LAUNCH = "launch"
    RESTART = "restart"
    NEVER = "never"


TAKEN_WORDS: Mapping[Taken, str] = {
    Taken.NOW: "The next command that uses it. A running class uses it for captures and snapshots after `reload`.",
    Taken.SETUP: "`setup` or `reload`, for students added then.",
    Taken.RELOAD: "`reload` while the class runs, or `setup` and `launch`, for what is started then.",
    Taken.LAUNCH: "`launch`, while the class runs too.",
    Taken.RESTART: "`shutdown`, then `launch`: a running class keeps what it was started with.",
    Taken.NEVER: "Nothing: it stays as it was when the course was set up.",
}


@dataclass(frozen=True, slots=True)
class Key:
    """`default` is YAML; None: not set, and `example` shows a value. `allowed`: the possible values, if neither the
    explanation nor the default says them.
    """

    taken: Taken
    kind: Kind
    default: str | None
    explanation: str
    example: str = ""
    allowed: str = ""
    is_required: bool = False
