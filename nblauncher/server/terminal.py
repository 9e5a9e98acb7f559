"""`PYTHON -I terminal.py KERNEL_JSON`: a student's terminal, with the course's programs in it. Runs as the student.

A login shell reads /etc/profile, which resets PATH, so the course's folders are prepended afterwards:

    terminal.py KERNEL_JSON      exec  $SHELL -l -c "exec terminal.py --inside ..."     the student's profile is read
    terminal.py --inside ...     exec  $SHELL                                           with PATH, interactive

KERNEL_JSON is the class's kernelspec. It begins with the course's Python, the script kernel.py, and the folder of the
student's own environment. This file imports the standard library only, as the course's Python runs it, too.
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import sys
from pathlib import Path

_INSIDE = "--inside"


def main(arguments: list[str]) -> None:
    """Become the shell."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    if arguments[0] == _INSIDE:
        script, prefix = arguments[1:]
        kernel = runpy.run_path(script)
        try:
            kernel["prepare"](Path.home() / prefix)
        except OSError as error:
            print(f"nblauncher: %pip has no place to install to: {error}", file=sys.stderr)
        os.environ["PATH"] = kernel["search_path"](Path.home() / prefix, os.environ.get("PATH", os.defpath))
        os.execv(shell, [shell])  # noqa: S606
    try:
        python, _flag, script, prefix, *_rest = json.loads(Path(arguments[0]).read_bytes())["argv"]
    except (OSError, ValueError, KeyError) as error:
        print(f"nblauncher: the course's programs are not found: {error}", file=sys.stderr)
        os.execv(shell, [shell, "-l"])  # noqa: S606
    inside = shlex.join([python, "-I", os.path.abspath(__file__), _INSIDE, script, prefix])
    os.execv(shell, [shell, "-l", "-c", f"exec {inside}"])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
