"""`ipython_dir`: prints the caller's IPython directory. Run it as the student to find theirs. Makes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def ipython_dir(environment: Mapping[str, str]) -> str:
    """Where IPython keeps profiles for a process with this environment.

    The same answer as IPython.paths.get_ipython_dir (IPython 9), which is not asked because it makes the folder, or a
    temporary one when it may not.
    """
    chosen = environment.get("IPYTHONDIR")
    if chosen is not None:
        return os.path.normpath(os.path.expanduser(chosen))
    home = Path(os.path.realpath(os.path.expanduser("~")))
    usual = home / ".ipython"
    old = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "ipython"
    has_old = old.is_dir() and os.access(old, os.W_OK) and not usual.exists() and not old.is_symlink()
    return str(old if has_old else usual)


def main() -> None:
    """The command. Runs as its caller."""
    sys.stdout.write(ipython_dir(os.environ) + "\n")


if __name__ == "__main__":
    main()
