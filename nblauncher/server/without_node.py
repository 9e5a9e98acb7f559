"""Import this before jupyterlab.labapp: where node is installed, JupyterLab then does not run it.

`jupyterlab.labapp` asks yarn for the registry of its builds as soon as it is imported (`_yarn_config` in
jupyterlab/commands.py): half a second of a processor for each server, and in a fork server as root. A student's server
builds nothing.
"""

from __future__ import annotations

from jupyterlab import commands


def _no_config(_logger: object) -> dict[str, dict[str, object]]:
    return {"yarn config": {}, "npm config": {}}


commands._yarn_config = _no_config
