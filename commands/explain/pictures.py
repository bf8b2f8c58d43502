"""Heat maps over slides and lesions, bars of items and features, curves of the checks: PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...fusion.deletion import Curve
from ...fusion.explained import ROUNDING, Wording, draw_curves
from ...fusion.figures import BLUE, GREY, STYLE, VERMILLION
from .mosaic import Mosaic, RgbImage, SlideBags, word_corners

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

WEIGHT_COLOURS = "viridis"
EFFECT_COLOURS = "PuOr_r"
"""Orange raises the output, purple lowers it; both stay apart for the colour-blind and over grey pictures."""

DPI = 200


@contextmanager
def canvas(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure in mumo's style that is written to `path` as PNG at the end."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=inches, dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": "mumo"})


def effect_limit(values: Floats) -> float:
    """End of the symmetric colour scale of effects: the largest absolute value, at least what is beyond rounding."""
    return max(ROUNDING, float(np.abs(values).max(initial=0.0)))


def weight_limit(values: Floats) -> float:
    """Upper end of the colour scale of weights in even shares, which lie at 1: at least 2."""
    return max(2.0, float(values.max(initial=0.0)))


# --- slides -----------------------------------------------------------------------------------------------


def write_heat_map(
    path: Path,
    bags: SlideBags,
    mosaic: Mosaic,
    weight: Floats,
    effect: Floats,
    ranked: Mapping[int, int],
    patient: int,
    wording: Wording,
) -> None:
    """Two maps side by side over the slide in grey: how much was looked at each word, and what leaving it out does.

    Args:
        weight, effect: [bag, word] of this slide.
        ranked: place among the patient's most important bags → bag of this slide; they get a frame.
        patient: number of words of the patient on all slides, of which an even share is the unit of weights.
    """
    height, width = mosaic.image.shape[:2]
    grey = np.asarray(Image.fromarray(mosaic.image).convert("L"))
    panel = 3.9
    with canvas(path, (2 * panel + 0.3, panel * height / width + 0.95)) as figure:
        axes = figure.subplots(1, 2, gridspec_kw={"wspace": 0.04})
        figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.15)
        panels = (
            ("weight: how much was looked at", "times an even share", weight * patient, WEIGHT_COLOURS, None),
            (title_of(effect, wording), wording.unit, effect, EFFECT_COLOURS, effect_limit(effect)),
        )
        for ax, (title, unit, values, colours, limit) in zip(axes, panels, strict=True):
            ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
            low, high = (-limit, limit) if limit else (0.0, weight_limit(values))
            drawn = ax.imshow(
                _painted(bags, mosaic, values), cmap=colours, vmin=low, vmax=high, alpha=0.55, interpolation="nearest"
            )
            _frames(ax, bags, mosaic, ranked)
            ax.set_title(title, fontsize=9.5, loc="left")
            ax.axis("off")
            bar = figure.colorbar(drawn, ax=ax, orientation="horizontal", fraction=0.035, pad=0.03, label=unit)
            marks = (low, (low + high) / 2, high)
            bar.set_ticks(marks, labels=[f"{mark:.2g}".replace("-", "−") for mark in marks])


def title_of(effect: Floats, wording: Wording) -> str:
    """Title of a map of effects, which says where there are none."""
    if np.abs(effect).max(initial=0.0) < ROUNDING:
        return f"effect on the {wording.noun}: none beyond rounding"
    return f"effect: change of the {wording.noun} by it"


def _painted(bags: SlideBags, mosaic: Mosaic, values: Floats) -> Floats:
    """[y, x] the value of the word at each pixel of the mosaic; NaN where there is none."""
    out = np.full(mosaic.image.shape[:2], np.nan)
    words = values.shape[1]
    step = bags.side / round(words**0.5) * mosaic.scale
    for (x, y), value in zip(word_corners(bags, words).reshape(-1, 2) * mosaic.scale, values.ravel(), strict=True):
        out[round(y) : round(y + step), round(x) : round(x + step)] = value
    return out


def _frames(ax: Axes, bags: SlideBags, mosaic: Mosaic, ranked: Mapping[int, int]) -> None:
    from matplotlib.patches import Rectangle

    side = bags.side * mosaic.scale
    for number, bag in ranked.items():
        x, y = bags.corners[bag] * mosaic.scale
        ax.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="white", linewidth=2.4, clip_on=False))
        ax.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="black", linewidth=1.2, clip_on=False))
        ax.text(x + side * 0.05, y + side * 0.06, str(number), va="top", fontsize=9, fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})  # fmt: skip


def write_thumbnail(path: Path, bags: SlideBags, mosaic: Mosaic, effect: Floats) -> None:
    """A small map of effects for lists, JPEG: the slide in grey with the colours of the effects."""
    grey = np.asarray(Image.fromarray(mosaic.image).convert("L"))
    _write_small(path, grey, _painted(bags, mosaic, effect), effect_limit(effect))


def write_lesion_thumbnail(path: Path, slices: npt.NDArray[np.uint8], cam: Floats) -> None:
    """A small Grad-CAM for lists, JPEG, over the widest of the slices; see `write_lesion`."""
    grey = slices[slices.shape[0] // 2]
    _write_small(path, grey, _over(cam, grey.shape[0]), _largest(cam))


def _write_small(path: Path, grey: npt.NDArray[np.uint8], values: Floats, limit: float, side_px: int = 220) -> None:
    """A picture [y, x] under the colours of `values` [y, x], NaN where there are none, made small."""
    under = grey.astype(np.float32)[..., None]
    colours = 255 * _coloured(np.nan_to_num(values) / limit)
    blended = np.where(np.isnan(values)[..., None], under, 0.5 * under + 0.5 * colours)
    image = Image.fromarray(np.broadcast_to(blended, (*blended.shape[:2], 3)).clip(0, 255).astype(np.uint8))
    image.thumbnail((side_px, side_px))
    image.save(path, format="JPEG", quality=82)


def _over(cam: Floats, side: int) -> Floats:
    """[side, side] a coarse map, smooth over a crop of that side."""
    smooth = Image.fromarray(cam.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64)


def _largest(values: Floats) -> float:
    """The largest absolute value, or 1 where all are 0."""
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _coloured(share: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """[..., 3] in 0–1 of values in −1 … 1."""
    import matplotlib

    return np.asarray(matplotlib.colormaps[EFFECT_COLOURS]((share + 1) / 2)[..., :3], dtype=np.float32)


def palette(name: str, steps: int = 33) -> list[str]:
    """Colours of a colour map from its low to its high end, for pages."""
    import matplotlib

    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])
            for colour in matplotlib.colormaps[name](np.linspace(0, 1, steps))]  # fmt: skip


# --- lesions ----------------------------------------------------------------------------------------------


def write_lesion(path: Path, slices: npt.NDArray[np.uint8], cam: Floats, title: str, noun: str) -> None:
    """The three slices of a crop above, with the signed Grad-CAM over them below.

    Args:
        slices: [slice, y, x] of the stored crop.
        cam: [y, x] map, any size, 0 for average tissue; it is the same for all slices, which are the channels of one
            image.
        noun: what the map is of.
    """
    side = slices.shape[1]
    limit, smooth = _largest(cam), _over(cam, side)
    with canvas(path, (4.4, 3.55)) as figure:
        axes = figure.subplots(2, 3, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
        figure.subplots_adjust(left=0.005, right=0.995, top=0.93, bottom=0.13)
        figure.suptitle(title, fontsize=9, x=0.005, y=0.99, ha="left")
        for column, name in enumerate(("slice below", "widest slice", "slice above")):
            for row in range(2):
                axes[row, column].imshow(slices[column], cmap="gray", vmin=0, vmax=255)
                axes[row, column].axis("off")
            drawn = axes[1, column].imshow(smooth, cmap=EFFECT_COLOURS, vmin=-limit, vmax=limit, alpha=0.5)
            axes[0, column].text(
                0.03 * side, 0.03 * side, name, fontsize=8.5, va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )  # fmt: skip
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.2, 0.085, 0.6, 0.022)), orientation="horizontal")
        bar.set_ticks([-limit, 0, limit], labels=[f"lowers the {noun}", "as average tissue", f"raises the {noun}"])


# --- items, features, checks ------------------------------------------------------------------------------


def write_bars(
    path: Path, names: Sequence[str], values: Floats, label: str, *, signed: bool, width: float = 4.6
) -> None:
    """Horizontal bars in the given order, largest on top; `width` in inches."""
    from matplotlib.ticker import MaxNLocator

    with canvas(path, (width, 0.6 + 0.21 * max(1, len(names)))) as figure:
        axes = figure.subplots()
        places = np.arange(len(names))[::-1]
        colours = [VERMILLION if value > 0 else BLUE for value in values] if signed else [GREY] * len(names)
        axes.barh(places, values, color=colours, height=0.72)
        labels = [name if len(name) <= 48 else f"{name[:47]}…" for name in names]
        axes.set_yticks(places, labels=labels)
        axes.axvline(0, color="#333333", linewidth=0.7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=label, ylim=(-0.6, len(names) - 0.4))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.tight_layout(pad=0.4)


def write_curves(path: Path, curves: Sequence[Curve], wording: Wording) -> None:
    """The deletion curves, a panel for bags and one for words."""
    levels = len({curve.level for curve in curves})
    with canvas(path, (3.6 * levels, 2.9)) as figure:
        draw_curves(figure, curves, wording)


def write_image(path: Path, image: RgbImage) -> None:
    """An RGB image as JPEG."""
    Image.fromarray(image).save(path, format="JPEG", quality=88)
