"""Colour kernels: CIE Lab, white balance, and Reinhard's normalisation.

Lab is CIE 1976 L*a*b* for D65 and the 2° observer, reached from sRGB by IEC 61966-2-1. Reinhard's method (Reinhard et
al., IEEE Computer Graphics and Applications 21(5):34–41, 2001) shifts and scales each channel so that its mean and
standard deviation become a target's; mumo does so in Lab, as is usual in histology, with statistics over tissue.
A map that fits tissue gives glass a tint, so pixels take part by their weight (see `TissueRule`): tissue wholly, glass
not at all, and nothing changes abruptly between.

`rgb_to_lab` and `lab_to_rgb` say what is computed; `measure` and `normalise` compute it a row at a time, in single
precision and without an array larger than a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import compiled
from .slides import RgbImage
from .tissue import RuleTables, TissueRule

Floats = npt.NDArray[np.floating]
Triple = tuple[float, float, float]

_XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_FROM_RGB = _XYZ_FROM_RGB / _WHITE[:, None]
_TO_RGB = np.linalg.inv(_FROM_RGB)
_KNEE = 0.008856
_SLOPE = 7.787
_OFFSET = 16.0 / 116.0
_FLAT = 1e-3
_LUT_SIZE = 1 << 16
_CUBE_ROOT_GUESS = 709_921_077


@dataclass(frozen=True)
class LabStatistics:
    """Mean and standard deviation of tissue in Lab."""

    mean: Triple
    """L, a, b; NaN where there is no tissue."""
    std: Triple
    """Population standard deviation; NaN where there is no tissue."""
    tissue_share: float
    """Share of the pixels that are tissue."""


@dataclass(frozen=True)
class Affine:
    """A map of Lab onto itself, channel by channel: value → gain × value + shift."""

    gain: Triple
    shift: Triple


def rgb_to_lab(rgb: Floats) -> npt.NDArray[np.float64]:
    """Lab of sRGB values 0–1, both of shape (..., 3)."""
    xyz = decode_gamma(rgb) @ _FROM_RGB.T
    f = np.where(xyz > _KNEE, np.cbrt(xyz), _SLOPE * xyz + _OFFSET)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: Floats) -> npt.NDArray[np.float64]:
    """sRGB values 0–1 of Lab, both of shape (..., 3); colours outside sRGB are clipped channel by channel."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > np.cbrt(_KNEE), f**3, (f - _OFFSET) / _SLOPE)
    return encode_gamma(np.clip(xyz @ _TO_RGB.T, 0, 1))


def decode_gamma(encoded: Floats) -> npt.NDArray[np.float64]:
    """Linear light 0–1 of sRGB values 0–1 (IEC 61966-2-1)."""
    values = np.asarray(encoded, np.float64)
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


def encode_gamma(linear: Floats) -> npt.NDArray[np.float64]:
    """sRGB values 0–1 of linear light 0–1 (IEC 61966-2-1)."""
    values = np.asarray(linear, np.float64)
    return np.where(values > 0.0031308, 1.055 * np.maximum(values, 0) ** (1 / 2.4) - 0.055, values * 12.92)


def white_balance_table(white: Triple | None) -> npt.NDArray[np.uint8]:
    """White balance as a table of shape (3, 256): channel, value 0–255 → balanced value.

    The colour `white` (0–255) of the empty slide becomes neutral: in linear light each channel is multiplied by the
    strongest channel of `white` over its own (von Kries), so that nothing gets darker, and clipped. None changes
    nothing.
    """
    values = np.tile(np.arange(256) / 255, (3, 1))
    if white is not None:
        light = np.maximum(decode_gamma(np.array(white) / 255), 1e-6)
        values = encode_gamma(np.minimum(decode_gamma(values) * (light.max() / light)[:, None], 1.0))
    return np.floor(values * 255 + 0.5).astype(np.uint8)


def apply_table(pixels: RgbImage, table: npt.NDArray[np.uint8]) -> RgbImage:
    """The picture (y, x, 3) with each channel's values replaced through a table (3, 256)."""
    return np.stack([table[channel][pixels[..., channel]] for channel in range(3)], axis=-1)


def measure(pixels: RgbImage, rule: TissueRule, table: npt.NDArray[np.uint8] | None = None) -> LabStatistics:
    """Statistics of the tissue of a picture (y, x, 3), after the white balance `table` (3, 256)."""
    return pool([moments(pixels, rule, table)])


def moments(pixels: RgbImage, rule: TissueRule, table: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.float64]:
    """Sums behind the statistics, of shape (8,): pixels, tissue pixels, Σ of L, a, b, Σ of squares of L, a, b.

    Sums of several pictures add up to the sums of all (see `pool`).
    """
    sums = np.zeros(8)
    _sum_lab(pixels, _tables(rule, table), _FROM_RGB.astype(np.float32), _row(pixels.shape[1]), sums)
    return sums


