"""Source text as tokens of which only the structure of the program is left. Pure.

Comments, whitespace and docstrings are dropped; names, numbers and strings each become one token, whatever they say;
keywords, well-known builtins and operators stay. So a program is the same after its names and comments were changed.
The lexer reads Python of any version, IPython's magics, and other languages well enough.
"""

from __future__ import annotations

import builtins
import keyword
import re
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass

_NAME, _NUMBER, _STRING = 1, 2, 3
_CELL_MAGIC = re.compile(r"\s*%%(\w+)")
_MAGIC_LINE = re.compile(r"(?m)^[ \t]*[%!?][^\n]*|^[^\n'\"#=]*\?$")

_STRINGS = r"""
    '''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*''' | \"\"\"[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"\"\"
    | '(?!'')[^'\\\n]*(?:\\.[^'\\\n]*)*' | "(?!"")[^"\\\n]*(?:\\.[^"\\\n]*)*\"
"""
_LINE_STRINGS = r"""'''.*?''' | \"\"\".*?\"\"\" | '[^'\\\n]*(?:\\.[^'\\\n]*)*'? | "[^"\\\n]*(?:\\.[^"\\\n]*)*"? """
_PATTERN = r"""
    (?P<blank>[ \t\f\r]+ | \\\r?\n | {comment})
    | (?P<newline>\n)
    | (?P<string>{prefix}(?:{strings}))
    | (?P<number>(?:0[xXoObB][\da-fA-F_]+ | \d[\d_]*\.?[\d_]* | \.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?[jJ]?)
    | (?P<name>[^\W\d]\w*)
    | (?P<open>[(\[{{]) | (?P<close>[)\]}}])
    | (?P<operator>\*\*=? | //=? | >>=? | <<=? | -> | := | \.\.\. | [-+*/%@&|^=<>!]= | [-+*/%@&|^~=<>.,:])
    | (?P<end>;)
    | (?P<other>.)
"""
_ALTERNATIVES = {
    "#": r"\#[^\n]*",
    "//": r"//[^\n]* | /\*.*?(?:\*/|\Z)",
    "%": r"%[^\n]*",
    "--": r"--[^\n]*",
    ";;": r";[^\n]*",
}
_WORDS = re.compile(r"[^\W_]+")

_METHODS = frozenset(
    name for kind in (str, bytes, list, dict, set, tuple, float, int) for name in dir(kind) if name[0] != "_"
)
_OF_OTHERS = """
begin boolean break byte case catch char class const continue default do done double elseif elsif end endif enum esac
export extends extern fi final float fn for foreach func function goto if implements impl include int interface let
library local long loop match mod module mut namespace new NULL null nil package private protected pub public quote
repeat require return short signed static string struct super switch template then this throw throws trait try typedef
unless unsigned until use using var virtual void volatile when where while select insert update delete from group order
join data lapply sapply vapply apply println printf cout cin scanf echo cat paste length
"""
_OF_PYTHON = frozenset(
    [*keyword.kwlist, *(name for name in dir(builtins) if name[0] != "_" and name not in ("copyright", "credits"))]
)
"""Words that a student cannot choose. Another language's are not among them: `data` and `end` are names in Python."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Parallel: what each token is, and where it begins and ends in the text."""

    codes: array[int]
    starts: array[int]
    ends: array[int]

    @classmethod
    def none(cls) -> Tokens:
        return cls(array("I"), array("I"), array("I"))

    def add(self, code: int, start: int, end: int) -> None:
        self.codes.append(code)
        self.starts.append(start)
        self.ends.append(end)

    def extend(self, other: Tokens, offset: int) -> None:
        """`other` is of a text that begins at `offset` of ours."""
        self.codes.extend(other.codes)
        self.starts.extend(start + offset for start in other.starts)
        self.ends.extend(end + offset for end in other.ends)


def _code(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) | 1 << 31


def _lexer(comment: str, *, prefix: str = "", strings: str = _LINE_STRINGS) -> re.Pattern[str]:
    pattern = _PATTERN.format(comment=_ALTERNATIVES[comment], prefix=prefix, strings=strings)
    return re.compile(pattern, re.VERBOSE | re.DOTALL)


