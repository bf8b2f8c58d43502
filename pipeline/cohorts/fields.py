"""Each field of the cohort's tables: which words it accepts, how a cell is read, and what is said when it cannot be.

A parser takes one cell as text, never blank, and returns the value in mumo's own words and units.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...config import LESION_TYPES, ClinicalSettings
from ...errors import MumoError
from .cohort_file import near_match

RECIST = ("CR", "PR", "SD", "PD", "non-CR/non-PD")
SEX = ("male", "female")
SITE = ("GEJ", "non-GEJ")
LINE = ("first", "later")
DIFFERENTIATION = ("poor", "moderate", "well", "diffuse")
LAUREN = ("intestinal", "diffuse", "mixed")
LYMPH_NODES = ("none", "separate", "fused")
MULTIPLE_METASTASES = ("none", "liver", "lung", "both")
YES = ("1", "true", "yes")
NO = ("0", "false", "no")
HER2_LEVELS = 4
"""HER2 levels 0, 1+, 2+, 3+, in the order of the shares."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})([ T].*)?")
_YEAR_LAST = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1([0-9]{4})")
"""A date as 31.12.2020 or 12/31/2020: day and month may be either way round, only the year is kept."""
_HER2_UNIFORM = re.compile(r"(none)?\(?all([0-3])\+?\)?")
_HER2_MIXED = re.compile(r"(heterogeneity)?\(?([^()]*)\)?")
_HER2_ENTRY = re.compile(r"([0-3])\+([0-9]+(?:\.[0-9]*)?)?%?")
_SHARE_TOLERANCE = 0.005
_MAX_TEXT = 1000


class CellError(MumoError):
    """A cell cannot be used. Raised by parsers, caught by the loader, which adds table, row and column."""

    def __init__(self, expected: str, hint: str = "", severity: Literal["error", "warning"] = "error") -> None:
        super().__init__(expected)
        self.expected = expected
        """What the field accepts."""
        self.hint = hint
        """What the user can do, beyond correcting the cell; never repeats the cell."""
        self.severity = severity
        """`warning`: the entry is incomplete and counts as unknown."""


@dataclass(frozen=True)
class FieldSpec:
    """One field of a table."""

    name: str
    expected: str
    """What it accepts, for messages."""
    parse: Callable[[str], Any]
    """Cell → value; raises CellError."""
    words: tuple[str, ...] = ()
    """The closed vocabulary, where there is one."""
    required: bool = False
    """Whether every row needs it."""
    unit: str = ""
    """Unit of a field that is a number which may have decimals; empty: no such field."""


def normal(text: str) -> str:
    """`text` as words are compared: full-width forms made plain, case folded, blanks collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def patient_fields(clinical: ClinicalSettings) -> dict[str, FieldSpec]:
    """Fields of the table of patients and of report tables, by name."""
    return _by_name(
        _text("patient", "an id: letters, digits, '.', '_', '-'", required=True),
        _text("centre", "the name of a centre"),
        _text("treatment_group", "one of the treatment groups of [labels] cutoff_days"),
        _word("recist", RECIST),
        _number("pfs_days", 0, 50_000, "days"),
        _yes_no("pfs_event"),
        _number("os_days", 0, 50_000, "days"),
        _yes_no("os_event"),
        _whole("pathology_time", 0, 2),
        _whole("radiology_time", 0, 2),
        _word("sex", SEX),
        _number("age", 0, 120, "years"),
        _word("site", SITE),
        _word("line", LINE),
        _start_year(clinical.start_year_edges),
        _word("differentiation", DIFFERENTIATION),
        _word("lauren", LAUREN),
        _disease_sites(clinical.disease_sites),
        _share("tils"),
        _share("tumour_proportion"),
        FieldSpec("her2_heterogeneity", _HER2_EXPECTED, parse_her2),
        *(_share(f"her2_share_{level}") for level in range(HER2_LEVELS)),
        _yes_no("primary_present"),
        _yes_no("peritoneal_metastasis"),
        _yes_no("gastrectomy"),
        _whole("metastatic_lesions", 0, clinical.max_metastatic_lesions),
        _word("lymph_nodes", LYMPH_NODES),
        _lymph_node_sites(clinical.lymph_node_sites),
        _word("multiple_metastases", MULTIPLE_METASTASES),
    )


def slide_fields() -> dict[str, FieldSpec]:
    """Fields of the table of slides, by name."""
    return _by_name(
        _text("slide", "an id: letters, digits, '.', '_', '-'", required=True),
        _text("patient", "the id of a patient", required=True),
        _text("path", "the path of a slide file", required=True),
        _text("annotation", "the path of an annotation: XML of ASAP or ImageScope, GeoJSON, or a label image"),
        _number("mpp", 0.01, 100, "µm/px"),
        _yes_no("white_balance"),
    )


def ct_fields() -> dict[str, FieldSpec]:
    """Fields of the table of CT studies, by name."""
    return _by_name(
        _text("ct", "an id: letters, digits, '.', '_', '-'", required=True),
        _text("patient", "the id of a patient", required=True),
        _text("path", "the path of a DICOM folder or a volume file", required=True),
        _text("series_uid", "a DICOM series UID"),
        _text("mask", "the path of a label mask"),
        _text("label_table", "the path of ITK-SNAP's label descriptions"),
    )


BOX = ("x_low", "y_low", "z_low", "x_high", "y_high", "z_high")
"""Fields of a lesion's box, in the order of `Lesion.box`."""


