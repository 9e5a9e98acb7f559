"""`PYTHON foreign.py MODULE ARGUMENTS`: run a module of nblauncher's in a Python that need not have nblauncher.

The package is found where this file is; nothing beside it becomes importable, so that what PYTHON imports is its own.
For a Python that was started without the options -I and -P: a kernel forked from it has the flags of an ordinary one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "nblauncher"


def main(arguments: list[str]) -> int:
    module, *arguments = arguments
    del sys.path[0]  # the folder of this file
    folder = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {folder}")
    package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    status: int = importlib.import_module(module).main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
