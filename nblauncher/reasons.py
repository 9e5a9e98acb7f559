"""Why a student's server is down: what the supervisor says of it, and what a student is told then.

`status` shows the whole reason, in which these stand among other words.
"""

from __future__ import annotations

OUT_OF_MEMORY = "because memory ran out"
SHUT_DOWN = "it was shut down"
ENDED_ITSELF = "it ended by itself"
NO_ANSWER = "it did not answer in time"
STAYS_DOWN = "and stays down"

_PLAIN = {
    OUT_OF_MEMORY: " because the memory ran out",
    SHUT_DOWN: " by your teacher",
    ENDED_ITSELF: " because it ended by itself",
    NO_ANSWER: " because it did not answer in time",
    STAYS_DOWN: " because it ended again and again",
}


def plain(reason: str) -> str:
    """How "your notebook server was stopped" goes on for the student; empty when there is nothing plain to say."""
    return next((words for sign, words in _PLAIN.items() if sign in reason), "")
