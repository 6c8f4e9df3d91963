"""What an odd scan looks like, in figures: computed beside the cache, where the image is in memory."""

from __future__ import annotations

import numpy as np


def quality_figures(
    orig: np.ndarray, mask: np.ndarray, crop: tuple[slice, ...], voxel_volume: float
) -> dict[str, float]:
    """Figures of one image.

    Parameters
    ----------
    orig : uint8 [D, H, W]
    mask : bool [D, H, W], not empty
    crop : the part of the image that is cached
    voxel_volume : mm³

    Returns
    -------
    mask_volume_mm3 : the mask's volume
    outside_crop : share of the mask's voxels that the crop leaves out
    clipped : share of the mask's voxels at the largest intensity
    """
    voxels = int(mask.sum())
    return {
        "mask_volume_mm3": voxels * voxel_volume,
        "outside_crop": 1 - int(mask[crop].sum()) / voxels,
        "clipped": float((orig[mask] == 255).mean()),
    }
