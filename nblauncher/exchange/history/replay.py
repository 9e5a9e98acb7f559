"""A capture from root's store to the teacher's: root's child streams the contents, the teacher's child writes them.

The stream is that of a retrieval, so the teacher's side is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nblauncher.errors import HostError
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.retrieve import teacher_side
from nblauncher.exchange.retrieve.collection import joined
from nblauncher.model import ROOT, Account, Exclusion, Stored
from nblauncher.system import files, workers


def publish(
    owner: Account,
    order: teacher_side.Order,
    kept: Mapping[str, Stored],
    exclusions: Iterable[Exclusion],
    store: ObjectStore,
    *,
    longest: float = 1800.0,
) -> Mapping[str, Any]:
    """Write one student's folder of a staging; answers as `teacher_side.receive`. `kept` is by path below `work/`.

    HostError when a content is damaged or the teacher's side fails.
    """
    arguments = (dict(kept), tuple(exclusions), store)
    answer, _ = joined(ROOT, _replay, *arguments, owner=owner, order=order, stall=longest, longest=longest)
    return answer


def _replay(
    output: int, _known: int, kept: Mapping[str, Stored], exclusions: Iterable[Exclusion], store: ObjectStore
) -> None:
    for path, stored in sorted(kept.items()):
        header = {"path": f"work/{path}", "stamp": stored.stamp}
        if not store.is_whole(stored.sha256):
            raise HostError(f"the captured content of {path} is damaged")
        with store.path(stored.sha256).open("rb") as file:
            if stored.size <= files.CHUNK:
                workers.write_frame(output, {"kind": "file", **header}, file.read(stored.size))
                continue
            workers.write_frame(output, {"kind": "begin", **header})
            while data := file.read(files.CHUNK):
                workers.write_frame(output, {"kind": "data"}, data)
            workers.write_frame(output, {"kind": "end"})
    for left in exclusions:
        about = {"path": f"work/{left.path}".rstrip("/"), "reason": left.reason, "incomplete": left.incomplete}
        workers.write_frame(output, {"kind": "excluded", **about})
    workers.write_frame(output, {"kind": "finish"})