def pool(sums: list[npt.NDArray[np.float64]]) -> LabStatistics:
    """Statistics of the pictures behind several `moments`."""
    total = np.sum(sums, axis=0)
    pixels, tissue = total[0], total[1]
    if not tissue:
        return LabStatistics((math.nan,) * 3, (math.nan,) * 3, 0.0)
    mean = total[2:5] / tissue
    std = np.sqrt(np.maximum(total[5:8] / tissue - mean**2, 0.0))
    return LabStatistics(_triple(mean), _triple(std), float(tissue / pixels))


def reinhard(source: LabStatistics, target_mean: Triple, target_std: Triple) -> Affine:
    """The map that gives the source's tissue the target's mean and standard deviation, channel by channel.

    A channel without spread is only shifted.
    """
    gain = [wanted / found if found > _FLAT else 1.0 for wanted, found in zip(target_std, source.std, strict=True)]
    shift = [wanted - factor * found for wanted, factor, found in zip(target_mean, gain, source.mean, strict=True)]
    return Affine(_triple(np.array(gain)), _triple(np.array(shift)))


def normalise(
    pixels: RgbImage, affine: Affine, rule: TissueRule, table: npt.NDArray[np.uint8] | None = None
) -> LabStatistics:
    """Map every pixel of a picture (y, x, 3) in place: white balance, to Lab, `affine`, to sRGB, rounded half up.

    Pixels that are less coloured than tissue are moved only part of the way, by their weight under the rule.
    Returns the statistics afterwards, of the pixels that were tissue before.
    """
    sums = np.zeros(8)
    gain, shift = np.array(affine.gain, np.float32), np.array(affine.shift, np.float32)
    matrix, inverse = _FROM_RGB.astype(np.float32), _TO_RGB.astype(np.float32)
    _map_lab(pixels, _tables(rule, table), matrix, gain, shift, inverse, _encoded_table(), _row(pixels.shape[1]), sums)
    return pool([sums])


class _Tables(NamedTuple):
    """What the kernels look up for a value 0–255 of a channel."""

    balance: npt.NDArray[np.uint8]
    """(3, 256): the value after white balance."""
    light: npt.NDArray[np.float32]
    """(3, 256): linear light after white balance."""
    plain: npt.NDArray[np.float32]
    """(3, 256): linear light without it."""
    rule: RuleTables


def _tables(rule: TissueRule, balance: npt.NDArray[np.uint8] | None) -> _Tables:
    table = white_balance_table(None) if balance is None else balance
    linear = decode_gamma(np.arange(256) / 255).astype(np.float32)
    return _Tables(table, linear[table], np.tile(linear, (3, 1)), rule.tables())


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _encoded_table() -> npt.NDArray[np.uint8]:
    """sRGB value 0–255 of linear light in steps of 1 / 65535: no step is wider than 0.05 of a value."""
    return np.floor(encode_gamma(np.arange(_LUT_SIZE) / (_LUT_SIZE - 1)) * 255 + 0.5).astype(np.uint8)


class _Row(NamedTuple):
    """Room for the work on one row of `width` pixels. Rows and their channels are contiguous, so that loops over
    them become vector instructions."""

    light: npt.NDArray[np.float32]
    """(3, width): linear light."""
    f: npt.NDArray[np.float32]
    """(3, width): f(X), f(Y), f(Z) of Lab's definition."""
    scratch: npt.NDArray[np.float32]
    """(width,)."""
    weight: npt.NDArray[np.float32]
    """(width,): how far a pixel takes part in the map."""
    places: npt.NDArray[np.int32]
    """(3, width): places in the table of encoded light."""
    tissue: npt.NDArray[np.int32]
    """(width,): columns of tissue pixels."""


def _row(width: int) -> _Row:
    light, f = np.empty((2, 3, width), np.float32)
    places = np.empty((3, width), np.int32)
    scratch, weight = np.empty((2, width), np.float32)
    return _Row(light, f, scratch, weight, places, np.empty(width, np.int32))


@compiled
def _to_f(row: _Row, count: int, matrix: npt.NDArray[np.float32]) -> None:
    """`f` of the first `count` pixels from their `light`; f is the cube root above the knee, a line below.

    The root starts from a guess on the bits of the float (exponent divided by three) and takes two steps of
    Halley's method, which leaves an error below the resolution of a float.
    """
    scratch = row.scratch
    bits = scratch.view(np.int32)
    red, green, blue = row.light[0], row.light[1], row.light[2]
    for axis in range(3):
        from_red, from_green, from_blue = matrix[axis, 0], matrix[axis, 1], matrix[axis, 2]
        values = row.f[axis]
        for x in range(count):
            values[x] = from_red * red[x] + from_green * green[x] + from_blue * blue[x]
            scratch[x] = values[x]
        for x in range(count):
            bits[x] = np.int32(np.float32(bits[x]) * np.float32(1 / 3)) + np.int32(_CUBE_ROOT_GUESS)
        for x in range(count):
            value, root = values[x], scratch[x]
            cube = root * root * root
            root = root * (cube + value + value) / (cube + cube + value)
            cube = root * root * root
            root = root * (cube + value + value) / (cube + cube + value)
            line = np.float32(_SLOPE) * value + np.float32(_OFFSET)
            values[x] = root if value > np.float32(_KNEE) else line


