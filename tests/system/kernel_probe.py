"""Run as a cell: everything that a student's code can find out about its kernel and that must not depend on how the
kernel was started. One JSON object on stdout; `pid` is the only value that may differ.
"""

import gc
import json
import locale
import logging
import multiprocessing
import os
import pathlib
import re
import resource
import signal
import site
import sys
import sysconfig
import tempfile
import threading
import time
import warnings

import IPython.paths
import jedi  # noqa: F401 (what it keeps is looked at)
import jupyter_core.paths
import matplotlib
import matplotlib.font_manager
import matplotlib.pyplot
import numpy
import pandas
import threadpoolctl

warnings.simplefilter("ignore")

seen = {
    "pid": os.getpid(),
    "argv": [os.path.basename(sys.argv[0]), sys.argv[1], *sys.argv[3:]],
    "orig_argv": [*sys.orig_argv[:4], *sys.orig_argv[5:]],
    "path": sys.path,
    "flags": str(sys.flags),
    "executable": sys.executable,
    "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, site.PREFIXES],
    "base executable": getattr(sys, "_base_executable", ""),
    "sysconfig": sysconfig.get_paths(),
    "config vars": {key: str(value) for key, value in sysconfig.get_config_vars().items()},
    "user site": [site.USER_BASE, site.USER_SITE, site.ENABLE_USER_SITE],
    "temporary folder": tempfile.gettempdir(),
    "working folder": os.getcwd(),
    "locale": [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), sys.getfilesystemencoding()],
    "utf8": sys.flags.utf8_mode,
    "time": [time.tzname, time.timezone, time.strftime("%Z")],
    "environment": {
        key: value for key, value in os.environ.items() if key not in ("JPY_PARENT_PID", "JPY_SESSION_NAME")
    },
    "signals": {
        number.name: str(getattr(signal.getsignal(number), "__name__", signal.getsignal(number)))
        for number in signal.Signals
    },
    "masks": [
        line
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.split(":")[0]
        in (
            *("SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Umask", "THP_enabled"),
            *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
        )
    ],
    "limits": {name: resource.getrlimit(value) for name, value in vars(resource).items() if name.startswith("RLIMIT_")},
    "umask": os.umask(0o077),
    "nice": os.nice(0),
    "out of memory": pathlib.Path("/proc/self/oom_score_adj").read_text(),
    "cgroup": pathlib.Path("/proc/self/cgroup").read_text(),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "affinity": sorted(os.sched_getaffinity(0)),
    "threads": sorted(re.sub("[0-9]+", "", thread.name) for thread in threading.enumerate()),
    "main": [__name__, sorted(key for key in vars(sys.modules["__main__"]) if key.startswith("__"))],
    # Where input comes from does not matter; how many zmq has depends on the moment.
    "descriptors": sorted(
        {
            re.sub(":\\[[0-9]+\\]", "", os.readlink(f"/proc/self/fd/{number}"))
            for number in os.listdir("/proc/self/fd")
            if number != "0" and os.path.lexists(f"/proc/self/fd/{number}")
        }
    ),
    "gc": [gc.get_threshold(), gc.isenabled()],
    "recursion": sys.getrecursionlimit(),
    "hooks": [sys.excepthook.__name__, sys.displayhook.__class__.__name__, sys.gettrace(), sys.getprofile()],
    "streams": [
        [type(one).__name__, one.encoding, one.errors, one.line_buffering if hasattr(one, "line_buffering") else None]
        for one in (sys.__stdin__, sys.__stdout__, sys.__stderr__, sys.stdin, sys.stdout, sys.stderr)
    ],
    "logging": [len(logging.getLogger().handlers), logging.getLogger().level],
    "nblauncher is loaded": any(name.partition(".")[0] == "nblauncher" for name in sys.modules),
    "dumpable": os.access("/proc/self/mem", os.R_OK),
}


seen["jupyter"] = [
    jupyter_core.paths.jupyter_path(),
    jupyter_core.paths.jupyter_config_path(),
    jupyter_core.paths.jupyter_runtime_dir(),
    IPython.paths.get_ipython_dir(),
    get_ipython().profile_dir.location,  # noqa: F821
]


seen["matplotlib"] = [
    matplotlib.get_configdir(),
    matplotlib.get_cachedir(),
    matplotlib.matplotlib_fname(),
    matplotlib.get_backend(),
    {key: str(value) for key, value in matplotlib.rcParams.items()},
    sorted(font.fname for font in matplotlib.font_manager.fontManager.ttflist),
    matplotlib.font_manager.X11FontDirectories,
    list(matplotlib.style.core.USER_LIBRARY_PATHS)
    if hasattr(matplotlib.style, "core")
    else matplotlib.style.USER_LIBRARY_PATHS,
    sorted(matplotlib.style.available),
]
seen["libraries"] = threadpoolctl.threadpool_info()
seen["options"] = {key: str(pandas.get_option(key)) for key in pandas._config.config._registered_options}
seen["numpy"] = [str(numpy.get_printoptions()), numpy.geterr()]

seen["start method"] = multiprocessing.get_start_method()
seen["modules"] = {
    name: getattr(sys.modules[name], "__file__", None)
    for name in ("numpy", "pandas", "matplotlib", "IPython", "ipykernel")
}


def constants():
    """Texts in modules that hold a path below somebody's home or runtime folder."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        for key, value in sorted(vars(module).items()) if hasattr(module, "__dict__") else ():
            if isinstance(value, (str, os.PathLike)) and (
                "/home/" in str(value) or "/run/" in str(value) or "/root" in str(value)
            ):
                found[f"{name}.{key}"] = str(value)
    return found


seen["constants"] = {key: value for key, value in constants().items() if not key.startswith("__main__.")}
print(json.dumps(seen))
