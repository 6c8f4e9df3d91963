"""Names of container images: a path of a file or folder, or a registry's name."""

from __future__ import annotations

import re


def is_file_reference(image: str) -> bool:
    """Whether an image is named by a path (a .sif file or a sandbox), not by a registry's name."""
    return "://" not in image and (image.endswith((".sif", ".simg", ".img")) or image.startswith(("/", ".", "~")))


def is_fixed(image: str) -> bool:
    """Whether a name can never mean another image: a path, or a registry's name with the image's digest.

    >>> is_fixed("deepmi/fastsurfer:cuda-v2.5.0"), is_fixed("deepmi/fastsurfer@sha256:" + 64 * "0"), is_fixed("a.sif")
    (False, True, True)
    """
    return is_file_reference(image) or re.search(r"@sha256:[0-9a-f]{64}$", image) is not None
