"""The contact sheet, looked at by numbers: what is drawn, and where."""

from __future__ import annotations

from pathlib import Path

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mumo.config import RoisSettings
from mumo.pipeline.radiology.contact import PANEL_PX, Strip, lesion_strip, write_sheet
from mumo.pipeline.radiology.lesions import LesionMask, lesion_mask
from mumo.pipeline.radiology.volumes import Volume, read_volume

BOX, EDGE = 253, 254


@pytest.fixture
def found(tmp_path: Path) -> tuple[Volume, LesionMask]:
    image, mask = ct_files.ellipsoid()
    volume = read_volume(ct_files.write(image, tmp_path / "v.nrrd"), max_voxels=10**6)
    return volume, lesion_mask(volume, ct_files.lesion(mask=ct_files.write(mask, tmp_path / "m.nrrd")), RoisSettings())


def test_lesion_strip__draws_box_and_mask_at_their_size(found: tuple[Volume, LesionMask]) -> None:
    volume, lesion = found
    strip = lesion_strip(volume, lesion, 6, (-100, 150), ("", ""))
    assert strip.panels.shape == (3, PANEL_PX, PANEL_PX)
    _, rows, columns = lesion.box.shape
    side_mm = max(rows * 0.9, columns * 0.8) + 60
    for panel in strip.panels:
        y, x = np.nonzero(panel == BOX)
        assert np.ptp(y) == pytest.approx(rows * 0.9 / side_mm * PANEL_PX, abs=1.5)
        assert np.ptp(x) == pytest.approx(columns * 0.8 / side_mm * PANEL_PX, abs=1.5)
        assert (y.min() + y.max()) / 2 == pytest.approx(PANEL_PX / 2, abs=1.5)
    y, x = np.nonzero(strip.panels[1] == EDGE)
    assert np.ptp(y) == pytest.approx(rows * 0.9 / side_mm * PANEL_PX, abs=4)
    middle = strip.panels[1][PANEL_PX // 2, PANEL_PX // 2]
    assert middle == pytest.approx((volume.array[6, 15, 22] + 100) / 250 * 252, abs=25)


def test_lesion_strip__draws_no_box_on_slices_beyond_it(found: tuple[Volume, LesionMask]) -> None:
    volume, lesion = found
    strip = lesion_strip(volume, lesion, lesion.box.high_zyx[0] - 1, (-100, 150), ("", ""))
    assert [bool((panel == BOX).any()) for panel in strip.panels] == [True, True, False]


def test_write_sheet__is_the_same_bytes_each_time(tmp_path: Path) -> None:
    panels = np.arange(3 * PANEL_PX**2, dtype=np.uint32).reshape(3, PANEL_PX, PANEL_PX).astype(np.uint8)
    for name in ("a.png", "b.png"):
        write_sheet(tmp_path / name, "CT study C1", [Strip(("lesion L1", "window"), panels)] * 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.mode == "P"
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png"))).shape[:2] == sheet.size[::-1]
    np.testing.assert_array_equal(np.asarray(sheet)[68 : 68 + PANEL_PX, 6 : 6 + PANEL_PX], panels[0])
