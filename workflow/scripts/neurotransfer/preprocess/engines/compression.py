"""Reading a gzip file once and to its end: nibabel stops at the last voxel, before the checksum."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import DTypeLike

from ...files import opened

GZIP_START = b"\x1f\x8b"
CHUNK = 1 << 20  # bytes
AFTER = 1 << 26  # bytes that may follow the last voxel, such as tags and padding
LARGEST_MGZ = 1 << 30  # bytes, decompressed: [assumed] more than a label image of 512 x 512 x 512 voxels


def is_gzip(path: Path) -> bool:
    """Whether a file begins as a gzip file does."""
    with opened(path) as file:
        return file.read(2) == GZIP_START


def check_start(path: Path) -> None:
    """Raise OSError if the first 64 KiB of a gzip file cannot be decompressed."""
    with _decompressed(path) as stream:
        stream.read(1 << 16)


def read_voxels(path: Path, image: Any, dtype: DTypeLike) -> tuple[np.ndarray, int]:
    """All voxels of an image, and the number of bytes after the last one.

    A gzip file is decompressed once, to its end, which checks its checksum.

    Parameters
    ----------
    path : the file
    image : from ``nibabel.load(path)``, which has read the header only
    dtype : of the result

    Raises
    ------
    OSError
        if the compressed data are damaged, end too early or go on long after the last voxel, or if the file cannot
        be read
    """
    if not is_gzip(path):
        values = np.asarray(image.dataobj, dtype=dtype)
        voxels = image.get_data_dtype().itemsize * values.size
        return values, max(0, path.stat().st_size - int(image.dataobj.offset) - voxels)
    with _decompressed(path) as stream:
        holder = nibabel.FileHolder(fileobj=stream)
        opened = type(image).from_file_map(dict.fromkeys(image.file_map, holder))
        values = np.asarray(opened.dataobj, dtype=dtype)
        left = AFTER
        while found := stream.read(CHUNK):
            left -= len(found)
            if left < 0:
                raise OSError(f"its compressed data go on for more than {AFTER >> 20} MiB after the last voxel")
    return values, AFTER - left


def read_mgz(path: Path) -> nibabel.MGHImage:
    """An image in FreeSurfer's format; a gzip file is decompressed once, to its end, which checks its checksum.

    Its header needs the file's end, so nibabel would decompress the file twice.

    Raises
    ------
    OSError
        as `read_voxels`
    """
    if not is_gzip(path):
        return nibabel.MGHImage.from_filename(path)
    with _decompressed(path) as stream:
        found = stream.read(LARGEST_MGZ)
        if stream.read(1):
            raise OSError(f"it has more than {LARGEST_MGZ >> 20} MiB when decompressed")
    return nibabel.MGHImage.from_bytes(found)


@contextmanager
def _decompressed(path: Path) -> Iterator[gzip.GzipFile]:
    """A gzip file as a stream; what shows that it is damaged is an OSError."""
    with gzip.open(path, "rb") as stream:
        try:
            yield stream
        except (EOFError, zlib.error) as error:
            raise OSError(f"its compression is damaged ({error})") from None
