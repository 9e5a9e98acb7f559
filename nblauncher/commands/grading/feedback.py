"""feedback: nbgrader's pages, rendered as the teacher, and each student's own put into their home as the student.

The pages of one student pass through root in a file of their own: no process of a student's can read another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from nblauncher.commands import send
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.errors import HostError, InputError
from nblauncher.exchange.send import delivery, material, news
from nblauncher.exchange.send.material import Bundle
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.grading import feedback, teacher_tool
from nblauncher.grading.by_command import teacher_child
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.feedback import Pages
from nblauncher.model import UNRELATED, Account, HandedOut, Material
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, Report
from nblauncher.system import workers

FOLDER = "feedback"
"""Below the home."""

GIVEN = "feedback"
"""The kind of what the ledger remembers: the pages that a student was given."""
TOLD = "feedback news"
"""The pages that the student's news has told of."""

_STARTING = 300.0
_FOR_EACH = 60.0
"""Seconds to render one student's pages at most."""
_READ_ONLY = 0o400
_MOST_NAMES = 10

AllGiven = Mapping[str, Mapping[str, HandedOut]]


@dataclass
class Run:
    """One rendering: `pages` by username, once it is done."""

    assignment: str
    pages: Mapping[str, Pages] | None = None

    @property
    def rendered(self) -> Mapping[str, Pages]:
        if self.pages is None:
            raise HostError("no feedback was rendered")
        return self.pages


def prepare(host: Host, usernames: Sequence[str], run: Run) -> Plan:
    """Render first, before any lock is held; then deliver what each student lacks."""
    _refuse_target(host.settings.material)
    facts = survey.survey(host, usernames)
    names = send.served(usernames, facts)
    if run.pages is None:
        teacher_tool.refuse_root(host.owner)
        if not host.settings.grading.command:
            teacher_tool.python_of(host.paths.grading_environments)
        remarks = (*notes(usernames, facts), *send.unserved(usernames, facts))
        rendering = Phase("render", (Render(tuple(names), run),) if names else (), is_preparation=True)
        return Plan((rendering,), remarks)
    if not run.pages:
        raise InputError(
            f"{run.assignment}: none of these students has a graded submission; nothing was changed",
            f"Grade it first: `nblauncher grade {run.assignment}`.",
        )
    known = {kind: host.course_ledger.all_handed_out(kind, names) for kind in (GIVEN, TOLD)}
    steps = plan([name for name in names if name in facts.with_records], run, known[GIVEN], known[TOLD])
    return Plan((Phase("deliver", steps, parallel=send.AT_ONCE),) if steps else ())


def plan(usernames: Sequence[str], run: Run, given: AllGiven, told: AllGiven) -> tuple[Deliver, ...]:
    """A step for each student with a page that is new, or that could not be rendered."""
    return tuple(
        Deliver(name, run)
        for name in usernames
        if (pages := run.rendered.get(name)) is not None
        if pages.error or _differing(pages, given.get(name, {})) or _differing(pages, told.get(name, {}))
    )


def summary(run: Run, report: Report) -> str:
    """What more there is to say; '' when the ordinary sentence says it all."""
    if run.pages is None:
        return ""
    ungraded = [name for name in report.students if name not in run.pages]
    waiting = [name for name, pages in run.pages.items() if pages.is_waiting and name in report.students]
    done = sum(bool(student.details.get("files")) for student in report.students.values())
    homes = f"{done} home{'' if done == 1 else 's'}"
    lines = [f"Put the feedback on {run.assignment} into {homes}." if done else ""]
    lines += [f"Not graded yet: {_names(ungraded)}."] if ungraded else []
    lines += [f"Not graded by hand yet, and given as it is: {_names(waiting)}."] if waiting and done else []
    if report.is_partial:
        lines.append("The pages that were not placed are tried again by the next run.")
    elif not report.done:
        lines.append("feedback: nothing to do.")
    return "\n".join(filter(None, lines))


@dataclass(frozen=True)
class Render:
    """nbgrader renders, as the teacher, what changed since it did so last."""

    students: tuple[str, ...]
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        count = len(self.students)
        return f"render what changed of the feedback on {self.run.assignment}, of {count} student{'s' * (count != 1)}"

    def apply(self, host: Host) -> None:
        host.tell(self.describe())
        if host.settings.grading.command:
            order = (host.settings.grading.course, self.run.assignment, self.students)
            self.run.pages = feedback.from_answer(
                workers.run_as(host.owner, teacher_child.pages, *order, timeout=_STARTING), self.run.assignment
            )
            return
        self.run.pages = self._rendered(host)

    def _rendered(self, host: Host) -> Mapping[str, Pages]:
        python = teacher_tool.python_of(host.paths.grading_environments)
        order = {"assignment": self.run.assignment, "students": self.students}
        longest = _STARTING + _FOR_EACH * len(self.students)
        folder = host.settings.grading.course
        answer = teacher_tool.ask(host.owner, python, "feedback", order, folder=folder, timeout=longest)
        return feedback.from_answer(answer, self.run.assignment)


