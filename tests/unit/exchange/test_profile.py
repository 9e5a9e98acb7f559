"""Which profile files go out, and which must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from nblauncher.errors import InputError
from nblauncher.exchange.send import profile
from nblauncher.model import Account
from nblauncher.server import ipython_dir


@pytest.fixture
def owner(tmp_path):
    """The account that runs the tests: its workers do not change their uid."""
    return Account("me", os.geteuid(), os.getegid(), tmp_path)


@pytest.fixture
def physics(owner):
    folder = owner.home / ".ipython" / "profile_physics"
    (folder / "startup").mkdir(parents=True)
    return folder


def test_python_files_and_startup_files_go_out_and_nothing_else(owner, physics, tmp_path):
    (physics / "ipython_config.py").write_text("c = get_config()\nc.InteractiveShell.colors = 'nocolor'\n")
    (physics / "startup" / "00-first.py").write_text("import math\n")
    (physics / "history.sqlite").write_bytes(b"everything the teacher ever typed")
    (physics / "ipython_config.json").write_text("{}")
    (physics / "security").mkdir()
    (physics / "security" / "key.py").write_text("x")
    (physics / "startup" / "README").write_text("x")
    found = profile.read_profile(owner, "physics")
    assert set(found.contents) == {"ipython_config.py", "startup/00-first.py"}
    assert found.target == ".ipython/profile_physics"
    assert found.exclusions == ()
    with found.spool(tmp_path) as bundle:
        assert set(bundle.items) == set(found.contents)
        assert {item.sha256 for item in found.index.items} == {item.sha256 for item in bundle.items.values()}


def test_a_profile_without_files_still_makes_its_folder(owner, physics):
    assert set(profile.read_profile(owner, "physics").contents) == {"startup/README"}


@pytest.mark.parametrize(
    "line",
    [
        "c.NotebookApp.password = 'sha1:67c9e60bb8b6:9ffede0825894254b2e042ea597d771089e11aed'",
        "c.PasswordIdentityProvider.hashed_password = u'argon2:x'",
        "c.ServerApp.token = 'abc'",
        "c.NotebookApp.cookie_secret = b'abc'",
        "c.NotebookApp.keyfile = '/home/teacher/key.pem'",
        "c.NotebookApp.certfile = '/home/teacher/cert.pem'",
        "c.NotebookApp.password = passwd(open('x').read())",
        "c.NotebookApp['password'] = 'x'",
        "c['NotebookApp.token']: str = 'x'",
        "c.NotebookApp.port, c.NotebookApp.token = 1, 'x'",
        "c.NotebookApp.token += 'x'",
        "c.update({'NotebookApp': {'password': 'x'}})",
        "c.update({'NotebookApp.password': 'x'})",
        "c.NotebookApp.update(password='x')",
        "setattr(c.NotebookApp, 'password', 'x')",
        "DB_PASSWORD = 'x'",
        "def connect(user, password='x'): pass",
        "def connect(*, token='x'): pass",
        "if (token := 'x'): pass",
        "%load_ext autoreload",
        "c.NotebookApp.password = ",
        "print 'python 2'",
        "x = " + "(" * 5000,
        "\0",
    ],
)
@pytest.mark.parametrize("file", ["ipython_config.py", "startup/50-late.py", "ipython_notebook_config.py"])
def test_a_profile_that_holds_a_secret_is_refused_without_repeating_it(owner, physics, file, line):
    (physics / file).write_text(f"c = get_config()\n{line}\n")
    with pytest.raises(InputError) as caught:
        profile.read_profile(owner, "physics")
    assert len(caught.value.problems) >= 1
    assert all(problem.startswith(file) for problem in caught.value.problems)
    assert "sha1" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "c.NotebookApp.password = ''",
        "c.NotebookApp.token = u''",
        "c.NotebookApp.cookie_secret = b''",
        "c.NotebookApp.certfile = None",
        "c.ServerApp.password_required = True",
        "# c.NotebookApp.password = 'x'",
        "print('token', 3)",
        "tokens = 3",
        "def connect(user, password=None): pass",
    ],
)
def test_what_only_looks_like_a_secret_is_handed_out(owner, physics, line):
    (physics / "ipython_config.py").write_text(line + "\n")
    assert set(profile.read_profile(owner, "physics").contents) == {"ipython_config.py"}


def test_every_problem_is_named_at_once(owner, physics):
    (physics / "ipython_config.py").write_text("token = 'x'\npassword = 'y'\n")
    (physics / "startup" / "1.py").write_text("(")
    with pytest.raises(InputError) as caught:
        profile.read_profile(owner, "physics")
    assert caught.value.problems == (
        "ipython_config.py line 1 sets token",
        "ipython_config.py line 2 sets password",
        "startup/1.py line 1 is not Python that can be checked for secrets",
    )


def test_a_notebook_config_of_old_is_named_as_dead(owner, physics):
    (physics / "ipython_notebook_config.py").write_text("c = get_config()\n")
    (told,) = profile.read_profile(owner, "physics").exclusions
    assert (told.path, told.incomplete) == ("ipython_notebook_config.py", False)


def test_links_in_a_profile_are_left_out_with_a_message(owner, physics, tmp_path):
    (tmp_path / "elsewhere.py").write_text("x = 1\n")
    (physics / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    os.mkfifo(physics / "fifo.py")
    found = profile.read_profile(owner, "physics")
    assert set(found.contents) == {"startup/README"}
    assert {one.path: one.incomplete for one in found.exclusions} == {"linked.py": True, "fifo.py": True}


def test_a_missing_profile_is_an_input_error_that_names_those_there_are(owner, physics):
    (physics.parent / "profile_default").mkdir()
    with pytest.raises(InputError, match="cannot be read") as caught:
        profile.read_profile(owner, "chemistry")
    assert "default, physics" in caught.value.hint


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "x\n"])
def test_a_name_that_is_no_profiles_is_an_input_error(owner, name):
    with pytest.raises(InputError, match="not the name"):
        profile.read_profile(owner, name)


def test_an_enormous_file_is_refused(owner, physics):
    (physics / "huge.py").write_bytes(b"#" * (profile.MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger than"):
        profile.read_profile(owner, "physics")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_kernel_of_the_kernelspec_uses_the_profile_and_survives_without_it(tmp_path, is_there):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(profile.kernelspec(sys.executable, "physics")))
    if is_there:
        startup = tmp_path / ".ipython" / "profile_physics" / "startup"
        startup.mkdir(parents=True)
        (startup / "00.py").write_text("handed_out = 6 * 7\n")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=str(tmp_path / "kernel.json"))
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(spec.parent)])
    manager.start_kernel(env=environment)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        printed = []
        client.execute_interactive(
            "print(globals().get('handed_out'))",
            timeout=60,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(printed).strip() == ("42" if is_there else "None")


@pytest.mark.parametrize(
    "environment, folders",
    [
        ({}, []),
        ({"IPYTHONDIR": "/somewhere/../else"}, []),
        ({"IPYTHONDIR": "~/mine"}, []),
        ({}, [".ipython"]),
        ({}, [".config/ipython"]),
        ({}, [".config/ipython", ".ipython"]),
        ({"XDG_CONFIG_HOME": "HOME/xdg"}, ["xdg/ipython"]),
    ],
)
def test_ipython_dir_prints_what_ipython_itself_would_use_and_makes_nothing(tmp_path, environment, folders):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    settings = {key: value.replace("HOME", str(tmp_path)) for key, value in environment.items()}
    settings = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **settings}

    def printed(code):
        run = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
        return run.stdout

    ours = printed("from nblauncher.server.ipython_dir import main; main()")
    assert sorted(tmp_path.rglob("*")) == before
    if settings.get("IPYTHONDIR", "").startswith("/"):
        assert ours == "/else\n"  # IPython would make it
    else:
        assert ours == printed("from IPython.paths import get_ipython_dir; print(get_ipython_dir())")


def test_ipython_dir_takes_the_home_of_its_caller():
    assert ipython_dir.ipython_dir({}) == str(Path("~").expanduser().resolve() / ".ipython")