def lesion_fields() -> dict[str, FieldSpec]:
    """Fields of the table of lesions, by name."""
    return _by_name(
        _text("lesion", "an id: letters, digits, '.', '_', '-'", required=True),
        _text("ct", "the id of a CT study", required=True),
        _word("lesion_type", LESION_TYPES),
        _text("mask", "the path of a label mask"),
        _whole("label", 1, 65_535),
        _text("roi", "the name or number of a region"),
        *(_number(name, -1e5, 1e5, "voxels or mm") for name in BOX),
    )


def parse_number(cell: str) -> float | None:
    """The finite decimal number that `cell` holds, or none; a full-width digit counts, a decimal comma does not."""
    text = unicodedata.normalize("NFKC", cell).strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) < float("inf") else None


_HER2_EXPECTED = "`all3+`, or shares that sum to 100 %: `3+10%, 2+90%`"


def parse_her2(cell: str) -> tuple[float, ...]:
    """Shares of area at HER2 0, 1+, 2+, 3+ from the published table's notation, with full-width signs or plain ones.

    `none（all3+）` is uniform, `heterogeneity（3+10%，2+90%）` mixed; the words, the brackets and absent levels may be
    left out. Returns four shares (0–1) that sum to 1.

    Raises:
        CellError: another notation, a level named twice, or more than 100 %; with severity `warning` when the shares
            that are there sum to less, so that the entry is incomplete.

    >>> parse_her2("heterogeneity（3+10%，2+90%）")
    (0.0, 0.0, 0.9, 0.1)
    """
    text = normal(cell).replace(" ", "").replace("、", ",").replace(";", ",")
    if uniform := _HER2_UNIFORM.fullmatch(text):
        return tuple(float(level == int(uniform[2])) for level in range(HER2_LEVELS))
    mixed = _HER2_MIXED.fullmatch(text)
    entries = [_HER2_ENTRY.fullmatch(entry) for entry in mixed[2].split(",")] if mixed else [None]
    percents: dict[int, float | None] = {}
    for entry in entries:
        if entry is None or int(entry[1]) in percents:
            raise CellError(_HER2_EXPECTED)
        percents[int(entry[1])] = None if entry[2] is None else float(entry[2])
    return complete_shares({level: percent and percent / 100 for level, percent in percents.items()})


def complete_shares(shares: Mapping[int, float | None]) -> tuple[float, ...]:
    """Four shares that sum to 1, from those that are known by level; the others are 0.

    Raises:
        CellError: they sum to more than 1; with severity `warning` when to less, so that something is missing.
    """
    known = [shares.get(level) or 0.0 for level in range(HER2_LEVELS)]
    excess = sum(known) - 1
    if abs(excess) > _SHARE_TOLERANCE:
        raise CellError("shares of HER2 levels that sum to 1 (100 %)", severity="error" if excess > 0 else "warning")
    return tuple(known)


