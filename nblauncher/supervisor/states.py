"""The state table of a student's seat: what happens (`Event`) in which phase, and what is done about it (`Action`).

The table only decides; `Seats` carries the actions out. A text in place of an action says why the event cannot happen
in that phase. Should it happen after all, it is logged and nothing is done: a bug in one seat must not end the class.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, auto

log = logging.getLogger(__name__)


class Phase(Enum):
    """Where a seat is. `ServerState`, which users see, is coarser: it says how the server is, or will soon be."""

    DOWN = auto()
    """No server: it was stopped, it failed, or it was never started."""
    ASLEEP = auto()
    """No server; a connection, or a sign-in at the front page, starts one."""
    STARTING = auto()
    """The spawner has been asked for a server, or has started one that does not answer yet."""
    QUEUED = auto()
    """The server's job waits in the cluster's queue."""
    READY = auto()
    PAUSING = auto()
    """The server died, its processes are gone, and a new one is started after a pause."""
    CLEARING = auto()
    """The server ended by itself, and its processes are being killed. Then it is down or asleep."""
    RESTARTING = auto()
    """As CLEARING, but a new server is started afterwards."""
    STOPPING = auto()
    """A command, or the supervisor, stops the server and all its processes."""


class Event(Enum):
    START = auto()
    """A command wants the server to run."""
    ARM = auto()
    """A command wants the server to start on demand."""
    WAKE = auto()
    """A sleeping server's turn has come to be started."""
    SPAWNED = auto()
    """The spawner started the server."""
    SPAWNED_LATE = auto()
    """The spawner started a server that is no longer wanted: a stop, or another start, came first."""
    NOT_SPAWNED = auto()
    """The spawner could not start the server."""
    WAITS = auto()
    """The server's job waits in the cluster's queue."""
    RUNS = auto()
    """The server's job runs on a node, and does not answer yet."""
    LISTENS = auto()
    """The server answers."""
    TOO_SLOW = auto()
    """A server that the supervisor started by itself did not answer in time."""
    ENDED = auto()
    """The server's process ended."""
    LOST = auto()
    """The server's job ended with its node, or for another one."""
    STOP = auto()
    """A command, or the supervisor, wants the server to end."""
    CLEARED = auto()
    """The server's last process is gone, or cannot be killed."""
    PAUSE_OVER = auto()
    """The pause before a restart is over."""
    RELEASE = auto()
    """A command wants the port to be closed, or the seat to get another one."""


class Action(Enum):
    NOTHING = auto()
    START = auto()
    START_WHEN_CLEARED = auto()
    REFUSE = auto()
    """The command gets an error, and may try again."""
    KEEP_ORDER = auto()
    """The order is for the next start."""
    ARM = auto()
    WAKE = auto()
    TAKE = auto()
    """Keep the new server's handle and read its output."""
    KILL_LATE = auto()
    FAIL = auto()
    MARK_QUEUED = auto()
    MARK_STARTING = auto()
    MARK_READY = auto()
    GIVE_UP = auto()
    CLEAR = auto()
    """Kill what the server left behind."""
    CLEAR_AND_RESTART = auto()
    """As CLEAR; then a new server is started, unless this one asked not to be or too many died."""
    TERMINATE = auto()
    """SIGTERM; after the grace period kill everything."""
    SWEEP = auto()
    """Kill everything now; there is no server that could end by itself."""
    JOIN_STOP = auto()
    """A stop is under way; the new one decides the final state."""
    GO_ON_SWEEPING = auto()
    SETTLE = auto()
    """The seat gets its final state."""
    SETTLE_AND_PAUSE = auto()
    RESTART = auto()
    RELEASE = auto()


Entry = Action | str
"""An action, or why the event is impossible."""

_NO_REQUEST = "the spawner answers each request once, and no request is open"
_NO_PROCESS = "there is no process that could end"
_NOT_SWEEPING = "no processes are being killed"
_NO_PAUSE = "every change of phase cancels the timer"
_NO_DEADLINE = "the timer runs only while the server starts"
_NOT_QUEUED = "only sleeping seats are in the queue"
_PIPE_CLOSED = "the server's pipe was closed when it ended"
_NO_JOB = "a job that has ended is not looked at any more"
_JOB_KNOWN = "a job is looked at only once the spawner has answered"

