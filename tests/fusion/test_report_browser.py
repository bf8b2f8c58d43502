"""The report in Chromium: no complaint on the console, figures drawn, and a click sorts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from runs import write_run

from mumo.fusion import report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

PROBE = """
const table = document.querySelector("details[open] table.sortable");
const column = (place) => Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent);
const found = { before: column(0) };
const head = table.tHead.rows[0].cells;
for (const [name, place] of [["patient", 0], ["risk", 6], ["risk_down", 6], ["pfs", 7]]) {
  head[place].querySelector("button").click();
  found[name] = column(place);
}
found.sort = Array.from(head, (cell) => cell.getAttribute("aria-sort"));
found.figures = Array.from(document.querySelectorAll("figure svg"), (svg) => svg.getBoundingClientRect().width);
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.documentElement.dataset.found = JSON.stringify(found);
"""


def browse(page: Path, folder: Path) -> tuple[str, str]:
    """The page's HTML after its scripts ran, and what Chromium wrote to its log."""
    arguments = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1200,2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_report__runs_its_script_without_complaint(tmp_path: Path) -> None:
    page = report.write_report(write_run(tmp_path / "run"))
    dom, log = browse(page, tmp_path)
    assert "CONSOLE" not in log
    assert '<button type="button">Patient</button>' in dom  # the policy lets the page's own script run


def test_report__policy_stops_other_scripts(tmp_path: Path) -> None:
    page = report.write_report(write_run(tmp_path / "run"))
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{PROBE}</script></body>"))
    dom, log = browse(page, tmp_path)
    assert "data-found" not in dom
    assert "Content Security Policy" in log


def test_report__sorts_by_the_column_that_is_clicked(tmp_path: Path) -> None:
    page = report.write_report(write_run(tmp_path / "run"))
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    page.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    dom, log = browse(page, tmp_path)
    assert "CONSOLE" not in log
    (found,) = (json.loads(value.replace("&quot;", '"')) for value in re.findall(r'data-found="([^"]*)"', dom))
    assert found["patient"] == sorted(found["before"])
    risk = [float(value.replace("−", "-")) for value in found["risk"]]
    assert risk == sorted(risk)
    assert [float(value.replace("−", "-")) for value in found["risk_down"]] == sorted(risk, reverse=True)
    days = [int(value.rstrip("+")) for value in found["pfs"]]
    assert days == sorted(days)
    assert found["sort"].count("ascending") == 1
    assert len(found["figures"]) >= 10
    assert min(found["figures"]) > 200
    assert found["overflow"] <= 0