def _by_name(*specs: FieldSpec) -> dict[str, FieldSpec]:
    return {spec.name: spec for spec in specs}


def _text(name: str, expected: str, required: bool = False) -> FieldSpec:
    def parse(cell: str) -> str:
        if len(cell) > _MAX_TEXT or any(unicodedata.category(sign) == "Cc" for sign in cell):
            raise CellError(f"{expected}, of at most {_MAX_TEXT} characters without line breaks")
        return cell

    return FieldSpec(name, expected, parse, required=required)


def _word(name: str, words: Sequence[str], required: bool = False) -> FieldSpec:
    expected = f"one of: {', '.join(words)}"
    by_key = {normal(word): word for word in words}

    def parse(cell: str) -> str:
        key = normal(cell)
        if key not in by_key:
            raise CellError(expected, near_match(cell, words))
        return by_key[key]

    return FieldSpec(name, expected, parse, tuple(words), required)


def _yes_no(name: str) -> FieldSpec:
    expected = f"one of: {', '.join(YES)} (yes); {', '.join(NO)} (no)"

    def parse(cell: str) -> bool:
        key = normal(cell)
        if key not in YES + NO:
            raise CellError(expected)
        return key in YES

    return FieldSpec(name, expected, parse, YES + NO)


def _number(name: str, low: float, high: float, unit: str) -> FieldSpec:
    expected = f"a number from {low:g} to {high:g} ({unit})"

    def parse(cell: str) -> float:
        value = parse_number(cell)
        if value is None or not low <= value <= high:
            raise CellError(expected, _comma_hint(cell))
        return value

    return FieldSpec(name, expected, parse, unit=unit)


def _whole(name: str, low: int, high: int) -> FieldSpec:
    expected = f"a whole number from {low} to {high}"

    def parse(cell: str) -> int:
        value = parse_number(cell)
        if value is None or not low <= value <= high or value != int(value):
            raise CellError(expected)
        return int(value)

    return FieldSpec(name, expected, parse)


def _share(name: str) -> FieldSpec:
    expected = "a share from 0 to 1, or a percentage with its sign"

    def parse(cell: str) -> float:
        text = unicodedata.normalize("NFKC", cell).strip()
        value = parse_number(text.removesuffix("%"))
        if value is not None and text.endswith("%"):
            value /= 100
        if value is None or not 0 <= value <= 1:
            raise CellError(expected, _comma_hint(cell))
        return value

    return FieldSpec(name, expected, parse, unit="share")


def _comma_hint(cell: str) -> str:
    if "," not in cell or parse_number(cell.removesuffix("%").replace(",", ".")) is None:
        return ""
    return 'Set decimal = "," for the table, or write decimals with a point. '


def _start_year(edges: tuple[int, ...]) -> FieldSpec:
    expected = f"a year from {edges[0]} to {edges[-1] - 1}, or a date (2020-12-31, 31.12.2020)"

    def parse(cell: str) -> int:
        number = parse_number(cell)
        if date := _DATE.fullmatch(cell):
            try:
                number = datetime.date.fromisoformat(date[1]).year
            except ValueError as error:
                raise CellError(expected) from error
        elif other := _YEAR_LAST.fullmatch(cell):
            number = float(other[2])
        if number is None or not 1900 <= number <= 2200 or number != int(number):
            raise CellError(expected)
        if not edges[0] <= number < edges[-1]:
            raise CellError(expected, "Other periods are set by clinical.start_year_edges. ", severity="warning")
        return int(number)

    return FieldSpec("start_year", expected, parse)


def _disease_sites(count: int) -> FieldSpec:
    expected = f"{count} digits, each 0 or 1"

    def parse(cell: str) -> tuple[int, ...]:
        digits = unicodedata.normalize("NFKC", cell).strip()
        if len(digits) != count or set(digits) - {"0", "1"}:
            # a spreadsheet that takes the digits for a number drops its leading zeros
            raise CellError(expected, "Keep the column as text, so that no leading zero is lost. ")
        return tuple(int(digit) for digit in digits)

    return FieldSpec("disease_sites", expected, parse)


