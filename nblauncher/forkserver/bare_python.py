"""The interpreter of a virtual environment without its packages, for a fork server that root starts."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from nblauncher.errors import HostError

_CONFIG = "pyvenv.cfg"


def bare(python: str, folder: Path) -> str:
    """The interpreter of `python`'s virtual environment, in another one without packages, which is made in `folder`.

    It is `python` itself if that is not in a virtual environment, or in one that also has the system's packages: then
    their .pth files are executed when it starts. HostError.
    """
    config = Path(python).parents[1] / _CONFIG
    try:
        facts = config.lstat()
    except OSError:
        return python
    # The folders above it have been checked: root runs nothing that other accounts can change.
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & 0o022:
        return python
    text = config.read_text(encoding="utf-8")
    if not re.search(r"(?mi)^include-system-site-packages\s*=\s*false\s*$", text):
        return python
    link = folder / "bin" / Path(python).name
    try:
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(text, encoding="utf-8")
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.realpath(python))
    except OSError as error:
        raise HostError(f"{folder} cannot be made: {error.strerror}") from error
    return str(link)