A = Action
_ROWS: Mapping[Event, Mapping[Phase, Entry]] = {
    Event.START: {
        Phase.DOWN: A.START,
        Phase.ASLEEP: A.START,
        Phase.STARTING: A.KEEP_ORDER,
        Phase.QUEUED: A.KEEP_ORDER,
        Phase.READY: A.KEEP_ORDER,
        Phase.PAUSING: A.KEEP_ORDER,
        Phase.CLEARING: A.START_WHEN_CLEARED,
        Phase.RESTARTING: A.KEEP_ORDER,
        Phase.STOPPING: A.REFUSE,
    },
    Event.ARM: {
        Phase.DOWN: A.ARM,
        Phase.ASLEEP: A.ARM,
        Phase.STARTING: A.KEEP_ORDER,
        Phase.QUEUED: A.KEEP_ORDER,
        Phase.READY: A.KEEP_ORDER,
        Phase.PAUSING: A.KEEP_ORDER,
        Phase.CLEARING: A.KEEP_ORDER,
        Phase.RESTARTING: A.KEEP_ORDER,
        Phase.STOPPING: A.KEEP_ORDER,
    },
    Event.WAKE: {
        Phase.DOWN: _NOT_QUEUED,
        Phase.ASLEEP: A.WAKE,
        Phase.STARTING: _NOT_QUEUED,
        Phase.QUEUED: _NOT_QUEUED,
        Phase.READY: _NOT_QUEUED,
        Phase.PAUSING: _NOT_QUEUED,
        Phase.CLEARING: "the queue waits until the processes are gone",
        Phase.RESTARTING: _NOT_QUEUED,
        Phase.STOPPING: "the queue waits until the processes are gone",
    },
    Event.SPAWNED: {
        Phase.DOWN: _NO_REQUEST,
        Phase.ASLEEP: _NO_REQUEST,
        Phase.STARTING: A.TAKE,
        Phase.QUEUED: _JOB_KNOWN,
        Phase.READY: A.TAKE,  # its own message was read before the spawner's
        Phase.PAUSING: _NO_REQUEST,
        Phase.CLEARING: _NO_REQUEST,
        Phase.RESTARTING: _NO_REQUEST,
        Phase.STOPPING: "a stop makes the answer a late one",
    },
    Event.SPAWNED_LATE: dict.fromkeys(Phase, A.KILL_LATE),
    Event.NOT_SPAWNED: {
        Phase.DOWN: _NO_REQUEST,
        Phase.ASLEEP: _NO_REQUEST,
        Phase.STARTING: A.FAIL,
        Phase.QUEUED: _JOB_KNOWN,
        Phase.READY: "a server that answers was spawned",
        Phase.PAUSING: _NO_REQUEST,
        Phase.CLEARING: _NO_REQUEST,
        Phase.RESTARTING: _NO_REQUEST,
        Phase.STOPPING: "a stop makes the answer a late one",
    },
    Event.WAITS: {
        **dict.fromkeys(Phase, _NO_JOB),
        Phase.STARTING: A.MARK_QUEUED,
        Phase.QUEUED: A.MARK_QUEUED,
        Phase.READY: A.MARK_QUEUED,  # an administrator put it back
        Phase.STOPPING: A.NOTHING,
    },
    Event.RUNS: {
        **dict.fromkeys(Phase, _NO_JOB),
        Phase.STARTING: A.MARK_STARTING,
        Phase.QUEUED: A.MARK_STARTING,
        Phase.READY: A.NOTHING,
        Phase.STOPPING: A.NOTHING,
    },
    Event.LISTENS: {
        Phase.DOWN: A.NOTHING,  # a server that was spawned late, or that SIGKILL does not end
        Phase.ASLEEP: A.NOTHING,
        Phase.STARTING: A.MARK_READY,
        Phase.QUEUED: A.MARK_READY,
        Phase.READY: A.NOTHING,  # both the server and the command say so
        Phase.PAUSING: _PIPE_CLOSED,
        Phase.CLEARING: _PIPE_CLOSED,
        Phase.RESTARTING: _PIPE_CLOSED,
        Phase.STOPPING: A.NOTHING,
    },
    Event.TOO_SLOW: {
        **dict.fromkeys(Phase, _NO_DEADLINE),
        Phase.STARTING: A.GIVE_UP,
    },
    Event.ENDED: {
        Phase.DOWN: A.CLEAR,  # SIGKILL did not end it in time
        Phase.ASLEEP: A.CLEAR,
        Phase.STARTING: A.CLEAR,
        Phase.QUEUED: A.CLEAR,
        Phase.READY: A.CLEAR_AND_RESTART,
        Phase.PAUSING: _NO_PROCESS,
        Phase.CLEARING: _NO_PROCESS,
        Phase.RESTARTING: _NO_PROCESS,
        Phase.STOPPING: A.GO_ON_SWEEPING,
    },
    Event.LOST: {
        Phase.DOWN: A.CLEAR,
        Phase.ASLEEP: A.CLEAR,
        Phase.STARTING: A.CLEAR_AND_RESTART,
        Phase.QUEUED: A.CLEAR_AND_RESTART,
        Phase.READY: A.CLEAR_AND_RESTART,
        Phase.PAUSING: _NO_PROCESS,
        Phase.CLEARING: _NO_PROCESS,
        Phase.RESTARTING: _NO_PROCESS,
        Phase.STOPPING: A.GO_ON_SWEEPING,
    },
    Event.STOP: {
        Phase.DOWN: A.SWEEP,
        Phase.ASLEEP: A.SWEEP,
        Phase.STARTING: A.TERMINATE,
        Phase.QUEUED: A.TERMINATE,
        Phase.READY: A.TERMINATE,
        Phase.PAUSING: A.SWEEP,
        Phase.CLEARING: A.JOIN_STOP,
        Phase.RESTARTING: A.JOIN_STOP,
        Phase.STOPPING: A.JOIN_STOP,
    },
    Event.CLEARED: {
        **dict.fromkeys(Phase, _NOT_SWEEPING),
        Phase.CLEARING: A.SETTLE,
        Phase.RESTARTING: A.SETTLE_AND_PAUSE,
        Phase.STOPPING: A.SETTLE,
    },
    Event.PAUSE_OVER: {
        **dict.fromkeys(Phase, _NO_PAUSE),
        Phase.PAUSING: A.RESTART,
    },
    Event.RELEASE: {
        **dict.fromkeys(Phase, A.REFUSE),
        Phase.DOWN: A.RELEASE,
        Phase.ASLEEP: A.RELEASE,
    },
}

TABLE: Mapping[tuple[Phase, Event], Entry] = {
    (phase, event): entry for event, row in _ROWS.items() for phase, entry in row.items()
}


def decide(username: str, phase: Phase, event: Event) -> Action:
    """What is to be done with this student's seat."""
    entry = TABLE[phase, event]
    if isinstance(entry, Action):
        return entry
    log.error("%s's seat: %s while %s should be impossible: %s", username, event.name, phase.name, entry)
    return Action.NOTHING