def _lymph_node_sites(count: int) -> FieldSpec:
    expected = f"0 for none, or the digits of the sites, each once and from 1 to {count - 1} (123 = sites 1, 2 and 3)"

    def parse(cell: str) -> tuple[int, ...]:
        digits = unicodedata.normalize("NFKC", cell).strip()
        if not digits.isascii() or not digits.isdigit() or len(set(digits)) != len(digits):
            raise CellError(expected)
        sites = tuple(sorted(int(digit) for digit in digits))
        if sites[-1] >= count or (0 in sites and len(sites) > 1):
            raise CellError(expected)
        return sites

    return FieldSpec("lymph_node_sites", expected, parse)


MEANINGS: Mapping[str, str] = {
    "patient": "study id of the patient",
    "centre": "centre that treated the patient; unknown: `centre`",
    "treatment_group": "sets the cut-off of the label rule",
    "recist": "best response by RECIST 1.1",
    "pfs_days": "progression-free survival from the start of therapy, or time to the last follow-up",
    "pfs_event": "whether progression or death was observed; no: censored",
    "os_days": "overall survival from the start of therapy, or time to the last follow-up",
    "os_event": "whether death was observed; no: censored",
    "pathology_time": "when the slides were taken, in three classes of your own, as the paper's",
    "radiology_time": "when the CT was taken, in three classes of your own, as the paper's",
    "sex": "sex",
    "age": "age at the start of therapy",
    "site": "site of the tumour: gastro-oesophageal junction or not",
    "line": "line of therapy",
    "start_year": "start of therapy; of a date the year is kept",
    "differentiation": "histological differentiation",
    "lauren": "Lauren's type",
    "disease_sites": "sites of disease, one digit each, in an order of your own",
    "tils": "tumour-infiltrating lymphocytes, share",
    "tumour_proportion": "share of tumour in the slide",
    "her2_heterogeneity": "share of area at HER2 0, 1+, 2+, 3+ in one cell",
    "her2_share_0": "share of area at HER2 0",
    "her2_share_1": "share of area at HER2 1+",
    "her2_share_2": "share of area at HER2 2+",
    "her2_share_3": "share of area at HER2 3+",
    "primary_present": "whether the primary tumour is there",
    "peritoneal_metastasis": "whether there is peritoneal metastasis",
    "gastrectomy": "whether the stomach was removed before",
    "metastatic_lesions": "number of metastatic lesions",
    "lymph_nodes": "lymph-node metastases: none, separate nodes, or fused",
    "lymph_node_sites": "sites of lymph-node metastases",
    "multiple_metastases": "organ with multiple metastases",
    "slide": "id of the slide, of your choice",
    "path": "file or folder, from the data folder",
    "annotation": "annotation of regions; without one, tissue is found on a thumbnail",
    "mpp": "resolution of level 0, for slides whose file does not say it",
    "white_balance": "whether the slide needs white balance before its colours are normalised",
    "ct": "id of the CT study, of your choice",
    "series_uid": "which series of a DICOM folder; needed where several could be meant",
    "mask": "label mask: of all lesions (CT table) or of this lesion (lesion table)",
    "label_table": "ITK-SNAP's label descriptions, where lesions are named in `roi`",
    "lesion": "id of the lesion, unique within its study",
    "lesion_type": "organ of the lesion",
    "label": "value of the lesion's voxels in its mask; unknown: every voxel that is not 0",
    "roi": "name or number of the region in a DICOM RTSTRUCT or SEG, or in a label table",
    "x_low": "the box's lower corner, x, in `box_unit`",
    "y_low": "the box's lower corner, y",
    "z_low": "the box's lower corner, z",
    "x_high": "the box's upper corner, x; both corners lie inside the box",
    "y_high": "the box's upper corner, y",
    "z_high": "the box's upper corner, z",
}
"""Field → what it is, for the documentation."""
