"""Whether a brain ends at a flat face, behind which the image holds nothing: it has been cut off there.

Goes in: the image as it was scanned, and the brain's mask.  Comes out: a refusal, or a note.  A cut is a plane between
two slices of the scan, and a brain's own border is curved, so only a cut ends in one slice over a large area.
"""

from __future__ import annotations

import nibabel
import numpy as np
from scipy import ndimage

from ...errors import ImageError

STEP = 3.0  # mm, about the distance between the voxels that are looked at
EMPTY = 0.1  # of the brain's median intensity above the image's darkest voxels: less is air or nothing
NOTED, LARGEST = 28.0, 55.0  # [assumed] cm² of a face; 106 real heads have up to 19, a loss of 5 mm at the top 34
SQUEEZED = 1.15  # [assumed] with such a stretch of the template even the smaller of the two is no whole brain
NAMES = {"L": "left", "R": "right", "A": "front", "P": "back", "S": "top", "I": "bottom"}


def check_faces(data: np.ndarray, affine: np.ndarray, mask: nibabel.spatialimages.SpatialImage, stretch: float) -> str:
    """Refuse a brain that ends at a large flat face, and return a note on a smaller one, or "".

    Parameters
    ----------
    data, affine : the image as it was scanned [X, Y, Z]
    mask : of the brain, on a grid of its own
    stretch : the template's largest stretch over its smallest

    Raises
    ------
    ImageError
        ``mask_failed``
    """
    side, area = largest_face(data, affine, mask)
    what = f"the brain ends at a flat face of {area:.0f} cm² at its {side}, behind which there is nothing"
    if area > LARGEST or (area > NOTED and stretch > SQUEEZED):
        raise ImageError("mask_failed", f"{what}: it is cut off")
    return f"{what}: a part may be cut off" if area > NOTED else ""


def largest_face(data: np.ndarray, affine: np.ndarray, mask: nibabel.spatialimages.SpatialImage) -> tuple[str, float]:
    """The side of the brain with the largest flat face, and its area in cm²."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.maximum(1, np.round(STEP / sizes)).astype(int)
    few, at = data[:: steps[0], :: steps[1], :: steps[2]], affine @ np.diag([*steps, 1.0])
    to_mask = np.linalg.inv(mask.affine) @ at
    there = np.asarray(mask.dataobj, np.float32)
    brain = ndimage.affine_transform(there, to_mask[:3, :3], to_mask[:3, 3], few.shape, order=1) > 0.5
    if not brain.any():
        return "top", 0.0
    darkest = float(np.percentile(few, 1))
    empty = few - darkest < EMPTY * (float(np.median(few[brain])) - darkest)
    ends = brain & ~empty
    found = []
    for axis, (low, high) in enumerate(zip(nibabel.aff2axcodes(at), nibabel.aff2axcodes(-at), strict=True)):
        face = float(np.prod(np.delete(sizes * steps, axis)) / 100)
        nothing, here = np.moveaxis(empty, axis, 0), np.moveaxis(ends, axis, 0)
        for side, beyond, end in ((low, nothing, here), (high, nothing[::-1], here[::-1])):
            beyond = np.concatenate([beyond, np.ones_like(beyond[:2])])
            count = int((end & beyond[1:-1] & beyond[2:]).sum(axis=(1, 2)).max())
            found.append((face * count, NAMES[side]))
    area, side = max(found)
    return side, area
