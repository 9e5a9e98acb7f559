"""What a kernel computes at its first cell and its first error, computed before kernels are forked.

Whatever a version of IPython objects to is left out: it only saves time.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import tempfile
from typing import Any

_CELL = 'def f(n):\n    """A text\n    of two lines."""\n    return [n, \'a\']\nf(1)\n'
"""With all kinds of words for which the tokenizer has patterns."""

_MOST_STYLES = 100
_COLOURS: tuple[dict[str, str], ...] = ({}, {"theme_name": "neutral"})
"""Of errors: as IPython has them by itself and in kernels, since version 9."""


def rehearse() -> None:
    """In the fork server, when everything is loaded."""
    transforming, formatting = map(_loaded, ("IPython.core.inputtransformer2", "IPython.core.ultratb"))
    with contextlib.suppress(Exception):
        _remember_styles()
    with contextlib.suppress(Exception):
        if transforming:
            transforming.TransformerManager().transform_cell(_CELL)
    # An error as IPython shows it. The first time takes 0.1 s: `inspect` resolves the paths of all modules.
    try:
        raise ValueError("so that the first error of a kernel is shown at once")
    except ValueError as error:
        with contextlib.suppress(Exception):
            inspect.getmodule(sys._getframe())
            for options in _COLOURS if formatting else ():
                formatter = formatting.FormattedTB(mode="Context", **options)
                formatter.structured_traceback(type(error), error, error.__traceback__)


def _remember_styles() -> None:
    """The colours of an error. stack_data derives the same style for each, and pygments computes all of its colours."""
    derived, terminal = map(_loaded, ("stack_data", "pygments.formatters.terminal256"))
    if derived:
        derived.style_with_executing_node = functools.lru_cache(derived.style_with_executing_node)
    if terminal:
        formatter = terminal.Terminal256Formatter
        known: dict[Any, dict[str, Any]] = {}
        compute = formatter._setup_styles

        def _setup_styles(self: Any) -> None:
            key = (self.style, self.usebold, self.useunderline, self.useitalic)
            if key not in known:
                compute(self)
                if len(known) >= _MOST_STYLES:
                    known.clear()
                known[key] = dict(self.style_string)
            self.style_string.update(known[key])

        formatter._setup_styles = _setup_styles


def _loaded(name: str) -> Any:
    return sys.modules.get(name)


def know_cells() -> None:
    """In a kernel: a cell is a file of no module, and `inspect` would look through all for each frame of an error."""
    try:
        prefix = os.path.join(tempfile.gettempdir(), f"ipykernel_{os.getpid()}") + os.sep
    except OSError:  # there is no place for temporary files
        return
    if type(getattr(inspect, "modulesbyfile", None)) is dict:
        inspect.modulesbyfile = _Files(inspect.modulesbyfile, prefix)


class _Files(dict[str, str]):
    """inspect.modulesbyfile: the names of modules by file, of which sys.modules has none called "" for a cell."""

    def __init__(self, known: dict[str, str], prefix: str) -> None:
        super().__init__(known)
        self._prefix = prefix

    def __contains__(self, file: object) -> bool:
        return super().__contains__(file) or (isinstance(file, str) and file.startswith(self._prefix))

    def __missing__(self, file: str) -> str:
        return ""
