"""Figures of one image and its mask, computed beside the cache while the image is in memory.

Goes in: a conformed image, its mask and its regional statistics.  Comes out: one row of figures, such as the mask's
volume, its parts and holes, what the crop leaves out, and the contrast of white over grey matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..preprocess.volumes import Statistics

Box = tuple[slice, slice, slice]


class Figure(NamedTuple):
    """The name, the unit and the scale of comparison of a figure.

    A value times `scale` is in `unit`.  Shares and counts are skewed, so they are compared as log10(value + `offset`);
    if `offset` is None, the value itself is compared.  `least` is the lower bound of a group's standard deviation
    on that scale [assumed]: without it, one voxel more would be unusual in a group of equal images.  If `low_is_bad` is
    false, only a high value is a fault: nothing clipped, or no hole, is none.
    """

    title: str
    unit: str
    scale: float
    digits: int
    offset: float | None
    least: float
    low_is_bad: bool


FIGURES = {
    "mask_volume_mm3": Figure("Mask volume", "ml", 1e-3, 0, None, 20_000, True),
    "mask_parts": Figure("Parts of the mask", "", 1, 0, 0, 0.1, False),
    "mask_loose": Figure("Mask outside its largest part", "%", 100, 2, 1e-4, 0.3, False),
    "mask_holes": Figure("Holes in the mask", "", 1, 0, 1, 0.1, False),
    "mask_hollow": Figure("Volume of holes", "%", 100, 2, 1e-4, 0.3, False),
    "outside_crop": Figure("Mask outside the crop", "%", 100, 2, 1e-4, 0.3, False),
    "contrast": Figure("White over grey matter", "%", 100, 1, None, 0.01, True),
    "clipped": Figure("Clipped at 255", "%", 100, 2, 1e-4, 0.1, False),
}
# SegIds of white and grey matter, from whose mean intensities the contrast is computed: of the cerebrum, or else of
# the cerebellum, because FreeSurfer's aseg.stats has neither cerebral cortex nor cerebral white matter
TISSUES = (
    ((2, 41), (3, 42, *range(1000, 3000), *range(12000, 12100))),
    ((7, 46), (8, 47)),
)


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box that contains a mask.

    Parameters
    ----------
    mask : bool [D, H, W], not empty
    """
    # eight voxels at a time if the order in memory allows it; any() along an axis takes ten times as long
    bytes_ = mask.view(np.uint8)
    flat = bytes_.T if bytes_.flags.f_contiguous else bytes_
    words = flat.view(np.uint64) if flat.flags.c_contiguous and flat.shape[2] % 8 == 0 else flat
    plane = np.bitwise_or.reduce(words, axis=0)
    last = np.bitwise_or.reduce(plane, axis=0).view(np.uint8)
    middle = np.bitwise_or.reduce(plane, axis=1)
    first = np.bitwise_or.reduce(words.reshape(len(words), -1), axis=1)
    slices = [slice(int(found[0]), int(found[-1]) + 1) for found in map(np.flatnonzero, (first, middle, last))]
    return tuple(slices if flat is bytes_ else reversed(slices))


def parts(volume: np.ndarray, corners: bool) -> np.ndarray:
    """Sizes of the connected parts of a volume, in voxels, in any order.

    Links runs of voxels along the contiguous axis instead of single voxels, which are a hundred times as many.

    Parameters
    ----------
    volume : bool [D, H, W]
    corners : if true, voxels that share an edge or a corner are connected, too (26 neighbours instead of 6)
    """
    volume = volume.T if _first_axis_is_contiguous(volume) else volume
    size = volume.shape
    # an empty voxel ends each row and an empty row ends each plane, so no run and no link crosses them
    flat = np.zeros(1 + size[0] * (size[1] + 1) * (size[2] + 1), bool)
    flat[1:].reshape(size[0], size[1] + 1, size[2] + 1)[:, :-1, :-1] = volume
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return np.zeros(0, int)
    row, reach = size[2] + 1, int(corners)
    plane = row * (size[1] + 1)
    steps = (row, plane - row, plane, plane + row) if corners else (row, plane)
    pairs = []
    for step in steps:
        # the runs that touch a given run in the row `step` away are consecutive in the list of all runs
        first = np.searchsorted(ends, starts + (step - reach), "right")
        counts = np.searchsorted(starts, ends + (step + reach), "left") - first
        one = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs.append(np.stack([one, first[one] + within]))
    one, other = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(starts),) * 2)
    count, label = connected_components(links, directed=False)
    return np.bincount(label, weights=ends - starts, minlength=count).astype(int)


