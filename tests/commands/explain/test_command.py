"""`mumo explain`: the folder that it writes, its refusals, and its files in the programs that read them."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely.geometry
from packs import make_packed, write_store
from quick_fits import ONE_EPOCH, store_and_run

from mumo.commands.explain.command import Options, write_explanations
from mumo.commands.explain.lesions import backbone_of_run
from mumo.config import Settings
from mumo.errors import ConfigError, FitError
from mumo.fusion import report, train
from mumo.fusion.explain import Explainer
from mumo.stores.records import Store
from mumo.stores.specs import EXPLANATIONS
from mumo.stores.tables import read_table

PLAIN = Options(grad_cam=False)
COHORT = make_packed(16, bags=5, lesions=2)


store, run = store_and_run(COHORT)


@pytest.fixture(scope="module")
def written(run: Path, store: Path) -> Path:
    """Explanations in the run's own folder; the store has no pixels."""
    write_explanations(run, store, run / "explain", ONE_EPOCH, PLAIN)
    return run / "explain"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


def test_explain__every_link_of_every_page_leads_to_a_file(written: Path) -> None:
    pages = sorted(written.rglob("*.html"))
    assert len([page for page in pages if page.name == "index.html"]) == len(COHORT.patients) + 1
    for page in pages:
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        for link in links.found:
            assert link.startswith(("data:", "#")) or (page.parent / link).is_file(), f"{page.name}: {link}"


def test_explain__table_has_every_part_of_every_patient(written: Path) -> None:
    frame = read_table(written / "explanations.parquet", EXPLANATIONS).to_pandas()
    assert set(frame["patient"]) == set(COHORT.patients)
    for kind, modality in (("bag", "pathology"), ("lesion", "radiology")):
        weights = frame[frame["kind"] == f"{kind} weight"].groupby("patient")["value"]
        counts = dict(zip(COHORT.patients, COHORT.units[modality].counts.tolist(), strict=True))
        assert weights.size().to_dict() == {patient: count for patient, count in counts.items() if count}
        assert weights.sum().to_numpy() == pytest.approx(1.0, abs=1e-5)
    words = frame[frame["kind"] == "word weight"].groupby("patient")["value"].sum()
    assert words.to_numpy() == pytest.approx(1.0, abs=1e-5)
    omics = frame[(frame["kind"] == "omics") & (frame["item"] == "pathology")]
    assert set(omics["name"]) == set(COHORT.units["pathology"].omics_columns)


def test_explain__states_how_complete_attributions_are(written: Path) -> None:
    said = json.loads((written / "explain.json").read_text())
    assert 0 <= said["completeness"]["largest_gap"] < 1e-4
    assert said["checks"]["curves"] and (written / "deletion.png").stat().st_size > 5_000
    header, *rows = (written / "deletion.csv").read_text().splitlines()
    assert header == "level,count,by,patients,moved,spread,wins"
    assert len(rows) == len(said["checks"]["curves"])


def test_explain__pages_state_the_sum_of_omics_attributions_with_its_sign(written: Path) -> None:
    frame = read_table(written / "explanations.parquet", EXPLANATIONS).to_pandas()
    sums = frame[frame["kind"] == "omics"].groupby("patient")["value"].sum()
    assert (sums < -0.001).any() and (sums > 0.001).any()
    for patient, value in sums.items():
        text = (written / str(patient) / "index.html").read_text(encoding="utf-8")
        stated = re.search(r"at that median, (\S+) log hazard", text)
        assert stated is not None and float(stated[1].replace("−", "-")) == pytest.approx(value, abs=0.00051)
        modalities = frame[(frame["patient"] == patient) & (frame["kind"] == "omics")]["item"]
        units = {"pathology": "summed over bags", "radiology": "summed over lesions"}
        assert all((units[modality] in text) is (modality in set(modalities)) for modality in units)


