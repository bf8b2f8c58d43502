"""What commands print of plans and stages."""

from __future__ import annotations

import pytest

from mumo.commands.listings import print_metrics, print_plan, print_reports
from mumo.pipeline.extract import StageReport
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
        StageReport("windows", 2, failed={"c1": "ImageError: other grid"}, nothing_in={"c2": ""}),
        StageReport("rois", 2, failed={"c1": "ImageError: other grid"}, nothing_in={"c2": ""}),
        StageReport("embed", 2, waiting={"c1": "rois/c1 is not there"}, nothing_in={"s0": ""}),
        StageReport("radiomics", 2, waiting={"c1": "rois/c1 is not there"}),
    ]
    print_reports(reports, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "empty: tiles/s0, s1, s2, s3, s4 and 2 more: at most 00%",
        "empty: tiles/t: too small",
        "empty: rois/c2: the study has no lesions",
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