def _first_axis_is_contiguous(volume: np.ndarray) -> bool:
    """Whether the first axis is the contiguous one, as in images read from files."""
    return volume.strides[0] < volume.strides[-1]


def holes(volume: np.ndarray) -> np.ndarray:
    """Sizes of the cavities in a volume, in voxels: background that no path through faces connects to the outside.

    Parameters
    ----------
    volume : bool [D, H, W]
    """
    order: Literal["F", "C"] = "F" if _first_axis_is_contiguous(volume) else "C"
    outside = np.ones([size + 2 for size in volume.shape], bool, order=order)
    outside[1:-1, 1:-1, 1:-1] = ~volume
    found = parts(outside, corners=False)
    return np.delete(found, 0)  # the first voxel is padding, so the first part is the background around the volume


def contrast(statistics: Statistics) -> float:
    """White over grey matter: the difference of their mean intensities over the average of both, dimensionless.

    FreeSurfer's pctsurfcon defines it along the cortex; here it is over whole tissues.  The means are read from the
    image's statistics file, because reading the segmentation takes longer than reading image and mask together.  NaN
    if the file has no means.
    """
    for white_ids, grey_ids in TISSUES:
        white, grey = (_mean_intensity(statistics, ids) for ids in (white_ids, grey_ids))
        if white is not None and grey is not None and white + grey > 0:
            return (white - grey) / ((white + grey) / 2)
    return float("nan")


def _mean_intensity(statistics: Statistics, ids: Sequence[int]) -> float | None:
    """Mean intensity over the voxels of several structures; None if the statistics have none of them."""
    known = [seg_id for seg_id in statistics.means if seg_id in ids and statistics.voxels.get(seg_id)]
    if not known:
        return None
    return float(np.average([statistics.means[i] for i in known], weights=[statistics.voxels[i] for i in known]))


def quality_figures(
    brain: np.ndarray, mask: np.ndarray, inside: Box, voxel_volume: float, statistics: Statistics
) -> dict[str, float]:
    """Figures of one image.

    Parameters
    ----------
    brain : uint8 [D, H, W], the image in the mask's bounding box, 0 outside the mask
    mask : bool [D, H, W], the mask in the same box
    inside : the cached part of the box
    voxel_volume : mm³
    statistics : of the image

    Returns
    -------
    mask_volume_mm3 : the mask's volume
    mask_parts : its parts, connected by faces, edges or corners
    mask_loose : share of the mask's voxels outside its largest part
    mask_holes : its cavities
    mask_hollow : volume of the cavities over that of the mask
    outside_crop : share of the mask's voxels outside the crop
    contrast : white over grey matter, see `contrast`
    clipped : share of the mask's voxels at the largest intensity
    """
    voxels = int(np.count_nonzero(mask))
    sizes, cavities = parts(mask, corners=True), holes(mask)
    return {
        "mask_volume_mm3": voxels * voxel_volume,
        "mask_parts": len(sizes),
        "mask_loose": 1 - int(sizes.max()) / voxels,
        "mask_holes": len(cavities),
        "mask_hollow": int(cavities.sum()) / voxels,
        "outside_crop": 1 - int(np.count_nonzero(mask[inside])) / voxels,
        "contrast": contrast(statistics),
        "clipped": int(np.count_nonzero(brain == 255)) / voxels,
    }
