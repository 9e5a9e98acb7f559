"""The keys of notebooks.cfg for what comes after a class is prepared: grading and mail. Part of SCHEMA."""

from __future__ import annotations

from collections.abc import Mapping

from nblauncher.config.settings import kinds
from nblauncher.config.settings.keys import Key, Taken

LATER: Mapping[str, Key] = {
    "grading.course": Key(
        Taken.NOW,
        kinds.path,
        "grading",
        "The teacher's folder of the graded course, in nbgrader's layout: source, release, submitted, autograded, "
        "feedback and the gradebook. One that nbgrader made already is used as it is.",
    ),
    "grading.requirements": Key(
        Taken.NOW,
        kinds.requirements,
        "[nbgrader]",
        "The packages of the environment that grades: a requirements file, or a list. It is not the students': their "
        "code runs with the course's packages.",
    ),
    "grading.command": Key(
        Taken.NOW,
        kinds.command,
        "[]",
        "Instead of nbgrader: a program that grades the submission in its working folder, with its arguments. Its "
        "result is a JSON or JUnit file, or its exit code.",
    ),
    "grading.parallel": Key(
        Taken.NOW,
        kinds.whole_number(0, 256),
        "0",
        "How many submissions are graded at the same time. 0: two for each processor.",
        allowed="0 to 256",
    ),
    "grading.seconds": Key(
        Taken.NOW,
        kinds.whole_number(5, 86_400),
        "600",
        "How long one submission may take in all. What takes longer is ended.",
        allowed="5 to 86400",
    ),
    "grading.memory": Key(Taken.NOW, kinds.size, "1 GB", "What one submission's processes may take together."),
    "grading.cpus": Key(
        Taken.NOW,
        kinds.decimal(0.05, 1024),
        "1.0",
        "How many processors one submission may keep busy.",
        allowed="0.05 to 1024",
    ),
    "grading.processes": Key(
        Taken.NOW,
        kinds.whole_number(16, 1_000_000),
        "128",
        "How many processes and threads one submission may have.",
        allowed="16 to 1000000",
    ),
    "grading.disk": Key(
        Taken.NOW, kinds.size, "500 MB", "What the files of one submission may take while it is graded."
    ),
    "grading.output": Key(
        Taken.NOW, kinds.size, "10 MB", "How much output of one submission is kept. The rest is dropped."
    ),
    "grading.uid_range": Key(
        Taken.NOW,
        kinds.uid_range,
        "59000-59999",
        "The uids that submissions are graded as, both ends included; no account may have one of them.",
    ),
    "grading.name": Key(
        Taken.NOW,
        kinds.host_name,
        None,
        "The host's name for grading by hand, which no student's server has. With it `grade serve` listens on the "
        "network; without it only the teacher's ssh leads there.",
        "grading.class.example.org",
    ),
    "grading.port": Key(
        Taken.NOW,
        kinds.whole_number(1024, 65000),
        None,
        "The port of `grade serve`: with grading.name on this host, else on the teacher's own computer. By default the "
        "one before web.port.",
        "7999",
        allowed="1024 to 65000",
    ),
    "mail.host": Key(
        Taken.NOW,
        kinds.host,
        None,
        "The mail server that `mail` sends the slips through, as its certificate names it.",
        "smtp.example.org",
    ),
    "mail.port": Key(
        Taken.NOW,
        kinds.whole_number(1, 65535),
        None,
        "Its port. By default 587 with starttls, 465 with tls.",
        "587",
        allowed="1 to 65535",
    ),
    "mail.security": Key(
        Taken.NOW,
        kinds.choice("starttls", "tls", "none"),
        "starttls",
        "starttls or tls: encrypted, and the server's certificate is verified. none: only for a mail server on this "
        "host.",
    ),
    "mail.from": Key(
        Taken.NOW,
        kinds.mailbox,
        None,
        "The sender of the mails.",
        "Physics 101 <kim@example.org>",
    ),
    "mail.reply_to": Key(Taken.NOW, kinds.mailbox, None, "Where answers go, if not there.", "kim@example.org"),
    "mail.login": Key(
        Taken.NOW,
        kinds.path,
        None,
        "A file with the login of the mail server: the name in its first line, the password in its second. Only its "
        "owner, you or root, may read it (chmod 600). Without it nblauncher does not log in.",
        "mail-login",
    ),
    "mail.authority": Key(
        Taken.NOW,
        kinds.path,
        None,
        "The authority (PEM) that signs the server's certificate, if it is not one that the system knows.",
        "/etc/ssl/certs/our-ca.pem",
    ),
}
