"""Why an image can fail: one table of reasons, with what each means and what to do; docs/failures.md is this table."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """What a code in a ledger's column `reason` means, and what a person can do about it."""

    meaning: str
    remedy: str


REASONS = {
    "missing": Reason(
        "the file is not there, or is a link to nothing",
        "get its content (datalad get), or correct the link",
    ),
    "unreadable": Reason(
        "the user who runs this may not read the file",
        "correct its permissions",
    ),
    "empty": Reason(
        "the file has no bytes",
        "copy it again from its source",
    ),
    "not_an_image": Reason(
        "nibabel does not know the file's format",
        "convert it again from its source",
    ),
    "part_of_head": Reason(
        "the file is one part of an image (chunk- in its name)",
        "join the parts into one image, or leave it out",
    ),
    "not_intensities": Reason(
        "the voxels are colours or complex numbers",
        "take the image of intensities (of complex numbers, the magnitude), or leave it out",
    ),
    "too_large": Reason(
        "the header claims more than 512 x 512 x 512 voxels, or more than 600 mm",
        "resample it to voxels of 0.5 mm or more; if the header is wrong, convert it again from its source",
    ),
    "truncated": Reason(
        "the file ends too early, or its compression is damaged",
        "copy it again from its source",
    ),
    "not_3d": Reason(
        "the image has other than three axes",
        "take the one volume that is meant, or leave the image out",
    ),
    "flat": Reason(
        "an axis has fewer than 16 voxels or covers less than 80 mm",
        "leave it out: it is a localiser or a slab",
    ),
    "not_finite": Reason(
        "infinite voxels, or NaN inside the head (NaN that is connected with the border is background)",
        "convert it again, or set those voxels to 0",
    ),
    "all_zero": Reason(
        "every voxel has the same value",
        "convert it again from its source",
    ),
    "empty_slices": Reason(
        "slices within the head have one value: they were lost",
        "convert it again from its source, or leave it out",
    ),
    "tiny_values": Reason(
        "the intensities differ by less than 0.000001",
        "multiply them by a constant, or convert it again from its source",
    ),
    "bad_affine": Reason(
        "the header does not say where the voxels are, or says two things",
        "see the two values in the detail and correct the wrong one, or convert it again from its source",
    ),
    "mask_failed": Reason(
        "no plausible brain was found",
        "look at the image: wrong contrast, wrong body part, a part of a head, or turned (see the detail)",
    ),
    "volume_check": Reason(
        "FastSurfer's own check found too little brain",
        "look at the image; a very small or badly segmented brain is left out",
    ),
    "implausible_volume": Reason(
        "the brain in the outputs is smaller or larger than any",
        "look at the image and its mask; leave it out if they are wrong",
    ),
    "output_missing": Reason(
        "the engine ended without all of its files",
        "read scripts/ in the image's folder (FastSurfer) or the job's log in logs/preprocess/; retry if another image"
        " was at fault",
    ),
    "output_damaged": Reason(
        "one of the engine's files cannot be read to its end",
        "retry; if it comes again, look for a failing disk",
    ),
    "wrong_grid": Reason(
        "the engine's files are not on one grid, or not on the configured one",
        "for derivatives: set preprocessing.voxel_size to theirs, or process these images anew",
    ),
    "derivatives_missing": Reason(
        "the cohort's pattern leads to no folder",
        "correct the pattern in the table of cohorts, or copy the folder there",
    ),
    "timeout": Reason(
        "the image took longer than preprocessing.time_limit and was ended",
        "look at the node's load, raise preprocessing.time_limit, retry",
    ),
    "gpu_memory": Reason(
        "the GPU's memory was not enough, even for this image alone",
        "use a GPU with more memory or lower preprocessing.images_at_once, retry",
    ),
    "killed": Reason(
        "the engine or its job was killed during this image, usually because memory was short, or the engine got no"
        " memory",
        "look at the image's size; raise preprocessing.max_mem_mb, lower preprocessing.images_at_once, retry; after"
        " a power failure or kill -9, only retry",
    ),
    "engine_failed": Reason(
        "the engine stopped with an error of its own",
        "read scripts/ in the image's folder (FastSurfer) or the job's log in logs/preprocess/",
    ),
}
# what the builtin engine's note on every image begins with; the figure that follows says how sure its mask is
FIT = "correlation with the template"
MEANINGS = {name: reason.meaning for name, reason in REASONS.items()}
