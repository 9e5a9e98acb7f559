"""students.csv: bytes in, a checked `Roster` out. Pure; `trusted_files.read_trusted` reads the file.

The header alone decides the delimiter, only `username` and `extra_time` are checked, and one pass finds all problems.
Other cells may hold anything, even newlines: they never reach a system file (docs/security.md, promise 12).
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nblauncher.config import extra_time
from nblauncher.errors import InputError
from nblauncher.model import USERNAME, Roster, Student
from nblauncher.printable import printable

MAX_BYTES = 1 << 20
COLUMNS = ("username", "name", "email", "student_id", "section", "seat", "extra_time")

_DELIMITERS = ",;\t"
SEPARATOR_LINE = re.compile(r'"?sep=(\t|[^\w\s"])"?[ ,;\t]*(?=[\r\n]|$)', re.I | re.ASCII)
"""Excel's first line, which names the delimiter of the lines below."""
_LOOKS_LIKE = {
    "email": re.compile(r"mail|courriel|correo"),
    "extra_time": re.compile(r"extra|accommodat"),
    "student_id": re.compile(r"matric|matrik|^id$|student.*(id|no|number|nr)$|id.?number"),
    "name": re.compile(r"name|^student$|^naam|^nom$|^nombre|apellido"),
}
"""Headers that mean a known column, in lower case with _ for spaces."""
_NO_PERSONS_NAME = re.compile(r"user|login|account|file|group|course|class|host")
_MAIL_ADDRESS = re.compile(r"[^@\s,;]+@[^@\s,;]+\.[^@\s,;]+")
_SPELLED = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
"""Latin letters in usernames that are not a base letter with an accent, or are spelled with two letters."""
_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a line, and a username to use instead."""

    line: int
    words: str
    suggestion: str = ""


@lru_cache(maxsize=2)
def parse(data: bytes, source: str, *, judges_extra_time: bool = True) -> Roster:
    """The roster in `data`; messages call it `source`. `judges_extra_time`: false for a roster that an earlier release
    accepted, where one bad cell must not cost the others their time.

    InputError lists every problem with its line. Nothing is repaired silently; a name may be suggested. A command reads
    the given roster and the accepted one several times, and they are mostly the same bytes: the last ones are kept.
    """
    text = _decode(data, source)
    rows, problems = _rows(text)
    if not rows and not problems:
        raise InputError(f"{source} is empty", "Its first line names the columns; username is the one that it needs.")
    if rows:
        students, more = _students(rows)
        problems += [*more, *(_extra_time_problems(students) if judges_extra_time else ())]
        if not problems and not students:
            raise InputError(f"{source} has a header and no students", "Add a line per student.")
    if problems:
        raise _input_error(sorted(problems, key=lambda problem: problem.line), source)
    return Roster(tuple(students))


def readable(data: bytes) -> tuple[Student, ...]:
    """The rows that can be read, nothing of them judged: for suggestions, never for a change."""
    try:
        rows, _ = _rows(_decode(data, ""))
    except InputError:
        return ()
    return tuple(_students(rows)[0]) if rows else ()


def suggest(text: str) -> str:
    """A legal username that looks like `text`, or "" when that would be a guess (letters of another script).

    For a mail address, made from the part before the @.
    """
    local_part = text.partition("@")[0].strip() or text.strip()
    spelled = unicodedata.normalize("NFC", without_marks(local_part).casefold()).translate(_SPELLED)
    decomposed = unicodedata.normalize("NFKD", spelled)
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    if any(not character.isascii() and character.isalnum() for character in plain):
        return ""
    words = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")
    if words[:1].isdigit():
        words = f"s{words}"
    return words[:31].rstrip("-_")


def overlooked(roster: Roster) -> Iterator[tuple[str, str]]:
    """Columns that nblauncher does not read but that look like a known one, each with that one's name."""
    first = next(iter(roster), None)
    unused = {known for known in _LOOKS_LIKE if not any(getattr(student, known) for student in roster)}
    for column, _cell in first.extra if first else ():
        cells = [cell for student in roster if (cell := dict(student.extra).get(column, "").strip())]
        meant = _meant(column, cells)
        if cells and meant in unused:
            yield column, meant


def unused(roster: Roster) -> tuple[str, ...]:
    """Columns that are kept and have no meaning, in the order of the file."""
    first = next(iter(roster), None)
    return tuple(column for column, _cell in first.extra) if first else ()


