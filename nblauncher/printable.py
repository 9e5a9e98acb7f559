"""Text from outside, made safe to show on a terminal or in a log. Layer 0: everybody may use it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with everything that is not a visible character or a plain space escaped, as in `\x1b` or `\u202e`.

    Control characters, newlines, direction marks and the lone surrogates of undecodable bytes (os.fsdecode) cannot
    then move the cursor, start a line or reorder what a person reads. Twice is the same as once.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
