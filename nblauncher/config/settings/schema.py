"""Every key of notebooks.cfg, once: its kind, its default as written in the file, and its meaning."""

from __future__ import annotations

from collections.abc import Mapping

from nblauncher.config.settings import kinds
from nblauncher.config.settings.keys import Key, Taken
from nblauncher.config.settings.later_keys import LATER
from nblauncher.config.settings.slurm_keys import SLURM
from nblauncher.config.settings.values import DEFAULT_PRELOAD

_SOME_NAME = r"|[^\s:/-][^\s:/]*"

SCHEMA: Mapping[str, Key] = {
    "course": Key(
        Taken.NEVER,
        kinds.text(kinds.COURSE.pattern, "a course name: a letter a-z, then up to 19 of a-z, 0-9 and -"),
        "physics101",
        "The course's name. Its group, state, logs and sockets carry it; two courses on a host need two names.",
        is_required=True,
    ),
    "students": Key(Taken.SETUP, kinds.path, "students.csv", "The roster: a CSV file with a column `username`."),
    "owner": Key(
        Taken.NEVER,
        kinds.text(_SOME_NAME, "the name of an account"),
        '""',
        "The teacher's account. Empty: the account that runs sudo, or root.",
    ),
    "credentials": Key(
        Taken.SETUP,
        kinds.path,
        "credentials.csv",
        "Where the students' passwords are written, for the teacher's eyes only.",
    ),
    "accounts.create": Key(
        Taken.SETUP,
        kinds.boolean,
        "true",
        "Make an account for each student. false: accounts come from elsewhere (LDAP, shared homes) and are never "
        "locked, given a password or deleted.",
    ),
    "accounts.home": Key(
        Taken.SETUP, kinds.absolute_path, "/home", "The folder for new homes: root's, and not a system folder."
    ),
    "accounts.shell": Key(Taken.SETUP, kinds.program, "/bin/bash", "The login shell of new accounts."),
    "accounts.system_password": Key(
        Taken.SETUP,
        kinds.choice("generated", "none"),
        "generated",
        "generated: each account also gets a password of its own for logging in to the host. none: the notebook "
        "password is a student's only one, and no password opens the account. `setup` changes existing accounts too.",
    ),
    "accounts.uid_range": Key(
        Taken.SETUP,
        kinds.uid_range,
        "70000-79999",
        "The uids for new accounts, both ends included: above UID_MAX of /etc/login.defs, so that the host's own "
        "useradd takes none of them. A uid is never used twice.",
    ),
    "profile": Key(
        Taken.RELOAD,
        kinds.text(r"|[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "the name of an IPython profile (letters, digits, - and _)"),
        '""',
        "The IPython profile of the owner to hand out to every student. Empty: none.",
    ),
    "material.source": Key(Taken.NOW, kinds.path, "material", "The folder that `send` hands out to every student."),
    "material.target": Key(
        Taken.RESTART,
        kinds.folder_below_home,
        "tutorial",
        "What that folder is called in the students' homes: a plain path, no part of it hidden.",
    ),
    "material.trust": Key(
        Taken.NOW,
        kinds.boolean,
        "false",
        "Notebooks arrive signed, so that the JavaScript, widgets and SVG saved in them show at once. Not those that "
        "hold the student's outputs.",
    ),
    "retrieve.target": Key(
        Taken.NOW, kinds.path, "retrieved", "The folder that `retrieve` brings the students' work to."
    ),
    "retrieve.layout": Key(
        Taken.NOW,
        kinds.choice("plain", "nbgrader"),
        "plain",
        "How `retrieve --assignment` lays out what it brings. nbgrader: submitted/STUDENT/ASSIGNMENT with a "
        "timestamp.txt, as nbgrader wants it.",
    ),
    "retrieve.max_file": Key(
        Taken.NOW,
        kinds.size,
        "100 MB",
        "A larger file is left where it is, and listed. Sizes: B, kB, MB, GB, TB, or KiB, MiB, GiB.",
    ),
    "retrieve.max_student": Key(Taken.NOW, kinds.size, "1 GB", "The most that is retrieved from one student."),
    "retrieve.max_files": Key(
        Taken.NOW,
        kinds.whole_number(1, 10_000_000),
        "20000",
        "The most files and folders that are retrieved from one student.",
        allowed="1 to 10000000",
    ),
    "retrieve.max_depth": Key(
        Taken.NOW, kinds.whole_number(1, 1000), "64", "How many folders deep the work may be.", allowed="1 to 1000"
    ),
    "deadlines": Key(
        Taken.RELOAD,
        kinds.deadlines,
        "{}",
        "When the work in a folder of the material is captured, for the whole class at one moment: {ps1: 2026-11-27 "
        "17:00}, or {ps1: {at: ..., starts: ...}} where students have extra time in percent.",
    ),
    "history.every": Key(
        Taken.RELOAD,
        kinds.whole_number(0, 10080),
        "0",
        "Minutes between snapshots of all students' material folders while the class runs. 0: only by `snapshot`.",
        allowed="0 to 10080",
    ),
    "history.keep": Key(
        Taken.NOW,
        kinds.whole_number(1, 100_000),
        "200",
        "The most snapshots that are kept of one student.",
        allowed="1 to 100000",
    ),
    "history.days": Key(
        Taken.NOW,
        kinds.whole_number(1, 10_000),
        "60",
        "Snapshots older than this many days are deleted, except a student's last one.",
        allowed="1 to 10000",
    ),
    "history.budget": Key(
        Taken.NOW,
        kinds.size,
        "2 GB",
        "What all snapshots of the course may take on the disk. Each student has an equal share of it, in which that "
        "student's oldest snapshots make room for new ones. The material itself does not count.",
    ),
    "web.names": Key(
        Taken.RESTART,
        kinds.hosts,
        "[]",
        "The host's names (or addresses) as students type them; every address has the first one. No https:// "
        "and no port. Empty: the host's own name or address.",
    ),
    "web.bind": Key(Taken.RESTART, kinds.addresses, "[]", "The addresses to listen on. Empty: all, IPv4 and IPv6."),
    "web.port": Key(
        Taken.RESTART,
        kinds.whole_number(1024, 65000),
        "8000",
        "The port of the front page. Students get the following ones, one each, and keep them.",
        allowed="1024 to 65000",
    ),
    "web.frontend": Key(
        Taken.RESTART,
        kinds.choice("direct", "nginx"),
        "direct",
        "direct: every student's server has a port of its own. nginx: the class's own nginx is in front of all servers "
        "and has the only key.",
    ),
    "web.routing": Key(
        Taken.RESTART,
        kinds.choice("ports", "hosts", "paths"),
        "ports",
        "With nginx: ports, one for each student; hosts, NAME.HOST for each, which separates them best and needs a "
        "wildcard in the name service; paths, one port for all of them.",
    ),
    "web.title": Key(
        Taken.RELOAD,
        kinds.words(80),
        '""',
        "The class's title on every page that students see. Empty: the course's name.",
    ),
    "web.greeting": Key(
        Taken.RELOAD,
        kinds.words(1000, has_lines=True),
        '""',
        "A greeting or an announcement on the sign-in page. Shown as text; lines stay lines.",
    ),
    "web.contact": Key(
        Taken.RELOAD,
        kinds.words(200),
        '""',
        "Whom students ask, on the sign-in page: Kim, room 2.12, kim@example.org.",
    ),
    "web.language": Key(
        Taken.RELOAD,
        kinds.text(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}", "a language such as en, de, fr or pt-BR"),
        "en",
        "The language of students' pages, notices, slips and mails: en, de, or that of web.texts.",
    ),
    "web.texts": Key(
        Taken.RELOAD,
        kinds.path,
        None,
        "A file with texts of yours in place of ours, for another language or other words.",
        "texts.yaml",
    ),
    "web.time_zone": Key(
        Taken.RELOAD,
        kinds.time_zone,
        '""',
        "On whose clock students see times: Europe/Berlin. Empty: the host's. Times in this file are the host's.",
    ),
    "tls.mode": Key(
        Taken.RESTART,
        kinds.choice("class-ca", "files", "off"),
        "class-ca",
        "class-ca: certificates signed by the class's own authority. files: your certificate and key. off: no "
        "encryption; every machine on the network can read the passwords.",
    ),
    "tls.certificate": Key(
        Taken.RESTART,
        kinds.path,
        None,
        "With mode files: the certificate and its chain, PEM.",
        "/etc/ssl/class/fullchain.pem",
    ),
    "tls.key": Key(
        Taken.RESTART,
        kinds.path,
        None,
        "With mode files: the private key, PEM, without a passphrase.",
        "/etc/ssl/class/privkey.pem",
    ),
    "tls.share_key_with_students": Key(
        Taken.NOW,
        kinds.boolean,
        "false",
        "With mode files and frontend direct every student can read the key, and could pose as this host on the "
        "network. true says that you know.",
    ),
    "notebook.interface": Key(
        Taken.RESTART, kinds.choice("notebook", "lab"), "notebook", "What students see: notebook or lab."
    ),
    "notebook.spawner": Key(
        Taken.RESTART,
        kinds.choice("forkserver", "process", "slurm"),
        "forkserver",
        "forkserver: servers are forked from a process that has loaded Jupyter once. process: each is a program of its "
        "own, which takes ten times the CPU to start and three times the memory. slurm: each is a job on a cluster.",
    ),
    "notebook.environment": Key(
        Taken.RESTART, kinds.environment, "{}", 'Variables for servers and kernels, such as {OMP_NUM_THREADS: "1"}.'
    ),
    "notebook.start_deadline": Key(
        Taken.RELOAD,
        kinds.whole_number(5, 3600),
        "120",
        "Seconds that a server may take until it answers.",
        allowed="5 to 3600",
    ),
    "notebook.start": Key(
        Taken.RELOAD,
        kinds.choice("all", "on-demand"),
        "all",
        "all: launch starts every server. on-demand: a server starts when its student comes, and costs nothing before.",
    ),
    "notebook.idle_stop": Key(
        Taken.RESTART,
        kinds.whole_number(0, 10080),
        "0",
        "Minutes after which a server without kernels, terminals and requests stops until its student comes again; a "
        "kernel that does nothing and that no tab shows ends after as many. 0: never.",
        allowed="0 to 10080",
    ),
    "notebook.preload": Key(
        Taken.RELOAD,
        kinds.modules,
        f"[{', '.join(DEFAULT_PRELOAD)}]",
        "Modules that kernels have in memory when they start, as far as the kernels' Python has them; students still "
        "import them. They are imported once, as root: name nothing that writes files or starts threads by being "
        "imported.",
    ),
    "notebook.preload_when": Key(
        Taken.RESTART,
        kinds.choice("launch", "first-use"),
        "launch",
        "When the processes that servers and kernels are forked from begin to load: first-use saves their memory until "
        "then.",
    ),
    "notebook.requirements": Key(
        Taken.RELOAD,
        kinds.requirements,
        None,
        "The course's packages: a requirements file, or a list. setup builds an environment of them for the kernels "
        "whenever they changed. Without it students have what nblauncher was installed with, and what they add by "
        "%pip.",
        "[numpy, pandas, matplotlib]",
    ),
    "notebook.kernel_python": Key(
        Taken.RELOAD,
        kinds.absolute_path,
        None,
        "Instead of requirements: a Python of yours that runs the kernels, with the packages of the course and "
        "ipykernel.",
        "/opt/physics/bin/python",
    ),
    "limits.memory": Key(
        Taken.RESTART,
        kinds.or_none(kinds.size),
        "1 GB",
        "What a student's server, kernels and terminals may take together, and their files in /tmp. When it is used up "
        "a kernel ends, and the student is told. none: no limit.",
    ),
    "limits.cpus": Key(
        Taken.RESTART,
        kinds.or_none(kinds.decimal(0.05, 1024)),
        "1.0",
        "How many processors a student may keep busy, in the mean over a tenth of a second. none: no limit.",
        allowed="0.05 to 1024",
    ),
    "limits.processes": Key(
        Taken.RESTART,
        kinds.or_none(kinds.whole_number(32, 1_000_000)),
        "256",
        "How many processes and threads a student may have. none: no limit.",
        allowed="32 to 1000000",
    ),
    "limits.disk": Key(
        Taken.LAUNCH,
        kinds.or_none(kinds.size),
        "none",
        "What a student's files may take on the file system of the homes. Held by its quota where it has them; "
        "elsewhere `status` names the students above it.",
    ),
    **SLURM,
    **LATER,
    "isolation": Key(
        Taken.RESTART,
        kinds.boolean,
        "true",
        "Each student's server, kernels and terminals have temporary folders of their own and see no other user's "
        "processes. false: they share /tmp and see all processes.",
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
    "mail": "How students are sent their passwords, by `mail`.",
    "slurm": "Servers as jobs of a cluster, with notebook.spawner: slurm.",
    "grading": "Grading of an assignment. The limits are those of one submission.",
    "limits": "What one student may take, so that the others notice nothing.",
}
