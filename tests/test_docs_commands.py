"""Every command of the documentation is run as it stands there; the tutorial prints what it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doc_workspaces import add_expression, add_second_cohort, make_own_cohort, make_workspace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import markdown_blocks  # noqa: E402 (a module of the folder `docs`)

MARK = "@@ next block @@"
STOP = 'pids=$(jobs -p); [ -z "$pids" ] || kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -f cluster.json'
"""After each block: programs that it left running in the background are ended."""

REASONS = ("installs packages", "needs a CUDA device", "needs SLURM", "needs a GPU", "needs the scheduler of")
RUN = {
    page.relative_to(markdown_blocks.DOCS).as_posix(): blocks
    for page in markdown_blocks.pages()
    if (blocks := markdown_blocks.blocks(page))
}


def runnable(page: str) -> list[markdown_blocks.Block]:
    return [block for block in RUN[page] if not block.not_run]


def run_page(page: str, folder: Path, environment: dict[str, str], blocks: list[markdown_blocks.Block]) -> list[str]:
    """What each block prints."""
    script = "".join(f"{block.script}\n{STOP}\necho '{MARK}'\n" for block in blocks)
    script = re.sub(r"\b(STORE|RUN)\b", lambda found: found[1].lower(), script)
    program = Path(sys.executable).parent
    process = subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=folder,
        env={**os.environ, "PATH": f"{program}{os.pathsep}{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=900)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    outputs = stdout.split(f"{MARK}\n")
    number = min(len(outputs), len(blocks)) - 1
    assert process.returncode == 0, (
        f"{page}, block {number + 1}:\n{blocks[number].code}\n{stdout[-3000:]}\n{stderr[-3000:]}"
    )
    return outputs[:-1]


def test_pages__blocks_that_are_not_run_have_a_known_reason() -> None:
    reasons = {block.not_run for blocks in RUN.values() for block in blocks if block.not_run}
    assert reasons
    for reason in reasons:
        assert reason.startswith(REASONS), f"{reason!r} is no accepted reason for not running a block"
    assert sum(bool(block.not_run) for blocks in RUN.values() for block in blocks) <= 6


def test_pages__comments_stand_right_before_a_block() -> None:
    for page in markdown_blocks.pages():
        marked = [block for block in markdown_blocks.blocks(page) if block.not_run or block.needs]
        assert len(re.findall(r"^<!-- (?:not run|needs): ", page.read_text(), flags=re.MULTILINE)) == len(marked), page


def test_shape__sees_words_and_not_numbers() -> None:
    assert markdown_blocks.shape("tiles: 8 items\n  P0001 both -0.3\nAUC 0.7 (0.5–0.9)\ntiles: 12 items\n") == [
        "AUC # (#–#)",
        "P#",
        "tiles: # items",
    ]
    assert markdown_blocks.shape("tiles: 8 items") != markdown_blocks.shape("tiles: 8 items, 1 left")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(page for page in RUN if page not in ("tutorial.md", "object-stores.md")))
def test_page__commands_run(page: str, demo: Path, tmp_path: Path) -> None:
    blocks = runnable(page)
    if not blocks:
        pytest.skip("every block of the page is marked with a reason")
    needs = {block.needs for block in blocks} - {""}
    if "own cohort" in needs:
        toml = "\n".join(re.findall(r"```toml\n(.*?)```", (markdown_blocks.DOCS / page).read_text(), flags=re.DOTALL))
        make_own_cohort(tmp_path, demo, toml)
    else:
        make_workspace(tmp_path, demo, "".join(block.script for block in blocks))
    if "expression.csv" in needs:
        add_expression(tmp_path)
    if "second cohort" in needs:
        add_second_cohort(tmp_path)
    assert needs <= {"own cohort", "expression.csv", "second cohort"}
    run_page(page, tmp_path, {"MUMO_CONFIG": str(tmp_path / "quick.toml")}, blocks)


@pytest.mark.slow
def test_object_stores__commands_run(demo: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    blocks = runnable("object-stores.md")
    make_workspace(tmp_path, demo, "".join(block.script for block in blocks))
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    for name in ("cohort-a", "cohort-b"):
        files.put(str(demo / "store") + "/", f"s3://bucket/{name}/", recursive=True)
    profile = tmp_path / "aws.ini"
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    profile.write_text("[profile research]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in keys.items()))
    for name in keys:
        monkeypatch.delenv(name)
    environment = {"MUMO_CONFIG": str(tmp_path / "quick.toml"), "AWS_CONFIG_FILE": str(profile)}
    run_page("object-stores.md", tmp_path, {**environment, "MUMO_CACHE": str(tmp_path / "cache")}, blocks)
    files.rm("s3://bucket", recursive=True)


@pytest.mark.slow
def test_tutorial__shows_what_its_commands_print(demo: Path, tmp_path: Path) -> None:
    first, *others = runnable("tutorial.md")
    assert first.code == "mumo demo demo\n"
    make_workspace(tmp_path, demo, "")
    outputs = [(demo / "output.txt").read_text().replace(str(demo), "demo")]
    outputs += run_page("tutorial.md", tmp_path, {}, others)
    compared = 0
    for block, output in zip([first, *others], outputs, strict=True):
        if block.recorded:
            kept = (markdown_blocks.DOCS / "recorded" / f"{block.recorded}.txt").read_text(encoding="utf-8")
            assert markdown_blocks.shape(output) == markdown_blocks.shape(kept), (
                f"{block.code}\nrun `python docs/record.py`"
            )
            compared += 1
    assert compared >= 5
