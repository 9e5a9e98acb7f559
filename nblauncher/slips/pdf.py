"""A program: `python -m nblauncher.slips.pdf`. HTML and names on standard input, PDF on standard output.

It reads no other file and asks no server: what WeasyPrint would fetch for an element or a style is refused. `made`
starts it, in an unprivileged process, and ends it in time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nblauncher.errors import HostError
from nblauncher.printable import printable
from nblauncher.system import privileges

HINT = (
    "Run `./install.sh --pdf` in the checkout of nblauncher, which installs WeasyPrint and, with apt, libpango-1.0-0, "
    "libpangoft2-1.0-0, libharfbuzz-subset0 and fonts-noto-core. Any browser prints HTML (--html FILE) as the same "
    "cards."
)
FONTS = "apt install fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji"

_MEMORY = 4 << 30
_SECONDS_EACH = 2.0
_LEAST_SECONDS = 120.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
_MISSING = 3
"""Exit status without WeasyPrint or its libraries."""


def is_installed() -> bool:
    return importlib.util.find_spec("weasyprint") is not None


def longest(cards: int) -> float:
    """Seconds that so many cards may take."""
    return max(_LEAST_SECONDS, _SECONDS_EACH * cards)


def made(html: str, names: Mapping[str, str]) -> tuple[bytes, Sequence[str]]:
    """The PDF, and the usernames whose texts in `names` have characters that no font of this host has.

    HostError without WeasyPrint, when it fails, and when it takes too long.
    """
    order = json.dumps({"html": html, "names": dict(names)}).encode()
    seconds = longest(len(names))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-m", "nblauncher.slips.pdf"],
            input=order,
            capture_output=True,
            cwd="/",
            env=_ENVIRONMENT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"the PDF was not done after {seconds:.0f} s", "Try --only, or --html.") from error
    head, _, content = done.stdout.partition(b"\n")
    if done.returncode == _MISSING:
        why = printable(done.stderr.decode(errors="replace").strip())[:200]
        raise HostError(f"a PDF cannot be made here: {why}", HINT)
    if done.returncode != 0 or not content.startswith(b"%PDF-"):
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = printable(lines[-1])[:300] if lines else f"exit status {done.returncode}"
        raise HostError(f"WeasyPrint failed: {why}", "Write HTML instead: --html FILE.")
    return content, [str(name) for name in json.loads(head)["without_font"]]


def main() -> int:
    privileges.die_with_parent(os.getppid())
    privileges.set_dumpable(False)  # the account's other processes must not look at the passwords
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    order = json.load(sys.stdin)
    try:
        content = _rendered(order["html"])
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return _MISSING
    except OSError as error:  # cffi: a library of the system is not there
        sys.stderr.write(str(error).splitlines()[0] + "\n")
        return _MISSING
    answer = {"without_font": [name for name, text in order["names"].items() if not _has_glyphs(text)]}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + content)
    return 0


def _rendered(html: str) -> bytes:
    import weasyprint

    class NoFetcher(weasyprint.urls.URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, headers: Any = None) -> Any:
            raise ValueError("nothing is fetched")

    document = weasyprint.HTML(string=html, url_fetcher=NoFetcher(), base_url=None)
    return bytes(document.write_pdf() or b"")


def _has_glyphs(text: str) -> bool:
    """Whether Pango finds a glyph for every character, with the fonts of this host."""
    pango, layout = _layout()
    encoded = text.encode("utf-8", "replace")
    pango.pango_layout_set_text(layout, encoded, len(encoded))
    return int(pango.pango_layout_get_unknown_glyphs_count(layout)) == 0


def _layout(found: list[tuple[ctypes.CDLL, ctypes.c_void_p]] = []) -> tuple[ctypes.CDLL, ctypes.c_void_p]:  # noqa: B006
    if not found:
        pango, freetype = ctypes.CDLL("libpango-1.0.so.0"), ctypes.CDLL("libpangoft2-1.0.so.0")
        freetype.pango_ft2_font_map_new.restype = ctypes.c_void_p
        for function in ("pango_font_map_create_context", "pango_layout_new"):
            getattr(pango, function).restype = ctypes.c_void_p
            getattr(pango, function).argtypes = [ctypes.c_void_p]
        pango.pango_layout_set_text.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        pango.pango_layout_get_unknown_glyphs_count.argtypes = [ctypes.c_void_p]
        context = pango.pango_font_map_create_context(freetype.pango_ft2_font_map_new())
        found.append((pango, pango.pango_layout_new(context)))
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
