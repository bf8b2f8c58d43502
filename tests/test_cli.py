from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import typer

import mumo.cli
from mumo.cli import app, main
from mumo.stores.records import Failure, Store

COHORT = """
format_version = 1
name = "two"
[patients]
table = "patients.csv"
[patients.columns]
patient = "id"
sex = "sex"
recist = "best"
[patients.values.sex]
m = "male"
[labels]
cutoff_days = { "anti-HER2" = 240 }
"""


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    (tmp_path / "cohort.toml").write_text(COHORT)
    (tmp_path / "patients.csv").write_text("id,sex,best\nP1,m,PR\nP2,female,PD\n")
    return tmp_path / "cohort.toml"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def test_help__comes_within_half_a_second() -> None:
    seconds = []
    for _ in range(3):  # of processor time, for other processes may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mumo.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help__imports_nothing_heavy() -> None:
    code = "import sys, mumo.cli; print([m for m in ('torch', 'pandas', 'zarr', 'dask', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_help__says_what_is_read_written_and_returned(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out.lower()
    for word in ("read", "writ"):
        assert word in text, f"{command} --help does not say what is {word}"
    assert "return" in text or "status" in command


def test_check__good_cohort(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(cohort.parent.iterdir())
    assert run("check", cohort) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "patients: 2",
        "slides: 0 of 0 patients",
        "CT studies: 0 of 0 patients, with 0 lesions",
        "response: 1 responders, 1 non-responders, 0 unknown",
        "PFS: times of 0 patients, 0 with the event, 0 censored",
        "OS: times of 0 patients, 0 with the event, 0 censored",
        "0 errors, 0 warnings",
    ]
    assert sorted(cohort.parent.iterdir()) == before


