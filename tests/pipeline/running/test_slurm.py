"""The recipe for SLURM in docs/clusters.md, word for word, with stand-ins for `sbatch` and `scancel`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import make_certificates
from stand_in_stages import Copying, make_items

from mumo.config import load_settings
from mumo.pipeline.running.cluster import DaskCluster
from mumo.pipeline.running.planning import plan_items
from mumo.pipeline.running.sources import SourceDigests
from mumo.pipeline.running.tasks import Task
from mumo.stores.records import Store

DOCUMENT = Path(__file__).parents[3] / "docs" / "clusters.md"
# dask-jobqueue deletes the script as soon as sbatch returns, so the job runs a copy, as under SLURM
SBATCH = (
    '#!/bin/sh\ncp "$1" "$JOBS/script"\ncp "$1" "$JOBS/job-$$"\n'
    'sh "$JOBS/job-$$" > "$JOBS/log" 2>&1 &\necho "Submitted batch job $!"\n'
)
SCANCEL = '#!/bin/sh\nkill -9 "$1"\n'


def recipe(folder: Path) -> Path:
    """The documented program, on the network of this machine."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("## SLURM")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    assert 'interface="ib0"' in code
    file = folder / "cluster.py"
    file.write_text(code.replace('interface="ib0"', 'interface="lo"'))
    return file


def stand_ins(folder: Path) -> Path:
    (folder / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_slurm_recipe__jobs_start_when_there_is_work_and_compute_it(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls")
    support = str(Path(__file__).parents[2] / "support")
    environment = {
        **os.environ,
        "PATH": f"{stand_ins(tmp_path)}{os.pathsep}{os.environ['PATH']}",
        "JOBS": str(tmp_path),
        "PYTHONPATH": support,
    }
    cluster = subprocess.Popen(
        [sys.executable, "-u", str(recipe(tmp_path))],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        assert address.startswith("tls://127.0.0.1:")
        files = [
            f"run.tls_ca_file={tls / 'ca.pem'}",
            f"run.tls_cert={tls / 'cert.pem'}",
            f"run.tls_key={tls / 'key.pem'}",
        ]
        settings = load_settings(None, [*files, "run.worker_wait_s=60"])
        stage, store = Copying(make_items({f"i{n}": "text" for n in range(8)})), Store.create(tmp_path / "store")
        planned = plan_items(stage, stage.items, store, SourceDigests(store.path / "digests.json"))
        with DaskCluster(address, settings) as executor:
            statuses = list(executor.run([Task(stage, plan, settings, store) for plan in planned]))
        assert sorted(status.result for status in statuses) == ["ok"] * 8
        script = (tmp_path / "script").read_text()
        for expected in ("#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G", "#SBATCH -t 12:00:00", "--tls-ca-file"):
            assert expected in script
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.wait()
