"""Names of container images: a path of a file or folder, or a registry's name."""

from __future__ import annotations


def is_file_reference(image: str) -> bool:
    """Whether an image is named by a path (a .sif file or a sandbox), not by a registry's name."""
    return "://" not in image and (image.endswith((".sif", ".simg", ".img")) or image.startswith(("/", ".", "~")))
