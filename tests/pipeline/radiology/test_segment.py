"""Networks made here, whose answer is known: TorchScript and ONNX, two and three dimensions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pydantic import ValidationError

from mumo.config import RoisSettings, SegmentationSettings, Settings
from mumo.errors import ConfigError, InputError
from mumo.pipeline.radiology.lesions import lesion_mask, measured_dice
from mumo.pipeline.radiology.segment import segment_box
from mumo.pipeline.radiology.volumes import Volume, read_volume
from mumo.pipeline.rois import RoisStage
from mumo.pipeline.windows import WindowsStage
from mumo.stores.records import Store
from mumo.stores.specs import LESIONS
from mumo.stores.status import store_status
from mumo.stores.tables import read_rows

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
BOX = (14, 9, 3, 30, 21, 9)


class Above(torch.nn.Module):
    """A logit that is positive where a normalised intensity is above a bound."""

    def __init__(self, bound: float, classes: int = 1) -> None:
        super().__init__()
        self.bound, self.classes = bound, classes

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        logit = (patch - self.bound) * 50.0
        if self.classes == 1:
            return logit
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def torchscript(file: Path, bound: float, classes: int = 1) -> dict[str, Any]:
    torch.jit.save(torch.jit.script(Above(bound, classes)), str(file))
    return {"network": file, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def onnx(file: Path, bound: float) -> dict[str, Any]:
    helper = pytest.importorskip("onnx").helper
    flat = pytest.importorskip("onnx").TensorProto.FLOAT
    nodes = [helper.make_node("Sub", ["patch", "bound"], ["over"]), helper.make_node("Mul", ["over", "by"], ["logit"])]
    graph = helper.make_graph(
        nodes,
        "above",
        [helper.make_tensor_value_info("patch", flat, [1, 1, "z", "y", "x"])],
        [helper.make_tensor_value_info("logit", flat, [1, 1, "z", "y", "x"])],
        [helper.make_tensor("bound", flat, [], [bound]), helper.make_tensor("by", flat, [], [50.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return {"network": file}


def with_network(network: dict[str, Any], **others: Any) -> RoisSettings:
    """Settings of a network that sees intensities as shares of 100 HU."""
    own = {"input_size": (24, 24, 8), "spacing_mm": (0.8, 0.9, 2.5), "clip_hu": (-200, 300), "std": 100.0}
    return RoisSettings(segmentation=SegmentationSettings(**{**own, **network, **others}))


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return read_volume(ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.nrrd"), max_voxels=10**6)


@pytest.fixture
def truth() -> np.ndarray:
    return sitk.GetArrayFromImage(ct_files.ellipsoid()[1]) > 0


def in_box(truth: np.ndarray) -> np.ndarray:
    x0, y0, z0, x1, y1, z1 = BOX
    return truth[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1]


@pytest.mark.parametrize("kind", ["torchscript", "onnx", "two classes"])
def test_lesion_mask__of_a_box_by_the_network(tmp_path: Path, volume: Volume, truth: np.ndarray, kind: str) -> None:
    network = onnx(tmp_path / "n.onnx", 0.1) if kind == "onnx" else torchscript(tmp_path / "n.pt", 0.1, 1)
    others = {}
    if kind == "two classes":
        network, others = torchscript(tmp_path / "n2.pt", 0.1, 2), {"channel": 1}
    found = lesion_mask(volume, ct_files.lesion(box=BOX), with_network(network, **others))
    assert found.source == "network"
    np.testing.assert_array_equal(found.mask, in_box(truth))


@pytest.mark.parametrize(
    ("size", "spacing", "lowest"),
    [((24, 24), (0.8, 0.9), 1.0), ((7, 5, 3), (0.8, 0.9, 2.5), 1.0), ((40, 40, 20), (0.6, 0.6, 1.25), 0.95)],
)
def test_segment_box__patches_cover_the_box_at_the_networks_spacing(
    tmp_path: Path,
    volume: Volume,
    truth: np.ndarray,
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    lowest: float,
) -> None:
    settings = with_network(torchscript(tmp_path / "n.pt", 0.1), input_size=size, spacing_mm=spacing)
    box = (slice(3, 10), slice(9, 22), slice(14, 31))
    found, expected = segment_box(volume, box, settings.segmentation), truth[box]
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) >= lowest


def test_segment_box__at_the_volumes_face_and_normalised(tmp_path: Path, volume: Volume) -> None:
    settings = with_network(torchscript(tmp_path / "n.pt", 0.0), mean=-80.0, clip_hu=(-500, -80.5))
    found = segment_box(volume, (slice(0, 2), slice(0, 3), slice(0, 4)), settings.segmentation)
    assert found.shape == (2, 3, 4)
    assert not found.any(), "intensities are clipped before they are normalised"


def test_lesion_mask__falls_back_where_the_network_finds_nothing(tmp_path: Path, volume: Volume) -> None:
    found = lesion_mask(volume, ct_files.lesion(box=BOX), with_network(torchscript(tmp_path / "n.pt", 99.0)))
    assert found.source == "threshold"
    assert found.mask.any()


def test_measured_dice__compares_every_way_with_the_given_mask(
    tmp_path: Path, volume: Volume, truth: np.ndarray
) -> None:
    file = ct_files.write(ct_files.ellipsoid()[1], tmp_path / "m.nrrd")
    lesion, settings = ct_files.lesion(mask=file, box=BOX), with_network(torchscript(tmp_path / "n.pt", 1.0))
    given = lesion_mask(volume, lesion, settings)
    found = measured_dice(volume, lesion, given, settings)
    brighter = (volume.array >= 100) & truth
    assert found["network"] == pytest.approx(2 * brighter.sum() / (brighter.sum() + truth.sum()), abs=0.02)
    assert 0.9 < found["threshold"] <= 1
    assert set(measured_dice(volume, ct_files.lesion(mask=file), given, RoisSettings())) == {"threshold"}


def test_rois__stores_the_network_as_source_and_dice_for_status(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    volume, file = ct_files.write(image, tmp_path / "v.nrrd"), ct_files.write(mask, tmp_path / "m.nrrd")
    study = ct_files.study(volume, ct_files.lesion("L1", box=BOX), ct_files.lesion("L2", mask=file))
    settings = Settings(rois=with_network(torchscript(tmp_path / "secret-name.pt", 0.1)))
    cohort, store = ct_files.cohort(study), Store.create(tmp_path / "store")
    for stage in (WindowsStage(), RoisStage()):
        assert ct_files.extract(stage, cohort, store, settings).complete
    rows = read_rows(store.part("rois", "ct-C1", "lesions.parquet"), LESIONS)
    assert [row["mask_source"] for row in rows] == ["network", "given"]
    dice = store_status(store)["dice"]
    assert {method: row["lesions"] for method, row in dice.items()} == {"network": 1, "threshold": 1}
    assert dice["network"]["median"] == dice["network"]["lowest"] == 1.0
    assert not any(b"secret-name" in file.read_bytes() for file in store.path.rglob("*") if file.is_file())
    assert ct_files.extract(RoisStage(), cohort, store, settings).up_to_date == 1
    torchscript(tmp_path / "secret-name.pt", 0.5)
    changed = Settings(rois=with_network(torchscript(tmp_path / "secret-name.pt", 0.5)))
    assert ct_files.extract(WindowsStage(), cohort, store, changed).ok == 2
    assert ct_files.extract(RoisStage(), cohort, store, changed).ok == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: {"network": f / "none.pt"}, "expected a file, found none"),
        (lambda f: {**torchscript(f / "n.pt", 0), "sha256": None}, "expected the SHA-256"),
        (lambda f: {**torchscript(f / "n.pt", 0), "sha256": "00"}, "expected SHA-256 00"),
        (lambda f: {"network": other(f / "n.pth")}, r"expected a file \.pt"),
        (lambda f: {"network": other(f / "n.onnx")}, "expected an ONNX file"),
        (lambda f: {"network": other(f / "n.pt"), "sha256": hashlib.sha256(b"no").hexdigest()}, "a TorchScript file"),
    ],
)
def test_segment_box__refuses_files_that_are_no_network(tmp_path: Path, volume: Volume, make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        segment_box(volume, (slice(0, 2),) * 3, with_network(make(tmp_path)).segmentation)
    assert str(tmp_path) not in str(caught.value)


def test_rois_check__says_that_the_network_cannot_be_loaded(tmp_path: Path) -> None:
    study = ct_files.study(ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.nrrd"), ct_files.lesion(box=BOX))
    settings = Settings(rois=with_network({"network": tmp_path / "none.onnx"}))
    (problem,) = RoisStage().check(ct_files.cohort(study), settings)
    assert (problem.table, problem.column) == ("configuration", "rois.segmentation")


def other(file: Path) -> Path:
    file.write_bytes(b"no")
    return file


def test_segment_box__refuses_scores_that_do_not_fit(tmp_path: Path, volume: Volume) -> None:
    box, network = (slice(0, 2),) * 3, torchscript(tmp_path / "n.pt", 0)
    with pytest.raises(InputError, match=r"expected scores \(1, more than 3"):
        segment_box(volume, box, with_network(network, channel=3).segmentation)
    file = tmp_path / "square.pt"
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 3)), str(file))
    network = {"network": file, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match="fails on a patch"):
        segment_box(volume, box, with_network(network).segmentation)


@pytest.mark.parametrize("fields", [{"spacing_mm": (1, 1)}, {"clip_hu": (5, 5)}])
def test_segmentation_settings__that_contradict_themselves(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SegmentationSettings(**fields)
