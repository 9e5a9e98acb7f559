"""Import this before jsonschema: the grammar of IRIs is then built for the first check, not at import.

rfc3987_syntax builds an Earley parser when it is imported, which takes as long as all of Jupyter's modules together;
jsonschema imports it for the formats `iri` and `iri-reference`, which no schema of Jupyter's uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

_GRAMMAR = "rfc3987_syntax"


def postpone() -> None:
    """Put a stand-in in its place, which imports it when it is needed."""
    if _GRAMMAR in sys.modules or importlib.util.find_spec(_GRAMMAR) is None:
        return
    stand_in = ModuleType(_GRAMMAR)

    def is_valid_syntax(term: str, value: str) -> bool:
        if sys.modules.get(_GRAMMAR) is stand_in:
            del sys.modules[_GRAMMAR]
        return bool(importlib.import_module(_GRAMMAR).is_valid_syntax(term, value))

    vars(stand_in)["is_valid_syntax"] = is_valid_syntax
    sys.modules[_GRAMMAR] = stand_in


postpone()