def _meant(column: str, cells: Sequence[str]) -> str:
    """The known column that its header, or mail addresses in it, suggest; "" for none."""
    key = _key(column).replace(" ", "_").replace("-", "_")
    for known, pattern in _LOOKS_LIKE.items():
        if pattern.search(key) and not (known == "name" and _NO_PERSONS_NAME.search(key)):
            return known
    return "email" if cells and all(map(_MAIL_ADDRESS.fullmatch, cells)) else ""


def _decode(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than 1 MiB: this is not a roster", "Nothing was changed.")
    if data[:2] in _ENCODINGS:
        raise InputError(
            f"{source} byte 1: this is UTF-16, not UTF-8", 'Save it again as "CSV UTF-8". Nothing was changed.'
        )
    if b"\0" in data:
        where = data.index(b"\0")
        raise InputError(
            f"{source} line {_line_of(data[:where])}, byte {where + 1}: a NUL byte; this is not a text file in UTF-8",
            'Save it again as "CSV UTF-8". Nothing was changed.',
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark.
        where = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        word = printable(_word_around(data, where).decode("cp1252", "replace"))
        raise InputError(
            f"{source} line {_line_of(data[:where])}, byte {where + 1}: not UTF-8 "
            f'(read as Windows-1252 it would say "{word}")',
            'Save it again as "CSV UTF-8". Nothing was changed.',
        ) from None


def _line_of(before: bytes) -> int:
    return 1 + len(re.findall(rb"\r\n|\r|\n", before))


def _word_around(data: bytes, where: int) -> bytes:
    before, after = re.split(rb"[,;\t\r\n]", data[:where])[-1], re.split(rb"[,;\t\r\n]", data[where:])[0]
    return before[-20:] + after[:20]


Row = tuple[int, list[str]]
"""The line in which a row begins, and its cells."""


def _rows(text: str) -> tuple[list[Row], list[Problem]]:
    """All rows that are not blank, first the header. Line numbers count every style of newline."""
    named = SEPARATOR_LINE.match(text)
    if named:
        text = text[named.end() :]  # the newline stays, and so do the line numbers
    delimiter = named[1] if named else delimiter_of(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    problems: list[Problem] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return rows, problems
        except csv.Error as error:
            problems.append(Problem(line, csv_words(error)))
            continue
        if not all(map(_is_blank, cells)):
            rows.append((line, cells))


def csv_words(error: csv.Error) -> str:
    words = str(error)
    if "unexpected end of data" in words:
        return "a quote opens in this row and is never closed"
    if "field limit" in words:
        return "a cell is longer than 131072 characters; is a quote missing?"
    if "expected after" in words:
        return 'a quoted cell must end at a delimiter; write a quote inside it twice ("")'
    return f"this is not CSV: {printable(words)}"


def delimiter_of(text: str) -> str:
    """The delimiter that gives the header a `username` column, else the one that gives the most columns."""
    header = next((line for line in io.StringIO(text, newline="") if line.strip()), "")

    def columns(delimiter: str) -> list[str]:
        try:
            return next(csv.reader([header.rstrip("\r\n")], delimiter=delimiter), [])
        except csv.Error:
            return []

    return max(
        _DELIMITERS,
        key=lambda delimiter: ("username" in map(_key, columns(delimiter)), len(columns(delimiter))),
    )


def _key(text: str) -> str:
    """Equal for two headers, or two usernames, that a reader takes for the same."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", without_marks(text)).casefold())
    return folded.strip()


def without_marks(text: str) -> str:
    """Without invisible characters: a byte order mark where two files were joined, a zero-width space."""
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _is_blank(cell: str) -> bool:
    return not without_marks(cell).strip()


def _students(rows: Sequence[Row]) -> tuple[list[Student], list[Problem]]:
    (header_line, header), *body = rows
    columns, problems = _columns(header_line, header)
    students = []
    for line, written in body:
        if _is_header(written, columns):
            problems.append(
                Problem(
                    line, f"a second header line, after that in line {header_line}: are these two lists in one file?"
                )
            )
            if [_column(cell) for cell in written[: len(columns)]] != columns:
                break  # the rows below have other columns
            continue
        cells = _fitted(written, len(header))
        if len(cells) != len(header):
            problems.append(Problem(line, f"{_counted(len(cells))}, but the header has {len(header)}"))
            continue
        unnamed = [cell for column, cell in zip(columns, cells, strict=True) if not column and cell.strip()]
        if unnamed:
            problems.append(Problem(line, f'the cell "{printable(unnamed[0])}" is in a column without a name'))
        students.append(_student(line, dict(zip(columns, cells, strict=True))))
    if "username" in columns:
        problems += _username_problems(students)
    return students, problems


def _fitted(cells: list[str], width: int) -> list[str]:
    """Padded or cut to the header: spreadsheets drop empty cells at the end of a row, or write too many."""
    last = max((number for number, cell in enumerate(cells, 1) if not _is_blank(cell)), default=0)
    return [*cells[: max(last, width)], *[""] * (width - len(cells))]


def _is_header(cells: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a row below the header names columns, in any order. `username` is not used as a username."""
    named = dict(zip(columns, map(_column, cells), strict=False))
    if named.get("username") == "username":
        return True
    keys = {_column(cell) for cell in cells if not _is_blank(cell)}
    return "username" in keys and keys <= {*columns, *COLUMNS}


def _counted(number: int) -> str:
    return f"{number} cell" if number == 1 else f"{number} cells"


def _columns(line: int, header: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Our names for known columns, the file's for others, "" for the unnamed ones that spreadsheets leave."""
    columns = []
    problems = []
    seen: set[str] = set()
    for cell in header:
        column = _column(cell)
        key = column if column in COLUMNS else _key(cell)
        if key and key in seen:
            problems.append(Problem(line, f'the column "{printable(cell.strip())}" is there twice'))
        seen.add(key)
        columns.append(column)
    if "username" not in columns:
        from difflib import get_close_matches

        near = get_close_matches("username", [key for key in seen if key], 1, 0.6)
        found = ", ".join(f'"{printable(column)}"' for column in columns if column)
        hint = f'; is "{printable(near[0])}" meant to be it?' if near else f"; found {found}"
        problems.append(Problem(line, f"there is no column username{hint}"))
    return columns, problems


def _column(cell: str) -> str:
    """Our name for a known column, the file's for any other."""
    known = _key(cell).replace(" ", "_").replace("-", "_")
    return known if known in COLUMNS else without_marks(cell).strip()


def _student(line: int, cells: dict[str, str]) -> Student:
    known = {column: cells.get(column, "") for column in COLUMNS}
    extra = tuple((column, cell) for column, cell in cells.items() if column and column not in COLUMNS)
    return Student(**known, extra=extra, line=line)


def _username_problems(students: Sequence[Student]) -> Iterator[Problem]:
    taken = Counter(_key(student.username) for student in students)
    wanted = Counter(suggest(student.username) for student in students if _wrong_with(student.username))
    first_lines: dict[str, int] = {}
    for student in students:
        words = _wrong_with(student.username)
        if words:
            suggestion = suggest(student.username)
            is_free = wanted[suggestion] == 1 and taken[suggestion] == (suggestion == _key(student.username))
            yield Problem(student.line, words, suggestion if is_free else "")
        first = first_lines.setdefault(_key(student.username), student.line)
        if first != student.line and student.username.strip():
            yield Problem(student.line, f'username "{printable(student.username)}" is already in line {first}')


def _extra_time_problems(students: Sequence[Student]) -> Iterator[Problem]:
    for student in students:
        if words := extra_time.objection(student.extra_time):
            yield Problem(student.line, f"{printable(student.username[:60])}: {words}")


def _wrong_with(username: str) -> str:
    if USERNAME.fullmatch(username):
        return ""
    if not username.strip():
        return "the username is empty"
    shown = f'username "{printable(username[:60])}"'
    if username != without_marks(username):
        return f"{shown} holds a character that cannot be seen"
    if username != username.strip():
        return f"{shown} begins or ends with white space"
    foreign = next((c for c in unicodedata.normalize("NFKD", username) if not c.isascii() and c.isalpha()), "")
    if foreign:
        letter = f'"{foreign}" is {unicodedata.name(foreign, "a letter without a name")}'
        return f"{shown} may use only a-z, 0-9, - and _ ({letter})"
    if len(username) > 31:
        return f"{shown} has {len(username)} characters; 31 are the most"
    if re.fullmatch(r"[a-z0-9_-]+", username):
        return f"{shown} must begin with a letter a-z"
    return f"{shown} may use only a-z, 0-9, - and _"


def _input_error(problems: Sequence[Problem], source: str) -> InputError:
    if len(problems) == 1:
        only = problems[0]
        hint = f' Try "{only.suggestion}".' if only.suggestion else ""
        return InputError(f"{source} line {only.line}: {only.words}", f"Nothing was changed.{hint}")
    return InputError(
        [
            f"{source} line {problem.line}: {problem.words}"
            + (f'; try "{problem.suggestion}"' if problem.suggestion else "")
            for problem in problems
        ],
        "Nothing was changed.",
    )
