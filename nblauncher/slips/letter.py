"""A slip as a mail. No cell of the roster but the address is in its header, and that is one plain address. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from nblauncher.slips import page
from nblauncher.slips.slip import Course, Slip


@dataclass(frozen=True, slots=True)
class Sender:
    """What the header of every mail says."""

    name: str
    address: str
    reply_to: str
    subject: str


def message(course: Course, slip: Slip, to: str, sender: Sender, identity: str, now: datetime) -> EmailMessage:
    """`to` is from `mail_address`. `identity` is the same when the same mail is sent again, so that it can be told."""
    mail = EmailMessage(policy=SMTP.clone(utf8=not to.isascii()))
    mail["From"] = Address(sender.name, addr_spec=sender.address)
    mail["To"] = Address(addr_spec=to)
    if sender.reply_to:
        mail["Reply-To"] = Address(addr_spec=sender.reply_to)
    mail["Subject"] = sender.subject
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{course.name}.{identity}@{sender.address.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices to the teacher
    shown = {"course": course, "slip": slip, "t": course.texts}
    mail.set_content(page.template("letter.txt").render(shown), cte="quoted-printable")
    html = page.template("letter.html").render(shown)
    mail.add_alternative(html, subtype="html", cte="quoted-printable")
    mail["Content-Language"] = course.texts.language
    return mail
