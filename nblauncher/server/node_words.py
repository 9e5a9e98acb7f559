"""What a server on a node says in its job's comment, which Slurm hands on to the class's host.

The student can write the comment too. So nothing in it is believed but words about the student's own server: its port,
on the node that Slurm itself names, and what nblauncher.server.activity reports. Without Jupyter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nblauncher.server import activity

_COMMENT = re.compile(
    r"nbl1 run=(?P<run>[0-9a-f]{8,32}) r=(?P<restarts>[0-9]{1,4})"
    r"(?: port=(?P<port>[0-9]{4,5}))?(?: said=(?P<said>[a-z,-]{1,60}))?",
    re.ASCII,
)
_LASTING = (activity.LISTENS, activity.SIGNED_IN, activity.IDLE)
"""Words that say what is so from then on."""
_LOWEST, _HIGHEST = 1024, 65535


@dataclass(frozen=True, slots=True)
class NodeWords:
    """`run` names the start, and `restarts` counts how often Slurm started the job again: a comment outlives both."""

    run: str
    restarts: int = 0
    port: int = 0
    said: frozenset[str] = frozenset()

    def to_comment(self) -> str:
        port = f" port={self.port}" if self.port else ""
        said = f" said={','.join(word for word in _LASTING if word in self.said)}" if self.said else ""
        return f"nbl1 run={self.run} r={self.restarts}{port}{said}"


def parse(comment: str) -> NodeWords | None:
    """None for anything that a server does not say."""
    found = _COMMENT.fullmatch(comment)
    if found is None:
        return None
    port, said = int(found["port"] or 0), frozenset((found["said"] or "").split(",")) - {""}
    if (port and not _LOWEST <= port <= _HIGHEST) or not said <= frozenset(_LASTING):
        return None
    return NodeWords(found["run"], int(found["restarts"]), port, said)


def is_lasting(word: str) -> bool:
    return word in _LASTING
