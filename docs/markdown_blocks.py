"""What the pages of the documentation hold: commands to run, and outputs that were recorded from them.

A block of `sh` or `python` is run as it stands, page by page from top to bottom, by the tests. A comment before a block
says what a reader of the page has that the test must make first, or why it is not run:

    <!-- not run: needs a SLURM cluster -->
    <!-- needs: own cohort -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent

_BLOCK = re.compile(
    r"(?:^<!-- (?P<key>not run|needs): (?P<value>[^>]+?) -->\n)?^```(?P<language>sh|python)\n(?P<code>.*?)^```$"
    r"(?:\n+```\{literalinclude\} (?:\.\./)*recorded/(?P<recorded>[\w-]+)\.txt$)?",
    re.MULTILINE | re.DOTALL,
)
_INSTALL = re.compile(r"^(\S*/)?pip install\b")


@dataclass(frozen=True)
class Block:
    """One block of commands."""

    language: str
    code: str
    not_run: str
    """Why it is not run; empty where it is."""
    needs: str
    """What must be there first beyond a cohort, a store and a run; empty: nothing."""
    recorded: str
    """Name of the file in `recorded` that shows its output below it; empty where none is shown."""

    @property
    def script(self) -> str:
        """The block for bash, without lines that install packages, which need a network."""
        if self.language == "python":
            return f"python - <<'END_OF_BLOCK'\n{self.code}END_OF_BLOCK\n"
        return "".join(line for line in self.code.splitlines(keepends=True) if not _INSTALL.match(line))


def pages() -> list[Path]:
    """All pages of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The blocks of commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        key, value = match["key"], (match["value"] or "").strip()
        found.append(
            Block(
                language=match["language"],
                code=match["code"],
                not_run=value if key == "not run" else "",
                needs=value if key == "needs" else "",
                recorded=match["recorded"] or "",
            )
        )
    return found


def shape(output: str) -> list[str]:
    """What stays the same of an output whatever the cohort: its lines with numbers masked and blanks made one, sorted.

    Rows of patients are masked whole. Lines that are the same then count once: their number depends on the cohort, and
    so does the order of a run's parts.
    """
    lines = [re.sub(r"^\s*P\d+ .*", "P#", line) for line in output.splitlines()]
    lines = [re.sub(r"-?\d[\d.,e+-]*", "#", line) for line in lines]
    return sorted({" ".join(line.split()) for line in lines} - {""})
