"""How much memory grey-level matrices may take: one rule for both engines, so that they refuse the same regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import RegionError


def check_matrices(
    levels: int, largest_zone: int, side: int, settings: Mapping[str, Any], image_type: str, max_matrix_mb: float
) -> None:
    """Refuse a region whose matrices would not fit: co-occurrence (with working copies), run lengths, zones.

    Args:
        levels: Highest grey level.
        largest_zone: Voxels that a zone of one level may have.
        side: Longest side of the region's box, voxels.
        settings: PyRadiomics' `setting`, which gives the directions.
        image_type: Name of the image type, for the message.
        max_matrix_mb: The limit.

    Raises:
        RegionError: the matrices would take more memory.
    """
    angles = _angles(settings)
    megabytes = 8e-6 * levels * (4 * levels * angles + side * angles + largest_zone)
    if megabytes > max_matrix_mb:
        raise RegionError(
            f"too many grey levels: {levels} in the image type {image_type} need about {megabytes:,.0f} MB for "
            f"matrices, at most {max_matrix_mb:,.0f} (radiomics.max_matrix_mb); use a larger bin width"
        )


def expected_levels(low: float, high: float, settings: Mapping[str, Any]) -> int:
    """About how many grey levels a range of values will have, before it is discretised."""
    count, width = settings.get("binCount"), settings.get("binWidth", 25)
    return int(count) if count is not None else int(min((high - low) // width + 2, 2**40))


def _angles(settings: Mapping[str, Any]) -> int:
    """Directions of co-occurrence: half of the neighbours at each distance in the infinity norm."""
    axes = 2 if settings.get("force2D", False) else 3
    return sum(((2 * d + 1) ** axes - (2 * d - 1) ** axes) // 2 for d in settings.get("distances", [1]))
