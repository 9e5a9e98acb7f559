"""Plans, reports and states as text or as the one JSON object of `--json`. Returns strings and prints nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nblauncher.errors import NblauncherError
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.plan import Report, StudentReport
    from nblauncher.preflight.finding import Finding

ENVELOPE_VERSION = 1
_MOST_NAMES = 10
"""Students named for the same error; `--json` has them all."""
_MOST_ROWS = 60
"""Of a table with a row for each student."""
_NOTHING = "nothing"


def envelope(
    command: str,
    status: str,
    exit_code: int,
    students: Sequence[Mapping[str, Any]] = (),
    errors: Sequence[str] = (),
    **more: Any,
) -> str:
    """The object of `--json` (docs/reference.md). `status`: ok, partial, refused or failed."""
    text = json.dumps(
        {
            "nblauncher": ENVELOPE_VERSION,
            "command": command,
            "status": status,
            "exit_code": exit_code,
            **more,
            "students": list(students),
            "errors": list(errors),
        },
        indent=2,
        ensure_ascii=True,
    )
    return text.replace("\x7f", "\\u007f")


def student_entry(student: StudentReport) -> dict[str, Any]:
    return {"username": student.username, "status": student.status, "error": student.error, **student.details}


def problem_text(error: NblauncherError) -> str:
    """`Error: what happened`, every problem on a line of its own, and what to do, as in docs/reference.md."""
    lines = [f"Error: {printable(error.problems[0])}"]
    lines += [f"       {printable(problem)}" for problem in error.problems[1:]]
    if error.hint:
        lines += [f"       {printable(line)}" for line in error.hint.split("\n")]
    return "\n".join(lines)


def names_words(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def failures_text(report: Report, failure: str, hint: str) -> str:
    """Which students failed and why, and that the others are done; empty when none failed. `failure` is the sentence:
    `{ratio} students were not set up`.
    """
    if not report.failed:
        return ""
    total, failed = len(report.students), len(report.failed)
    names_of: dict[str, list[str]] = {}
    for student in report.failed:
        names_of.setdefault(printable(student.error or ""), []).append(student.username)
    causes = ", ".join(f"{names_words(names)} ({why})" for why, names in names_of.items())
    done = total - failed
    others = "" if not done else "The other one is done. " if done == 1 else f"The other {done} are done. "
    return f"Error: {failure.format(ratio=f'{failed} of {total}')}: {causes}\n       {others}{hint}"


def exceptions_text(report: Report, *, most: int = 50) -> str:
    """What was left out or not done as planned, a line each."""
    lines = [
        f"  {student.username}: {printable(exclusion['path'])}: {printable(exclusion['reason'])}"
        + (" (incomplete)" if exclusion.get("incomplete") else "")
        for student in report.students.values()
        for exclusion in student.details.get("exceptions", ())
    ]
    if len(lines) > most:
        lines = [*lines[:most], f"  … and {len(lines) - most} more (see --json)"]
    return "\n".join(lines)


def changes_text(report: Report, width: int) -> str:
    """`send`: how each file changed for each student. Rows that differ only in student or file are merged."""
    students: dict[tuple[str, str, str], list[str]] = {}
    for student in report.students.values():
        for change in student.details.get("changes", ()):
            students.setdefault((change["path"], change["change"], change["detail"]), []).append(student.username)
    rows: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (path, change, detail), names in students.items():
        rows.setdefault((change, detail, tuple(names)), []).append(path)
    if not rows:
        return ""
    total = len(report.students)
    lines = [
        (names_words(paths), change, f"all {total}" if len(names) == total > 1 else names_words(names), detail)
        for (change, detail, names), paths in rows.items()
    ]
    return table(("file", "change", "students", ""), lines, width)


def retrieved_text(report: Report, width: int) -> str:
    """`retrieve`: which students changed how much, and what was left out. Students without changes share one line."""
    rows, quiet = [], []
    for student in report.students.values():
        details = student.details
        changes, left_out = _changes_words(student), _left_out_words(details["exceptions"])
        if changes == _NOTHING and not left_out:
            quiet.append(student)
        else:
            rows.append((student.username, changes, _since_words(details), details["files"], left_out))
    if len(rows) > _MOST_ROWS:
        rows = [*rows[:_MOST_ROWS], (f"… and {len(rows) - _MOST_ROWS} more", "(see --json)", "", "", "")]
    if quiet:
        others = quiet[0].username if len(quiet) == 1 else f"{'the other' if rows else 'all'} {len(quiet)}"
        rows.append((others, _NOTHING, "", sum(one.details["files"] for one in quiet), ""))
    return table(("student", "changed", "since", "files", "left out"), rows, width)


def _changes_words(student: StudentReport) -> str:
    changed, gone = student.details["changed"], student.details["gone"]
    if student.status in ("failed", "skipped"):
        return "not retrieved"
    if changed is None:
        return "not set up"
    words = [f"{changed} {'file' if changed == 1 else 'files'}" if changed else "", f"{gone} gone" if gone else ""]
    return ", ".join(filter(None, words)) or _NOTHING


def _since_words(details: Mapping[str, Any]) -> str:
    if not details["changed"] and not details["gone"]:
        return ""
    from nblauncher.config import times

    return times.short(times.parsed(details["since"])) if details["since"] else "it was handed out"


def _left_out_words(exceptions: Sequence[Mapping[str, Any]]) -> str:
    incomplete = sum(bool(one["incomplete"]) for one in exceptions)
    return f"{len(exceptions)}{', INCOMPLETE' if incomplete else ''}" if exceptions else ""


def history_text(snapshots: Sequence[Mapping[str, Any]], paths: Mapping[str, int], width: int) -> str:
    """`history NAME`: the snapshots, and the files that have several versions."""
    if not snapshots:
        return "There is no snapshot yet."
    rows = [
        (
            _time_text(snapshot["time"]),
            snapshot["files"],
            bytes_text(snapshot["bytes"]),
            snapshot["changed"],
            "" if snapshot["complete"] else "incomplete",
        )
        for snapshot in snapshots
    ]
    taken = table(("snapshot", "files", "size", "changed", ""), rows, width)
    several = [(path, count) for path, count in paths.items() if count > 1]
    return f"{taken}\n\n{table(('file', 'versions'), several, width)}" if several else taken


def versions_text(versions: Sequence[Mapping[str, Any]], width: int) -> str:
    """`history NAME FILE`."""
    if not versions:
        return "There is no version of this file."
    rows = [
        (
            _time_text(one["first"]),
            _time_text(one["last"]),
            bytes_text(one["bytes"]),
            "present" if one["present"] else "",
        )
        for one in versions
    ]
    return table(("from", "to", "size", ""), rows, width)


def findings_text(findings: Sequence[Finding]) -> str:
    """`check`: a line for each finding, and below it what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:8}{printable(finding.subject)}: {printable(finding.message)}")
        if finding.hint and finding.level != "ok":
            lines += [f"        → {printable(line)}" for line in finding.hint.split("\n")]
    return "\n".join(lines)


def finding_entry(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level,
        "subject": finding.subject,
        "message": finding.message,
        "hint": finding.hint,
    }


_TIMES = frozenset({"snapshot", "from", "to", "until"})


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> str:
    """A plain table; cells from outside are escaped. `width` is the terminal's, in columns. Times stay in one piece."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=column in _TIMES)
    for row in rows:
        grid.add_row(*(Text(printable("" if cell is None else str(cell))) for cell in row))
    stream = io.StringIO()
    Console(file=stream, width=max(width, 60), no_color=True, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _time_text(text: str) -> str:
    from nblauncher.config import times

    return times.short(datetime.fromisoformat(text))


def bytes_text(count: int | None) -> str:
    """12.3 MB; decimal units, as in the config."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    size, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}"
