"""Fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import s3fs
from filelock import FileLock

# Worker processes import stand-in stages and builders from here by name.
sys.path.insert(0, str(Path(__file__).parent / "support"))

from object_stores import Server, s3_server

# The same examples in every run; `pytest --hypothesis-profile=exploring` draws new ones. No deadline: on a busy machine
# an example can take any time, which says nothing of the code.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("exploring", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

# Two cores are shared by the test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, CT and tables beside the checkout; tests that need it are skipped elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def object_server() -> Iterator[Server]:
    """A local S3-compatible server."""
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(object_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new bucket of the local server; the environment is what a user would set to reach it."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished `mumo demo` with 40 patients; its output is in `output.txt`. Made once, never changed."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "demo"
    with FileLock(shared / "demo.lock"):
        if not (folder / "output.txt").exists():
            command = [sys.executable, "-m", "mumo.cli", "demo", str(folder), "--patients", "40"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "output.txt").write_text(done.stdout)
    return folder
