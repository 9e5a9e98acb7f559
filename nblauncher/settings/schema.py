"""Every key of notebooks.cfg, once: what it may be, its default as one would write it, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nblauncher.settings import kinds
from nblauncher.settings.kinds import Kind
from nblauncher.settings.values import DEFAULT_PRELOAD


@dataclass(frozen=True, slots=True)
class Key:
    """`default` is YAML; None: nothing is set, and `example` shows what could be."""

    kind: Kind
    default: str | None
    explanation: str
    example: str = ""
    is_required: bool = False


_SOME_NAME = r"|[^\s:/-][^\s:/]*"

SCHEMA: Mapping[str, Key] = {
    "course": Key(
        kinds.text(kinds.COURSE.pattern, "a course name: a letter a-z, then up to 19 of a-z, 0-9 and -"),
        "physics101",
        "The course's name. Its group, state, logs and sockets carry it; two courses on a host need two names.",
        is_required=True,
    ),
    "students": Key(kinds.path, "students.csv", "The roster: a CSV file with a column `username`."),
    "owner": Key(
        kinds.text(_SOME_NAME, "the name of an account"),
        '""',
        "The teacher's account. Empty: whoever runs sudo, or root.",
    ),
    "credentials": Key(
        kinds.path, "credentials.csv", "Where the students' passwords are written, for the teacher's eyes only."
    ),
    "accounts.create": Key(
        kinds.boolean,
        "true",
        "Make an account for each student. false: accounts come from elsewhere (LDAP, shared homes) and are never "
        "locked, given a password or deleted.",
    ),
    "accounts.home": Key(kinds.absolute_path, "/home", "The folder in which new homes are made."),
    "accounts.shell": Key(kinds.program, "/bin/bash", "The login shell of new accounts."),
    "accounts.uid_range": Key(
        kinds.uid_range, "20000-29999", "The uids for new accounts, both ends included. A uid is never used twice."
    ),
    "profile": Key(
        kinds.text(r"|[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "the name of an IPython profile (letters, digits, - and _)"),
        '""',
        "The IPython profile of the owner to hand out to every student. Empty: none.",
    ),
    "material.source": Key(kinds.path, "material", "The folder that `send` hands out to every student."),
    "material.target": Key(kinds.folder_below_home, "tutorial", "What that folder is called in the students' homes."),
    "material.trust": Key(
        kinds.boolean,
        "false",
        "Notebooks arrive signed, so that the JavaScript, widgets and SVG saved in them show at once. Not those that "
        "hold outputs of the student's.",
    ),
    "retrieve.target": Key(kinds.path, "retrieved", "The folder that `retrieve` brings the students' work to."),
    "retrieve.layout": Key(
        kinds.choice("plain", "nbgrader"),
        "plain",
        "How `retrieve --assignment` lays out what it brings. nbgrader: submitted/STUDENT/ASSIGNMENT with a "
        "timestamp.txt, as nbgrader wants it.",
    ),
    "retrieve.max_file": Key(kinds.size, "100 MB", "A larger file is left where it is, and listed."),
    "retrieve.max_student": Key(kinds.size, "1 GB", "The most that is retrieved from one student."),
    "retrieve.max_files": Key(
        kinds.whole_number(1, 10_000_000), "20000", "The most files and folders that are retrieved from one student."
    ),
    "retrieve.max_depth": Key(kinds.whole_number(1, 1000), "64", "How many folders deep the work may be."),
    "deadlines": Key(
        kinds.deadlines,
        "{}",
        "When the work in a folder of the material is captured, for the whole class at one moment: {ps1: 2026-11-27 "
        "17:00}, or {ps1: {at: ..., starts: ...}} where students have extra time in percent.",
    ),
    "history.every": Key(
        kinds.whole_number(0, 10080),
        "0",
        "Minutes between snapshots of everybody's material folder while the class runs. 0: only by `snapshot`.",
    ),
    "history.keep": Key(kinds.whole_number(1, 100_000), "200", "The most snapshots that are kept of one student."),
    "history.days": Key(kinds.whole_number(1, 10_000), "60", "Older snapshots are forgotten, but for the last one."),
    "history.budget": Key(
        kinds.size,
        "2 GB",
        "What all snapshots of the course may take on the disk. Each student has an equal share of it, in which that "
        "student's oldest snapshots make room for new ones. The material itself does not count.",
    ),
    "web.names": Key(
        kinds.hosts,
        "[]",
        "The host's names (or addresses) as students type them; the first one stands in every address. Empty: the "
        "host's own name or address.",
    ),
    "web.bind": Key(kinds.addresses, "[]", "The addresses to listen on. Empty: all, IPv4 and IPv6."),
    "web.port": Key(
        kinds.whole_number(1024, 65000),
        "8000",
        "The port of the front page. Students get the following ones, one each, and keep them.",
    ),
    "web.frontend": Key(
        kinds.choice("direct", "nginx"),
        "direct",
        "direct: every student's server has a port of its own. nginx: an nginx of the class's own is in front of all "
        "servers, with the only key.",
    ),
    "web.routing": Key(
        kinds.choice("ports", "hosts", "paths"),
        "ports",
        "With nginx: ports, one for each student; hosts, NAME.HOST for each, which separates them best and needs a "
        "wildcard in the name service; paths, one port for all of them.",
    ),
    "tls.mode": Key(
        kinds.choice("class-ca", "files", "off"),
        "class-ca",
        "class-ca: certificates signed by the class's own authority. files: your certificate and key. off: no "
        "encryption, anybody on the network can read passwords.",
    ),
    "tls.certificate": Key(
        kinds.path, None, "With mode files: the certificate and its chain, PEM.", "/etc/ssl/class/fullchain.pem"
    ),
    "tls.key": Key(
        kinds.path, None, "With mode files: the private key, PEM, without a passphrase.", "/etc/ssl/class/privkey.pem"
    ),
    "tls.share_key_with_students": Key(
        kinds.boolean,
        "false",
        "With mode files and frontend direct every student can read the key, and could pose as this host on the "
        "network. true says that you know.",
    ),
    "notebook.interface": Key(kinds.choice("notebook", "lab"), "notebook", "What students see: notebook or lab."),
    "notebook.spawner": Key(
        kinds.choice("forkserver", "process"),
        "forkserver",
        "forkserver: servers are forked from a process that has loaded Jupyter once. process: each is a program of its "
        "own, which takes ten times the CPU to start and three times the memory.",
    ),
    "notebook.environment": Key(
        kinds.environment, "{}", 'Variables for servers and kernels, such as {OMP_NUM_THREADS: "1"}.'
    ),
    "notebook.start_deadline": Key(
        kinds.whole_number(5, 3600), "120", "Seconds that a server may take until it answers."
    ),
    "notebook.start": Key(
        kinds.choice("all", "on-demand"),
        "all",
        "all: launch starts every server. on-demand: a server starts when its student comes, and costs nothing before.",
    ),
    "notebook.idle_stop": Key(
        kinds.whole_number(0, 10080),
        "0",
        "Minutes after which a server without kernels, terminals and requests stops until its student comes again; a "
        "kernel that does nothing and that no tab shows ends after as many. 0: never.",
    ),
    "notebook.preload": Key(
        kinds.modules,
        f"[{', '.join(DEFAULT_PRELOAD)}]",
        "Modules that kernels have in memory when they start, as far as the kernels' Python has them; students still "
        "import them. They are imported once, as root: name nothing that writes files or starts threads by being "
        "imported.",
    ),
    "notebook.preload_when": Key(
        kinds.choice("launch", "first-use"),
        "launch",
        "When the processes that servers and kernels are forked from begin to load: first-use saves their memory until "
        "then.",
    ),
    "notebook.requirements": Key(
        kinds.requirements,
        None,
        "The course's packages: a requirements file, or a list. setup builds an environment of them for the kernels "
        "whenever they changed. Without it students have what nblauncher was installed with, and what they add by "
        "%pip.",
        "[numpy, pandas, matplotlib]",
    ),
    "notebook.kernel_python": Key(
        kinds.absolute_path,
        None,
        "Instead of requirements: a Python of yours that runs the kernels, with the packages of the course and "
        "ipykernel.",
        "/opt/physics/bin/python",
    ),
    "limits.memory": Key(
        kinds.or_none(kinds.size),
        "1 GB",
        "What a student's server, kernels and terminals may take together, and their files in /tmp. When it is used up "
        "a kernel ends, and the student is told. none: no limit.",
    ),
    "limits.cpus": Key(
        kinds.or_none(kinds.decimal(0.05, 1024)),
        "1.0",
        "How many processors a student may keep busy, in the mean over a tenth of a second. none: no limit.",
    ),
    "limits.processes": Key(
        kinds.or_none(kinds.whole_number(32, 1_000_000)),
        "256",
        "How many processes and threads a student may have. none: no limit.",
    ),
    "limits.disk": Key(
        kinds.or_none(kinds.size),
        "none",
        "What a student's files may take on the file system of the homes. Held by its quota where it has them; "
        "elsewhere `status` tells who is above it.",
    ),
    "isolation": Key(
        kinds.boolean,
        "true",
        "Each student's server, kernels and terminals have temporary folders of their own and see no other user's "
        "processes. false: they share /tmp and see what everybody runs.",
    ),
}

SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in SCHEMA if "." in key))

SECTION_WORDS: Mapping[str, str] = {
    "accounts": "The students' accounts on this host.",
    "material": "What is handed out.",
    "retrieve": "What comes back, and its limits for one student.",
    "history": "Earlier versions of what students have written.",
    "web": "How the class is reached.",
    "tls": "Encryption.",
    "notebook": "The students' notebook servers.",
    "limits": "What one student may take, so that the others notice nothing.",
}
