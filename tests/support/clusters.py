"""Dask clusters that are started by hand, as the documentation says: a scheduler and workers as programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class HandMade:
    """A running scheduler and its workers; `stop` ends all of them with SIGKILL."""

    file: Path
    options: list[str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one program of distributed in its own session, with this folder importable."""
        folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, *self.options],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.file.parent,
        )
        self.processes.append(process)
        return process

    def add_worker(self, *more: str) -> subprocess.Popen[bytes]:
        """Start one more worker under its nanny."""
        arguments = ["--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard"]
        return self.start("worker", *arguments, "--host", "127.0.0.1", *more)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def hand_made_cluster(folder: Path, *, workers: int = 2, tls: Path | None = None) -> Iterator[HandMade]:
    """A cluster on 127.0.0.1; with `tls`, a folder that holds ca.pem, cert.pem and key.pem, everything is encrypted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = []
    if tls is not None:
        names = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        options = [part for name, file in names.items() for part in (f"--tls-{name}", str(tls / file))]
    cluster = HandMade(folder / "scheduler.json", options)
    try:
        address = "tls://127.0.0.1:0" if tls is not None else "tcp://127.0.0.1:0"
        cluster.start("scheduler", "--host", address, "--no-dashboard", "--scheduler-file", str(cluster.file))
        until = time.monotonic() + 120
        while not cluster.file.exists():
            assert time.monotonic() < until, "the scheduler does not start"
            time.sleep(0.1)
        for _ in range(workers):
            cluster.add_worker(*(["--protocol", "tls"] if tls is not None else []))
        yield cluster
    finally:
        cluster.stop()


def make_certificates(folder: Path) -> Path:
    """A certificate authority and one certificate that it signed, by openssl, as the documentation says."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=our-cluster-ca -keyout ca-key.pem -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=our-cluster -keyout key.pem -out request.pem",
        "x509 -req -days 30 -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out cert.pem",
    ):
        subprocess.run(["openssl", *command.split()], check=True, cwd=folder, capture_output=True)
    return folder