_PYTHON = _lexer("#", prefix="[rRbBuUfFtT]{0,2}", strings=_STRINGS)
_LEXERS = {comment: _lexer(comment) for comment in _ALTERNATIVES}
_KEPT = {word: _code(word) for word in _OF_PYTHON}
_KEPT_LOOSELY = {word: _code(word) for word in _OF_PYTHON.union(_OF_OTHERS.split())}
_AFTER_DOT = {word: _code(word) for word in _METHODS}


def _each(**names: str) -> dict[str, str]:
    """name → kind, from kind → names."""
    kinds = {
        "python": "python",
        "hash": "#",
        "slash": "//",
        "percent": "%",
        "dash": "--",
        "semi": ";;",
        "words": "words",
    }
    return {name: kinds[kind] for kind, each in names.items() for name in each.split()}


_BY_SUFFIX = _each(
    python="py pyw pyi sage",
    hash="r jl sh bash rb pl rmd qmd awk nim",
    slash="c h cc cpp cxx hpp java js mjs ts tsx cs go rs kt swift scala php dart",
    percent="m tex erl pro",
    dash="sql hs lua adb ads elm vhd",
    semi="lisp scm rkt clj el asm",
    words="txt md rst org",
)
_BY_NAME = _each(
    python="python python3 ipython sage sagemath time timeit capture writefile prun",
    slash="c c++ cpp java javascript typescript scala rust go kotlin csharp c# groovy js",
    percent="octave matlab erlang prolog latex",
    dash="sql haskell lua ada",
    semi="scheme clojure racket commonlisp lisp",
    words="markdown",
)


def language_of(suffix: str) -> str:
    """How files with this suffix (`.py`) are read; empty for those that are not compared."""
    return _BY_SUFFIX.get(suffix.lower().lstrip("."), "")


def language_named(name: str) -> str:
    """How the cells of a kernel for this language are read."""
    return _BY_NAME.get(name.lower(), "#")


def tokens_of(text: str, language: str) -> Tokens:
    """`language` is from `language_of` or `language_named`. Every text has tokens: other text is read loosely."""
    if language == "words":
        return _words(text)
    if language == "python":
        magic = _CELL_MAGIC.match(text)
        if magic is not None and (named := language_named(magic[1])) != "python":
            return tokens_of(text, named)
        plain = _MAGIC_LINE.sub(lambda line: " " * len(line[0]), text)
        found = _lex(plain, _PYTHON, _KEPT, is_strict=True)
        if found is not None:
            return found
        return _lex(plain, _LEXERS["#"], _KEPT) or Tokens.none()
    return _lex(text, _LEXERS[language], _KEPT_LOOSELY) or Tokens.none()


def _words(text: str) -> Tokens:
    found = Tokens.none()
    for match in _WORDS.finditer(text):
        found.add(_code(match[0].casefold()), match.start(), match.end())
    return found


def _lex(text: str, lexer: re.Pattern[str], names: Mapping[str, int], *, is_strict: bool = False) -> Tokens | None:
    """None when `is_strict` and this is not the language: an open string, a character that Python has no use for."""
    found = Tokens.none()
    depth = in_statement = 0
    is_after_dot = False
    for match in lexer.finditer(text):
        kind = match.lastgroup
        if kind == "blank":
            continue
        if kind in ("newline", "end"):
            if not depth:
                _drop_docstring(found, in_statement)
                in_statement = 0
            continue
        word = match[0]
        if kind == "name":
            code = (_AFTER_DOT if is_after_dot else names).get(word, _NAME)
        elif kind == "string":
            code = _STRING
        elif kind == "number":
            code = _NUMBER
        elif kind == "other" and is_strict:
            return None
        else:
            code = _code(word)
            depth = max(depth + (kind == "open") - (kind == "close"), 0)
        is_after_dot = word == "."
        in_statement += 1
        found.add(code, match.start(), match.end())
    _drop_docstring(found, in_statement)
    return found


def _drop_docstring(found: Tokens, in_statement: int) -> None:
    """A statement that is only a string is a comment."""
    if in_statement == 1 and found.codes[-1] == _STRING:
        for column in (found.codes, found.starts, found.ends):
            column.pop()
