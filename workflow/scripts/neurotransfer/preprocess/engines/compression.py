"""The checksum of a gzip file: nibabel stops reading at the last voxel, before the checksum."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

GZIP_START = b"\x1f\x8b"
CHUNK = 1 << 22  # bytes


def check_compression(path: Path) -> None:
    """Decompress a gzip file (.nii.gz, .mgz) to its end, which checks its checksum; other files are not read.

    Raises
    ------
    OSError
        if the compressed data are damaged or end too early, or if the file cannot be read
    """
    with path.open("rb") as file:
        if file.read(2) != GZIP_START:
            return
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                while stream.read(CHUNK):
                    pass
        except (EOFError, zlib.error) as error:
            raise OSError(f"its compression is damaged ({error})") from None
