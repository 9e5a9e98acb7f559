"""What a student meets at their own notebook server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nblauncher.model import Account
from tests.jupyter_client import JupyterClient
from tests.running import PASSWORD, RunningClass, made_account, running_class

pytestmark = pytest.mark.system

ADA_PORT, BOB_PORT = 18501, 18502


@dataclass(frozen=True)
class Class:
    running: RunningClass
    ada: Account
    bob: Account
    ca: Path

    def client(self, account: Account, port: int) -> JupyterClient:
        return JupyterClient(account.username, port, self.ca)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Class]:
    folder = tmp_path_factory.mktemp("class")
    with (
        made_account("nbtvada", 25000) as ada,
        made_account("nbtvbob", 25001) as bob,
        running_class(folder, "nbtv-server", 18500) as running,
    ):
        ca = folder / "ca.pem"
        ca.write_bytes(running.ca.certificate)
        running.ready((ada, ADA_PORT), (bob, BOB_PORT))
        yield Class(running, ada, bob, ca)


@pytest.fixture
def ada(course: Class) -> Iterator[JupyterClient]:
    """Signed in."""
    with course.client(course.ada, ADA_PORT) as client:
        assert client.sign_in(PASSWORD).status_code == 302
        yield client


def test_a_student_signs_in_over_tls_and_runs_a_cell_as_themselves(course, ada):
    assert ada.run("import os; print(os.getuid(), os.getcwd())") == f"{course.ada.uid} {course.ada.home}\n"
