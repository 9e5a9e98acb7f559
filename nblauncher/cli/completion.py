"""What a shell completes: commands and options by click, students and sections from the roster in the current folder.

Completion runs whenever a teacher presses a key, as the user of that shell. It reads one file of that folder, and no
state, config or home. A cell of a roster is another person's text: a username is offered if it is one, a section if it
consists of letters, digits, spaces and a few signs that no shell interprets.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator

import click
from click import shell_completion
from click.shell_completion import CompletionItem

from nblauncher.model import USERNAME, Student

VARIABLE = "_NBLAUNCHER_COMPLETE"

_ROSTER = "students.csv"
_MOST_BYTES = 1 << 20
_SECTION = re.compile(r"[\w.+-](?:[\w .+-]{0,60}[\w.+-])?")


class _Names(click.types.StringParamType):
    """`ada`; where `takes_several`, `ada,bob`."""

    def __init__(self, *, takes_several: bool) -> None:
        self._takes_several = takes_several

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, begun = incomplete.rpartition(",") if self._takes_several else ("", "", incomplete)
        found = {student.username: student for student in _students() if USERNAME.fullmatch(student.username)}
        return [
            CompletionItem(f"{before}{comma}{name}", help=_shown(student))
            for name, student in found.items()
            if name.startswith(begun) and name not in before.split(",")
        ]


class _Sections(click.types.StringParamType):
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        sections = dict.fromkeys(student.section.strip() for student in _students())
        return [CompletionItem(one) for one in sections if _SECTION.fullmatch(one) and one.startswith(incomplete)]


def completed(parameter: click.Parameter) -> click.types.StringParamType | None:
    """How to complete this parameter: a student's NAME, a section, or None for what click knows by itself."""
    metavar = parameter.metavar or ""
    if isinstance(parameter, click.Option):
        if "--section" in parameter.opts:
            return _Sections()
        return _Names(takes_several=True) if metavar.startswith("NAME[,NAME") else None
    return _Names(takes_several=False) if metavar.startswith("NAME") else None


def use_own_scripts() -> None:
    """Click's let bash expand `*` in what is offered, let fish end a list of names at its comma, and zsh and fish lose
    the option of `--only=ada`.
    """
    for own in (_Bash, _Zsh, _Fish):
        shell_completion.add_completion_class(own)


def _students() -> Iterable[Student]:
    from nblauncher.config import roster

    return roster.readable(_content())


def _content() -> bytes:
    """Of a regular file, no link, at most a megabyte; else nothing. A FIFO does not hold the shell up."""
    try:
        descriptor = os.open(_ROSTER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            return b""
        return b"".join(_parts(file.fileno()))


def _parts(descriptor: int) -> Iterator[bytes]:
    left = _MOST_BYTES
    try:
        while left and (part := os.read(descriptor, left)):
            left -= len(part)
            yield part
    except OSError:
        return


def _shown(student: Student) -> str:
    """Beside the name in zsh and fish."""
    from nblauncher.printable import printable

    return printable(" ".join(student.name.split()))[:60]


class _Bash(shell_completion.BashComplete):
    """Bash splits `--only=ada` at the sign. What is offered is quoted, unless the word has a quote already."""

    source_template = r"""%(complete_func)s() {
    local IFS=$'\n' word response type value joins=
    local -a words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ $word == '=' && ${#words[@]} -gt 0 && ${words[-1]} == --* ]]; then
            words[-1]+='='
            joins=1
        elif [[ -n $joins ]]; then
            words[-1]+=$word
            joins=
        else
            words+=("$word")
        fi
    done
    response=$(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete \
        "$1" 2>/dev/null)
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                [[ $value != *[!a-zA-Z0-9_.,+-]* || ${words[-1]} == *[\"\']* ]] || printf -v value '%%q' "$value"
                COMPREPLY+=("$value")
                ;;
        esac
    done <<<"$response"
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    @staticmethod
    def _check_version() -> None:
        """The script is made when nblauncher is installed, for whichever bash runs it later."""


class _Whole(shell_completion.ShellComplete):
    """For shells that replace the whole of `--only=ad`."""

    _option = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        option, sign, _ = incomplete.partition("=")
        self._option = option + sign if sign and option.startswith("--") else ""
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(CompletionItem(self._option + item.value, item.type, item.help))


class _Zsh(_Whole, shell_completion.ZshComplete):
    """Click's script completes nothing at the second Tab of a session: only the first call is `loadautofunc`."""

    source_template = shell_completion.ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s"
    )


class _Fish(_Whole, shell_completion.FishComplete):
    source_template = r"""function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \
        %(prog_name)s 2>/dev/null)
    for completion in $response
        set -l metadata (string split -m 1 "," -- $completion)
        switch $metadata[1]
            case dir
                __fish_complete_directories (commandline -t)
            case file
                __fish_complete_path (commandline -t)
            case plain
                printf '%%s\n' $metadata[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""
