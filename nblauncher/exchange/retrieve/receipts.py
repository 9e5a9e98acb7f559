"""A receipt says what was captured, from which student and when. Root's key signs it, so that it is proof later.

    {"nblauncher": 1, "course", "username", "deadline", "at", "captured", "late", "files": [{"path", "size", "sha256"}],
     "complete", "left_out": [[path, reason]], "manifest_sha256", "signature"}

`signature` is HMAC-SHA256 (RFC 2104) over the rest, as JSON with sorted keys and without spaces. Only root can read
the course's key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nblauncher.errors import InputError

LARGEST = 16 << 20
_KEY_BYTES = 32


def key(file: Path) -> bytes:
    """The course's key, made if it is missing: 0600, root's. A crash leaves no half of one."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, file)  # the first process wins
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return file.read_bytes()


def signed(about: Mapping[str, Any], secret: bytes) -> bytes:
    """The receipt as a file: JSON, a line per key."""
    return (json.dumps({**about, "signature": _signature(about, secret)}, indent=1) + "\n").encode("ascii")


def verified(data: bytes, secret: bytes) -> dict[str, Any]:
    """The content of a genuine receipt. InputError for anything that this course did not sign."""
    try:
        about = json.loads(data)
        signature = about.pop("signature")
        is_genuine = hmac.compare_digest(str(signature), _signature(about, secret))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("not a receipt") from None
    if not is_genuine:
        raise InputError("this receipt is not genuine: it was changed, or another course or host made it")
    return dict(about)


def _signature(about: Mapping[str, Any], secret: bytes) -> str:
    text = json.dumps(about, sort_keys=True, separators=(",", ":")).encode("ascii")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()