def test_explain__of_a_model_without_omics_says_nothing_of_them(store: Path, tmp_path: Path) -> None:
    settings = ONE_EPOCH.model_copy(update={"model": ONE_EPOCH.model.model_copy(update={"omics": False})})
    train.fit(store, tmp_path / "run", settings, device="cpu")
    said = write_explanations(tmp_path / "run", store, tmp_path / "out", settings, PLAIN)
    assert said["completeness"] is None
    assert "Attributions of omics" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_explain__geojson_is_valid_and_lies_where_the_bags_lie(written: Path) -> None:
    files = sorted(written.rglob("*.geojson"))
    assert len(files) == int((COHORT.units["pathology"].counts > 0).sum())
    for file in files:
        content = json.loads(file.read_text())
        assert content["type"] == "FeatureCollection"
        shapes = {"annotation": [], "detection": []}
        for feature in content["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid and shape.exterior.is_closed
            properties = feature["properties"]
            assert set(properties["measurements"]) == {"weight", "effect"}
            assert len(properties["color"]) == 3 and all(0 <= part <= 255 for part in properties["color"])
            shapes[properties["objectType"]].append((shape, properties["measurements"]))
        bags, words = shapes["annotation"], shapes["detection"]
        assert len(words) == 4 * len(bags)
        for number, (bag, measured) in enumerate(bags):
            assert bag.bounds == (2048.0 * number, 0, 2048.0 * (number + 1), 2048)  # as the pack's table of bags says
            own = words[4 * number : 4 * number + 4]
            assert shapely.unary_union([word for word, _ in own]).equals(bag)
            assert sum(part["weight"] for _, part in own) == pytest.approx(measured["weight"])


def test_explain__pages_need_no_network_and_run_only_their_own_script(written: Path) -> None:
    for page in written.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text
        assert "default-src 'none'" in text
        if "<script>" in text:
            assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", text)


def test_report__shows_the_checks_and_links_to_the_patients(written: Path, run: Path) -> None:
    text = report.write_report(run).read_text(encoding="utf-8")
    assert 'href="explain/index.html"' in text and 'href="explain/P000/index.html"' in text
    assert "moves the risk by" in text
    assert (run / "report" / "deletion.csv").is_file() and (run / "report" / "deletion.svg").is_file()


def test_explain__of_the_response_says_so_everywhere(written: Path, run: Path, store: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(PLAIN, target="response", only=(COHORT.patients[0],))
    said = write_explanations(run, store, tmp_path / "out", ONE_EPOCH, options)
    assert said["of"] == "response"
    (patient,) = (tmp_path / "out").glob("*/index.html")
    for page in (tmp_path / "out" / "index.html", patient):
        text = page.read_text(encoding="utf-8")
        assert "predicted chance of response" in text and "raises the risk" not in text
    frame, risks = (
        read_table(folder / "explanations.parquet", EXPLANATIONS)
        .to_pandas()
        .set_index(["patient", "kind", "item", "name"])
        for folder in (tmp_path / "out", written)
    )
    other = risks.loc[frame.index]
    same = frame.index.get_level_values("kind").str.contains("weight|prediction")
    assert frame[same].equals(other[same])  # what was looked at is the same, what it changes is not
    assert not np.allclose(frame[~same], other[~same])


def test_explain__of_a_cohort_without_ct(tmp_path: Path) -> None:
    packed = make_packed(16, bags=5, lesions=0)
    write_store(tmp_path / "store", packed)
    settings = ONE_EPOCH.model_copy(update={"model": ONE_EPOCH.model.model_copy(update={"modalities": ("pathology",)})})
    train.fit(tmp_path / "store", tmp_path / "run", settings, device="cpu")
    said = write_explanations(tmp_path / "run", tmp_path / "store", tmp_path / "out", settings, PLAIN)
    assert len(said["patients"]) == 16


def test_explain__again_replaces_its_own_folder_only(run: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    some = dataclasses.replace(PLAIN, only=("P000", "P001"), checks=False)
    said = write_explanations(run, store, out, ONE_EPOCH, some)
    assert sorted(said["patients"]) == ["P000", "P001"] and said["checks"] is None
    write_explanations(run, store, out, ONE_EPOCH, dataclasses.replace(some, only=("P002",)))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["P002"]
    (out / "explain.json").unlink()
    with pytest.raises(ConfigError, match="is not empty and holds no explanations"):
        write_explanations(run, store, out, ONE_EPOCH, some)


def test_explain__that_fails_leaves_nothing(run: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="--only: P999 is no patient of the store"):
        write_explanations(run, store, tmp_path / "out", ONE_EPOCH, dataclasses.replace(PLAIN, only=("P999",)))
    assert list(tmp_path.iterdir()) == []


def test_explain__patients_with_odd_ids_get_a_number(tmp_path: Path) -> None:
    odd = dataclasses.replace(COHORT, patients=tuple(f"Pät/{n}" for n in range(16)))
    units = {
        name: dataclasses.replace(part, sources=np.array([source.replace("Pät/", "X") for source in part.sources]))
        for name, part in odd.units.items()
    }
    store, run = tmp_path / "store", tmp_path / "run"
    write_store(store, dataclasses.replace(odd, units=units))
    train.fit(store, run, ONE_EPOCH, device="cpu")
    options = dataclasses.replace(PLAIN, only=("Pät/3",), checks=False)
    assert write_explanations(run, store, tmp_path / "out", ONE_EPOCH, options)["patients"] == {
        "Pät/3": "patient-00001"
    }
    assert "Pät/3" in (tmp_path / "out" / "patient-00001" / "index.html").read_text(encoding="utf-8")


# --- weights of the backbone ------------------------------------------------------------------------------


def explainer_of(run: Path, store: Path, **info: Any) -> Explainer:
    explainer = Explainer(run, store, device="cpu")
    explainer.members[0].run.info.update(info)
    return explainer


def test_backbone_of_run__refuses_other_weights_by_name(run: Path, store: Path) -> None:
    """The pack says `random:0` with a digest that is not that of these weights."""
    with pytest.raises(ConfigError, match=r"weights random:0 of mnasnet1_0 have SHA-256 .*expected .*random:0 \(1111"):
        backbone_of_run(explainer_of(run, store), Store.open(store), Settings(), "cpu")


def test_backbone_of_run__asks_for_a_file_by_name(run: Path, store: Path) -> None:
    explainer = explainer_of(run, store, weights="mine.safetensors")
    with pytest.raises(ConfigError, match=r"the file mine\.safetensors: name it with --set embed\.weights=PATH"):
        backbone_of_run(explainer, Store.open(store), Settings(), "cpu")


def test_backbone_of_run__takes_the_run_s_own_drawn_weights(run: Path, store: Path) -> None:
    from mumo.config import EmbedSettings
    from mumo.pipeline.networks.backbone import load_backbone

    digest = load_backbone(EmbedSettings(weights="random:3")).weights_sha256
    explainer = explainer_of(run, store, weights="random:3", weights_sha256=digest)
    assert backbone_of_run(explainer, Store.open(store), Settings(), "cpu").weights_name == "random:3"


# --- the demo: slides and CT ------------------------------------------------------------------------------


@pytest.mark.slow
def test_explain__of_the_demo_draws_slides_and_lesions(demo: Path, tmp_path: Path) -> None:
    predictions = pq.read_table(demo / "run" / "predictions.parquet").to_pandas()
    both = predictions[predictions["modalities"] == "both"]["patient"].iloc[0]
    out = tmp_path / "out"
    said = write_explanations(demo / "run", demo / "store", out, Settings(), Options(only=(both,), checks=False))
    assert said["grad_cam"]
    folder = out / both
    assert "were drawn at random" in (folder / "index.html").read_text(encoding="utf-8")
    assert sorted(folder.glob("ct-*-lesion-1.png")) and sorted(folder.glob("bag-1.jpg"))
    (viewer,) = folder.glob("slide-*.html")
    text = viewer.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["overview"].startswith("data:image/jpeg") and data["levels"]
    assert len(data["bags"]) == len(data["levels"][0]["tiles"])
    assert viewer.stat().st_size < 20e6
    names = {path.name for path in out.rglob("*")}
    assert not any(word in "".join(names) for word in ("MADEUP", str(demo)))
    for page in out.rglob("*.html"):
        assert "MADEUP" not in page.read_text(encoding="utf-8") and str(demo) not in page.read_text(encoding="utf-8")