@dataclass(frozen=True)
class Deliver(ForOne):
    """A child that is the teacher reads the pages, one that is the student places them."""

    run: Run

    def describe(self) -> str:
        return f"put the feedback on {self.run.assignment} into the home of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        pages = self.run.rendered[self.username]
        if pages.error:
            raise HostError(
                f"nbgrader could not render the feedback: {pages.error}", "What the home has was left as it is."
            )
        account = survey.student_account(host, self.username)
        placed = self._place(host, account, pages)
        self._tell(host, account, pages, placed)
        work = placed.work
        changes = [{"path": one.path, "change": one.change, "detail": one.detail} for one in placed.changes]
        return {self.username: {**work_details(work.files, work.bytes, work.exclusions), "changes": changes}}

    def _place(self, host: Host, account: Account, pages: Pages) -> delivery.Delivery:
        """Without merging: a page that the student changed stays, and the new one is put beside it."""
        given = host.course_ledger.handed_out(self.username, GIVEN)
        items = _differing(pages, given)
        if not items:
            return delivery.Delivery()
        assignment = self.run.assignment
        folder = CourseFolder(host.settings.grading.course).feedback(self.username, assignment)
        source = Material(folder, FOLDER, folder=assignment)
        with material.spool(source, host.owner, [item.path for item in items], host.paths.state) as bundle:
            unmergeable = {path: replace(known, base=UNRELATED) for path, known in given.items()}
            shipment = delivery.Shipment(
                FOLDER, items, _read_only(bundle), unmergeable, date.today(), restores_deleted=True
            )
            placed = delivery.deliver(account, shipment)
        host.course_ledger.record_handed_out(self.username, GIVEN, placed.handed_out)
        self._check(placed)
        return placed

    def _tell(self, host: Host, account: Account, pages: Pages, placed: delivery.Delivery) -> None:
        """In the news of the material folder. Recorded by itself, so that it is told once even after a crash."""
        told = host.course_ledger.handed_out(self.username, TOLD)
        given = host.course_ledger.handed_out(self.username, GIVEN)
        there = [item for item in _differing(pages, told) if item.path in given]
        if not there:
            return
        beside = {one.path: one.detail for one in placed.outcomes if one.outcome == delivery.BESIDE}
        lines = tuple(_line(beside.get(item.path, item.path), is_again=item.path in told) for item in there)
        if not _has_own_news(host):
            known = host.course_ledger.handed_out(self.username, send.MATERIAL)
            target = host.settings.material.target
            with material.bundle_of({}, host.paths.state) as nothing:
                shipment = delivery.Shipment(
                    target, (), nothing, known, date.today(), news_time=send.news_time(), lines=lines
                )
                delivered = delivery.deliver(account, shipment)
            host.course_ledger.record_handed_out(self.username, send.MATERIAL, delivered.handed_out)
            self._check(delivered)
        records = {item.path: HandedOut(item.sha256, item.size, 0, 0, 0, UNRELATED) for item in there}
        host.course_ledger.record_handed_out(self.username, TOLD, records)

    def _check(self, delivered: delivery.Delivery) -> None:
        if delivered.failure:
            again = f"Make room, then run `nblauncher feedback {self.run.assignment}` again."
            raise HostError(delivered.failure, f"What was delivered stays. {again}")


def _differing(pages: Pages, known: Mapping[str, HandedOut]) -> tuple[Item, ...]:
    return tuple(item for item in pages.items if (one := known.get(item.path)) is None or one.sha256 != item.sha256)


def _read_only(bundle: Bundle) -> Bundle:
    return replace(bundle, items={path: replace(item, mode=_READ_ONLY) for path, item in bundle.items.items()})


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _line(path: str, *, is_again: bool) -> str:
    words = "new feedback on your work, in place of the earlier one" if is_again else "feedback on your work"
    return f"{news.code(f'~/{FOLDER}/{path}')}: {words}"


def _has_own_news(host: Host) -> bool:
    """Whether the teacher hands out a file where the news would be."""
    known = material.recall(send.remembered_index(host))
    return known is not None and any(item.path == delivery.NEWS for item in known.items)


def _refuse_target(place: Material) -> None:
    if place.target.split("/")[0] == FOLDER:
        raise InputError(
            f"material.target is {place.target}: feedback has its own folder `{FOLDER}` in the homes, and hand-ins "
            "would be mixed with it",
            "Choose another material.target. Nothing was changed.",
        )
