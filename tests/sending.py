"""A teacher with a material folder and students with ledgers, for the tests of sending."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.send import delivery, material
from nblauncher.model import FORGOTTEN, Account, HandedOut, Material

DAY = date(2026, 11, 20)
TARGET = "tutorial"


@dataclass
class Teacher:
    """`send` does for one student what the command does: index, what is pending, spool, deliver, record."""

    owner: Account
    source: Path
    spool: Path
    ledgers: dict[str, dict[str, HandedOut]] = field(default_factory=dict)

    @property
    def versions(self) -> ObjectStore:
        return ObjectStore(self.spool / "objects")

    @property
    def material(self) -> Material:
        return Material(self.source, TARGET)

    def write(self, path: str, content: bytes | str) -> Path:
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def send(self, account: Account, *, stall: float = 30.0, longest: float | None = None) -> delivery.Delivery:
        ledger = self.ledgers.setdefault(account.username, {})
        items = delivery.pending(material.index(self.material, self.owner), ledger)
        if not items:
            return delivery.Delivery()
        bases = [known.made_of for known in ledger.values() if known.made_of]
        paths = [item.path for item in items]
        source, spool = self.material, self.spool
        with material.spool(source, self.owner, paths, spool, versions=self.versions, bases=bases) as bundle:
            shipment = delivery.Shipment(TARGET, items, bundle, dict(ledger), DAY)
            sent = delivery.deliver(account, shipment, stall=stall, longest=longest)
        ledger.update(sent.handed_out)
        for path in [path for path, known in ledger.items() if known == FORGOTTEN]:
            del ledger[path]
        return sent


def told(sent: delivery.Delivery) -> dict[str, str]:
    return {one.path: one.outcome for one in sent.outcomes}


def content_of(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder, by path."""
    result = {}
    for above, _folders, names in os.walk(folder):
        for name in names:
            file = Path(above) / name
            if file.is_file() and not file.is_symlink():
                result[str(file.relative_to(folder))] = file.read_bytes()
    return result