@compiled
def _find_tissue(pixels: npt.NDArray[np.uint8], tables: _Tables, row: _Row) -> int:
    """Columns of a row of pixels (x, 3) that are tissue, into `row.tissue`, and all weights; returns how many."""
    count = 0
    rule = tables.rule
    for x in range(pixels.shape[0]):
        red = tables.balance[0, pixels[x, 0]]
        green = tables.balance[1, pixels[x, 1]]
        blue = tables.balance[2, pixels[x, 2]]
        largest = max(red, green, blue)
        difference = largest - min(red, green, blue)
        row.tissue[count] = x
        count += int(largest >= rule.least and difference >= rule.difference[largest])
        weight = rule.slope[largest] * np.float32(difference) + rule.offset[largest]
        row.weight[x] = min(max(weight, np.float32(0)), np.float32(1))
    return count


@compiled
def _add_lab(
    pixels: npt.NDArray[np.uint8],
    count: int,
    linear: npt.NDArray[np.float32],
    matrix: npt.NDArray[np.float32],
    row: _Row,
    sums: npt.NDArray[np.float64],
) -> None:
    """Add the sums of `moments` over the first `count` columns in `row.tissue` of a row of pixels (x, 3)."""
    f = row.f
    for k in range(count):
        x = row.tissue[k]
        for channel in range(3):
            row.light[channel, k] = linear[channel, pixels[x, channel]]
    _to_f(row, count, matrix)
    for k in range(count):
        level = np.float64(116) * f[1, k] - 16
        a = np.float64(500) * (f[0, k] - f[1, k])
        b = np.float64(200) * (f[1, k] - f[2, k])
        sums[2] += level
        sums[3] += a
        sums[4] += b
        sums[5] += level * level
        sums[6] += a * a
        sums[7] += b * b
    sums[0] += pixels.shape[0]
    sums[1] += count


@compiled
def _sum_lab(
    pixels: npt.NDArray[np.uint8],
    tables: _Tables,
    matrix: npt.NDArray[np.float32],
    row: _Row,
    sums: npt.NDArray[np.float64],
) -> None:
    """Add the sums of `moments` over a picture to `sums`; only tissue pixels are converted."""
    for y in range(pixels.shape[0]):
        count = _find_tissue(pixels[y], tables, row)
        _add_lab(pixels[y], count, tables.light, matrix, row, sums)


@compiled
def _map_row(
    row: _Row, gain: npt.NDArray[np.float32], shift: npt.NDArray[np.float32], inverse: npt.NDArray[np.float32]
) -> None:
    """`places` of a row from its `f`, through the map of Lab."""
    x_axis, y_axis, z_axis = row.f[0], row.f[1], row.f[2]
    weight = row.weight
    width = weight.size
    knee = np.float32(_KNEE ** (1 / 3))
    for x in range(width):
        level = np.float32(116) * y_axis[x] - np.float32(16)
        a, b = np.float32(500) * (x_axis[x] - y_axis[x]), np.float32(200) * (y_axis[x] - z_axis[x])
        level += weight[x] * (gain[0] * level + shift[0] - level)
        a += weight[x] * (gain[1] * a + shift[1] - a)
        b += weight[x] * (gain[2] * b + shift[2] - b)
        y_axis[x] = (level + np.float32(16)) * np.float32(1 / 116)
        x_axis[x] = y_axis[x] + a * np.float32(1 / 500)
        z_axis[x] = y_axis[x] - b * np.float32(1 / 200)
    for axis in range(3):
        values = row.f[axis]
        for x in range(width):
            value = values[x]
            line = (value - np.float32(_OFFSET)) * np.float32(1 / _SLOPE)
            values[x] = value * value * value if value > knee else line
    for channel in range(3):
        places = row.places[channel]
        from_x, from_y, from_z = inverse[channel, 0], inverse[channel, 1], inverse[channel, 2]
        for x in range(width):
            value = from_x * x_axis[x] + from_y * y_axis[x] + from_z * z_axis[x]
            value = min(max(value, np.float32(0)), np.float32(1))
            places[x] = np.int32(value * np.float32(_LUT_SIZE - 1) + np.float32(0.5))


@compiled
def _map_lab(
    pixels: npt.NDArray[np.uint8],
    tables: _Tables,
    matrix: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float32],
    shift: npt.NDArray[np.float32],
    inverse: npt.NDArray[np.float32],
    encoded: npt.NDArray[np.uint8],
    row: _Row,
    sums: npt.NDArray[np.float64],
) -> None:
    """Map a picture in place and add the sums of its tissue afterwards to `sums`."""
    width = pixels.shape[1]
    for y in range(pixels.shape[0]):
        line = pixels[y]
        count = _find_tissue(line, tables, row)
        for x in range(width):
            for channel in range(3):
                row.light[channel, x] = tables.light[channel, line[x, channel]]
        _to_f(row, width, matrix)
        _map_row(row, gain, shift, inverse)
        for x in range(width):
            for channel in range(3):
                line[x, channel] = encoded[row.places[channel, x]]
        _add_lab(line, count, tables.plain, matrix, row, sums)
