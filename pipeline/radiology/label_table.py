"""ITK-SNAP's label descriptions: which structure each value of a label mask is."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputError

_MAX_BYTES = 1 << 20
_LINE = re.compile(r'\s*(\d+)(?:\s+\S+){6}\s+"([^"]*)"\s*')


def read_label_table(path: Path) -> dict[int, str]:
    """Label → name, from a file that ITK-SNAP's "Export Label Descriptions" writes.

    A line is the label, red, green, blue, opacity, two flags, and the name in quotes; `#` begins a comment. Label 0 is
    the background and left out.

    Raises:
        InputError: no such file, over 1 MiB, not text, or a line of another form.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"label table: found {path.stat().st_size} bytes; expected at most {_MAX_BYTES}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"label table: expected a readable text file, found none ({type(error).__name__})") from None
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(
                f'label table: line {number}: expected `label red green blue opacity visible mesh "name"`, found '
                "something else; export it again from ITK-SNAP (Segmentation, Export Label Descriptions)"
            )
        names[int(found[1])] = found[2].strip()
    names.pop(0, None)
    return names
