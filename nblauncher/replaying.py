"""A capture out of root's store into the teacher's: root's child streams the contents, the teacher's child writes.

The stream is that of a retrieval (gathering), so the teacher's side (receiving) is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nblauncher import files, receiving, workers
from nblauncher.errors import HostError
from nblauncher.model import Account, Exclusion
from nblauncher.objects import ObjectStore
from nblauncher.scope import Stored

_ROOT = Account("root", 0, 0, Path("/root"))
_LAST_WORDS = 10.0


def publish(
    owner: Account,
    order: receiving.Order,
    kept: Mapping[str, Stored],
    exclusions: Iterable[Exclusion],
    store: ObjectStore,
    *,
    longest: float = 1800.0,
) -> Mapping[str, Any]:
    """Write one student's folder of a staging; answers as receiving.receive. `kept` is by path below `work/`.

    HostError when a content is damaged or the teacher's side says no.
    """
    stream, output = os.pipe()
    known, tell = os.pipe()
    try:
        reader = workers.start(_ROOT, _replay, output, dict(kept), tuple(exclusions), store, keep={output})
        try:
            writer = workers.start(owner, receiving.receive, order, stream, tell, longest, keep={stream, tell})
        except BaseException:
            reader.stop()
            raise
    finally:
        for descriptor in (stream, output, known, tell):
            os.close(descriptor)
    try:
        answer: Mapping[str, Any] = writer.result(longest)
    except HostError as error:
        if error.problem != receiving.STOPPED:
            raise
        reader.result(_LAST_WORDS)
        raise
    finally:
        reader.stop()
    return answer


def _replay(output: int, kept: Mapping[str, Stored], exclusions: Iterable[Exclusion], store: ObjectStore) -> None:
    for path, one in sorted(kept.items()):
        header = {"path": f"work/{path}", "stamp": one.stamp}
        if not store.is_whole(one.sha256):
            raise HostError(f"the captured content of {path} is damaged")
        with store.path(one.sha256).open("rb") as file:
            if one.size <= files.CHUNK:
                workers.write_frame(output, {"kind": "file", **header}, file.read(one.size))
                continue
            workers.write_frame(output, {"kind": "begin", **header})
            while data := file.read(files.CHUNK):
                workers.write_frame(output, {"kind": "data"}, data)
            workers.write_frame(output, {"kind": "end"})
    for left in exclusions:
        about = {"path": f"work/{left.path}".rstrip("/"), "reason": left.reason, "incomplete": left.incomplete}
        workers.write_frame(output, {"kind": "excluded", **about})
    workers.write_frame(output, {"kind": "finish"})