def test_check__says_how_many_times_and_events_are_known(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,best,days,prog\nP1,PR,90,1\nP2,,300,\nP3,,30,0\n")
    columns = 'patient = "id"\nrecist = "best"\npfs_days = "days"\npfs_event = "prog"\n'
    cohort.write_text(
        f'format_version = 1\nname = "c"\n[patients]\ntable = "patients.csv"\n[patients.columns]\n{columns}'
        '[labels]\ncutoff_days = { "anti-HER2" = 240 }\n'
    )
    assert run("check", cohort) == 0
    said = capsys.readouterr().out.splitlines()
    assert "response: 2 responders, 0 non-responders, 1 unknown" in said
    assert "PFS: times of 3 patients, 1 with the event, 1 censored, 1 of whom it is not known" in said
    assert "OS: times of 0 patients, 0 with the event, 0 censored" in said


def test_check__words_to_map_are_lines_for_the_cohort_file(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,weibl.,PR\nP2,Weibl.,n.b.\n")
    assert run("check", cohort) == 2
    said = capsys.readouterr().out
    assert '[patients.values.sex]  # one of: male, female\n"weibl." = "?"\n' in said
    assert '[patients.values.recist]  # one of: CR, PR, SD, PD, non-CR/non-PD\n"n.b." = "?"\n' in said
    assert "2 errors in 3 places, 0 warnings\nNothing is extracted until these are corrected." in said
    lines = said[said.index("[patients.values.sex]") : said.index("2 errors")]
    words = lines.replace('weibl." = "?"', 'weibl." = "female"').replace('n.b." = "?"', 'n.b." = ""')
    text = cohort.read_text().replace('[patients.values.sex]\nm = "male"\n', "") + words
    cohort.write_text(text)
    assert run("check", cohort) == 0


def test_check__a_word_of_several_columns_may_mean_unknown(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,-,PR\nP2,unbek.,-\nP3,m,PD\n")
    assert run("check", cohort) == 2
    said = capsys.readouterr().out
    (listed,) = re.findall(r"# -: in several columns.*\n# table that has it.*: (unknown = .*)\n", said)
    unknown = listed.removesuffix("]") + ', "unbek."]'
    text = cohort.read_text().replace("[patients]\n", f"[patients]\n{unknown}\n")
    cohort.write_text(text)
    assert run("check", cohort) == 0
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,weibl.,PR\nP2,m,n.b.\n")
    assert run("check", cohort) == 2
    assert "in several columns" not in capsys.readouterr().out


def test_check__says_that_files_fail_alone(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "slides.csv").write_text("s,p,f\nS1,P1,none.svs\n")
    slides = '[slides]\ntable = "slides.csv"\n[slides.columns]\nslide = "s"\npatient = "p"\npath = "f"\n'
    cohort.write_text(cohort.read_text() + slides)
    assert run("check", cohort) == 2
    assert "1 error, 0 warnings\nThe tables can be used. What the errors name fails alone" in capsys.readouterr().out


def test_check__warns_where_there_is_no_response_to_learn(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,m,PR\nP2,female,\n")
    assert run("check", cohort) == 0
    assert "found 1 responders and 0 others; expected some of both." in capsys.readouterr().err


def test_check__a_folder_is_no_cohort_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", tmp_path) == 2
    assert f"error: {tmp_path.name}: found a folder; expected a cohort file (TOML)" in capsys.readouterr().err


def test_main__one_thread_unless_the_user_says_otherwise(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, "1"), ("4", "4")):
        if before is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", before)
        run("check", cohort)
        assert os.environ["OMP_NUM_THREADS"] == after


def test_main__stopped_by_the_user_says_how_to_go_on(
    cohort: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mumo.pipeline.check.check_cohort", interrupted)
    assert run("check", cohort) == 130
    assert "stopped; what was finished is kept: run extract again" in capsys.readouterr().err


def test_check__all_problems_as_json(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,m,PR\nP1,x,better\n")
    assert run("check", cohort, "--json") == 2
    problems = json.loads(capsys.readouterr().out)
    assert {problem["column"] for problem in problems} == {"id", "sex", "best"}
    assert {problem["table"] for problem in problems} == {"patients"}


def test_extract__wrong_cohort_starts_nothing(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort.parent / "patients.csv").write_text("id,sex,best\nP1,x,PR\n")
    assert run("extract", "all", cohort, cohort.parent / "store") == 2
    assert "'x'" in capsys.readouterr().err
    assert not (cohort.parent / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "pixels", "{cohort}", "{store}"], "stage 'pixels' is unknown"),
        (["extract", "all", "{cohort}", "{store}", "--set", "tiles.bag=1"], "tiles.bag"),
        (["extract", "all", "{cohort}", "{store}", "--device", "tpu"], "run.device"),
        (["fit", "{store}", "{run}"], "is not a mumo store"),
        (["status", "{store}"], "is not a mumo store"),
        (["report", "{run}"], "run"),
    ],
)
def test_main__wrong_call_is_one_clear_line(
    arguments: list[str], message: str, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"cohort": cohort, "store": cohort.parent / "store", "run": cohort.parent / "run"}
    assert run(*(argument.format(**names) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_extract__clinical_then_nothing_to_do(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = cohort.parent / "store"
    assert run("extract", "clinical", cohort, store, "--workers", 0) == 0
    assert "1 computed" in capsys.readouterr().out
    assert run("extract", "clinical", cohort, store, "--workers", 0, "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["up_to_date"], report["ok"], report["complete"]) == (1, 0, True)


def test_extract__dry_run_says_what_and_why(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = cohort.parent / "store"
    main_arguments = ["extract", "clinical", cohort, store, "--workers", 0]
    run(*main_arguments, "--dry-run")
    assert "clinical/cohort: new" in capsys.readouterr().out
    assert not store.exists()
    run(*main_arguments)
    capsys.readouterr()
    run(*main_arguments, "--dry-run", "--set", "clinical.age_edge_years=65")
    assert "clinical/cohort: stale (settings.age_edge_years)" in capsys.readouterr().out


def test_extract__weights_that_cannot_be_fetched_stop_it_at_the_start(
    cohort: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(cohort.parent / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    add_glass(cohort)
    store = cohort.parent / "store"
    assert run("extract", "all", cohort, store, "--workers", 0) == 2
    assert "cannot be fetched (no network)" in capsys.readouterr().err
    assert not (store / "tiles").exists()
    assert run("extract", "tiles", cohort, store, "--workers", 0) == 0
    assert run("extract", "all", cohort, store, "--workers", 0, "--set", "embed.weights=random:0") == 0


def add_glass(cohort: Path) -> None:
    """Give patient P1 a slide without tissue."""
    glass = np.full((512, 512, 3), 243, dtype=np.uint8)
    resolution: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(cohort.parent / "s.tif", glass, tile=(128, 128), photometric="rgb", **resolution)
    (cohort.parent / "slides.csv").write_text("s,p,f\nS1,P1,s.tif\n")
    slides = '[slides]\ntable = "slides.csv"\n[slides.columns]\nslide = "s"\npatient = "p"\npath = "f"\n'
    cohort.write_text(cohort.read_text() + slides)


def test_extract__empty_items_are_named_with_their_reason_every_time(
    cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_glass(cohort)
    store = cohort.parent / "store"
    expected = "empty: tiles/slide-S1: no place of the slide holds a bag: it has no tissue"
    for counts in ("0 computed, 0 already done, 1 empty", "0 computed, 1 already done, 0 empty"):
        assert run("extract", "tiles", cohort, store, "--workers", 0) == 0
        said = capsys.readouterr()
        assert counts in said.out
        assert said.err.count(expected) == 1
    assert run("status", store) == 0
    assert expected in capsys.readouterr().out


def test_extract__dry_run_estimates_and_refuses_a_full_disk(
    cohort: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["extract", "clinical", cohort, cohort.parent / "store", "--workers", 0]
    run(*arguments, "--dry-run")
    assert "clinical: 1 items; nothing of the kind is done yet" in capsys.readouterr().out
    run(*arguments)
    assert run(*arguments, "--dry-run", "--force") == 0
    assert "clinical: 1 items, about " in capsys.readouterr().out
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert run(*arguments, "--dry-run", "--force") == 2
    assert "are free; make room" in capsys.readouterr().err


def test_extract__leaves_an_account_of_the_run(cohort: Path) -> None:
    store = cohort.parent / "store"
    run("extract", "clinical", cohort, store, "--workers", 0)
    (folder,) = (store / "runs").iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "run.json",
        "log.jsonl",
        "items.parquet",
        "failures.csv",
        "summary.txt",
    }
    assert "finished after" in (folder / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://10.1.2.3:8786"], "--insecure"),
        (["--scheduler", "tls://10.1.2.3:8786"], "run.tls_ca_file"),
        (["--max-failures", "few"], "expected a number"),
    ],
)
def test_extract__wrong_options_start_nothing(
    arguments: list[str], message: str, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("extract", "clinical", cohort, cohort.parent / "store", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (cohort.parent / "store").exists()


def test_status__with_a_cohort_says_what_is_stale_and_why(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = cohort.parent / "store"
    run("extract", "clinical", cohort, store, "--workers", 0)
    capsys.readouterr()
    run("status", store, "--cohort", cohort, "--set", "clinical.age_edge_years=65")
    shown = capsys.readouterr().out
    assert "clinical: 0 done, 0 to do, 1 stale" in shown
    assert "stale: 1 because of settings.age_edge_years" in shown
    run("status", store, "--cohort", cohort, "--json")
    assert json.loads(capsys.readouterr().out)["cohort"]["clinical"]["done"]["items"] == 1


def test_status__names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.create(tmp_path / "store")
    store.fail(Failure("tiles", "slide-1", "f", "SlideError", "no slide", 1))
    run("status", store.path)
    assert "failed: tiles/slide-1: SlideError: no slide" in capsys.readouterr().out
    run("status", store.path, "--json", "--digest")
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["stages"]["tiles"]["failed"] == 1
    assert len(result["digest"]) == 64


def test_status__writes_a_page_beside_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.create(tmp_path / "store")
    store.fail(Failure("tiles", "slide-S1", "f", "SlideError", "cut short", attempts=1))
    assert run("status", tmp_path / "store", "--html", tmp_path / "page.html") == 0
    assert "failed: tiles/slide-S1: SlideError: cut short" in capsys.readouterr().out
    assert "<td>slide-S1</td><td>SlideError: cut short</td>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_fit__a_scheduler_is_for_many_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", tmp_path / "store", tmp_path / "run", "--scheduler", "tcp://127.0.0.1:1") == 2
    assert "use it with --folds, --seeds" in capsys.readouterr().err


def test_version__of_module_and_package_agree() -> None:
    import tomllib

    text = (Path(mumo.cli.__file__).parent / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["version"] == mumo.__version__
