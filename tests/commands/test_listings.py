"""What commands print of plans and stages."""

from __future__ import annotations

import tomllib

import pytest

from mumo.commands.listings import print_check, print_metrics, print_plan, print_reports, print_status
from mumo.pipeline.check import Checked
from mumo.pipeline.extract import StageReport
from mumo.pipeline.pathology.groups import unmapped_problem
from mumo.pipeline.running.planning import Planned, State
from mumo.pipeline.stage import Item


def planned(item: str, state: State, *reasons: str, stage: str = "tiles") -> Planned:
    return Planned(Item(stage, item, sources=(), upstream=(), settings={}, inputs={}, payload=None), state, reasons, {})


def test_print_plan__items_with_the_same_reasons_are_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    plan = [planned(f"s{number}", "new") for number in range(7)]
    plan += [planned("s8", "stale", "settings.bag_px"), planned("s9", "done")]
    plan += [planned(f"c{n}", "new", f"after windows/c{n}", "after windows/c0", stage="rois") for n in range(2)]
    print_plan(plan, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "tiles/s0, s1, s2, s3, s4 and 2 more: new",
        "tiles/s8: stale (settings.bag_px)",
        "rois/c0, c1: new (after windows)",
        "1 done, 9 new, 1 stale, 0 failed, 0 waiting",
    ]


def test_print_reports__one_reason_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        StageReport("tiles", 9, nothing_in={f"s{n}": f"at most {n}0%" for n in range(7)} | {"t": "too small"}),
        StageReport("windows", 2, failed={"c1": "ImageError: other grid"}, nothing_in={"c2": "no lesions"}),
        StageReport("rois", 2, failed={"c1": "ImageError: other grid"}, nothing_in={"c2": "no lesions"}),
        StageReport("embed", 2, waiting={"c1": "rois/c1 is not there"}, nothing_in={"s0": ""}),
        StageReport("radiomics", 2, waiting={"c1": "rois/c1 is not there"}),
    ]
    print_reports(reports, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "empty: tiles/s0, tiles/s1, tiles/s2, tiles/s3, tiles/s4 and 2 more: at most 00%",
        "empty: tiles/t: too small",
        "empty: windows/c2, rois/c2: no lesions",
        "failed: windows/c1, rois/c1: ImageError: other grid",
        "waiting: embed/c1, radiomics/c1: rois/c1 is not there",
    ]


@pytest.mark.parametrize(("labelled", "said"), [(29, True), (30, False)])
def test_print_metrics__few_held_out_are_said_to_be_few(
    labelled: int, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    auc = {"value": 0.5, "low": None, "high": None, "reason": None}
    metrics = {
        "parts": {"test": {"patients": 40, "labelled": labelled, "auc": auc}},
        "chosen_on": {},
        "headline": "test",
    }
    print_metrics(metrics, as_json=False)
    assert ("29 labelled patients held out say little: --folds 5" in capsys.readouterr().err) is said


def test_print_status__says_what_dice_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_status({"stages": {}, "dice": {"threshold": {"lesions": 3, "median": 0.8, "lowest": 0.5}}})
    masks, meaning = capsys.readouterr().out.splitlines()[-2:]
    assert masks == "masks by threshold against given ones: Dice 0.80 (median), 0.50 (lowest), 3 lesions"
    assert meaning.startswith("  Dice is the overlap of the mask that mumo would draw inside a lesion's box")


def test_print_check__groups_without_a_class_are_lines_to_copy(capsys: pytest.CaptureFixture[str]) -> None:
    slides = {"HER2 3+": ["S1", "S2"], 'Krebs "sicher"': ["S1"], "Drüse": ["S3"]}
    print_check(Checked([unmapped_problem(slides, {"T": 1})], None))
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1
    said, _, rest = printed.out.partition("below [slides.region_classes]:\n\n")
    assert "put a class, 0 to 3" in said
    lines = rest.split("\n\n")[0]
    assert lines.splitlines()[1] == '"HER2 3+" = "?"  # 2 slides'
    assert tomllib.loads(lines.replace('"?"', "2")) == dict.fromkeys(slides, 2)


def test_print_check__lines_for_groups_have_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_check(Checked([unmapped_problem({f"{k:03}": ["S1"] for k in range(60)}, {})], None))
    printed = capsys.readouterr().out
    assert printed.count("# 1 slide") == 50
    assert "# and 10 more, which --json names" in printed


def test_print_check__no_lines_for_groups_where_all_have_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    print_check(Checked([], None))
    assert "Groups to map" not in capsys.readouterr().out
