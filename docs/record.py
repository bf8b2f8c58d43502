"""Run the tutorial's commands and keep what they print, and small copies of the pictures that the tutorial shows.

    python docs/record.py        (a few minutes; writes docs/recorded)

A test compares the shape of what is kept with what the same commands print today.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import markdown_blocks
from PIL import Image

RECORDED = markdown_blocks.DOCS / "recorded"
MAX_SIDE = 1000
"""Pictures are made smaller to this, px."""

PICTURES = {
    "quality": "store/tiles/items/slide-S0002/*/quality.png",
    "windows": "store/windows/items/cohort/*/windows.png",
    "contact": "store/rois/items/ct-C0001/*/contact.png",
    "roc": "run/report/roc.svg",
    "survival": "run/report/survival-test-os.svg",
    "heat-map": "explained/P0029/slide-S0021.png",
    "stability": "run/report/stability.svg",
}
"""Name in `recorded` → file below the demo's folder."""


def main() -> None:
    """Run every block of the tutorial in an empty folder and write `recorded`."""
    blocks = [block for block in markdown_blocks.blocks(markdown_blocks.DOCS / "tutorial.md") if not block.not_run]
    with tempfile.TemporaryDirectory() as folder:
        outputs = run(blocks, Path(folder))
        for old in RECORDED.glob("*"):
            old.unlink()
        RECORDED.mkdir(exist_ok=True)
        for block, output in zip(blocks, outputs, strict=True):
            if block.recorded:
                (RECORDED / f"{block.recorded}.txt").write_text(output, encoding="utf-8")
        for name, pattern in PICTURES.items():
            _keep_picture(next((Path(folder) / "demo").glob(pattern)), name)


def run(blocks: list[markdown_blocks.Block], folder: Path) -> list[str]:
    """What each block prints, run one after the other in one shell in `folder`.

    Raises:
        RuntimeError: a block that fails, with what it said.
    """
    mark = "@@ next block @@"
    script = "set -euo pipefail\n" + "".join(f"{block.script}\necho '{mark}'\n" for block in blocks)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    outputs = done.stdout.split(f"{mark}\n")
    if done.returncode:
        raise RuntimeError(f"block {len(outputs)} failed:\n{blocks[len(outputs) - 1].code}\n{done.stderr}")
    return outputs[:-1]


def _keep_picture(file: Path, name: str) -> None:
    if file.suffix == ".svg":
        shutil.copyfile(file, RECORDED / f"{name}.svg")
        return
    with Image.open(file) as picture:
        small = picture.convert("RGB")
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        small.quantize(128).save(RECORDED / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
