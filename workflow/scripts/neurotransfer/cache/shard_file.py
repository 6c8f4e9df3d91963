"""A shard: one file with many images of one size, uncompressed or compressed, each of which can be read alone.

An uncompressed shard is a ``.npy`` of uint8 [images, D, H, W].  A compressed shard is a ``.npy`` of uint8 [bytes]:
first 64-bit little-endian integers (images, D, H, W, the offset of each image in the file, the end of the last one,
and the CRC-32 of all these), then one Zstandard frame per image (RFC 8878), which the program ``zstd`` can read.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import xxhash

from ..errors import InputError
from ..files import opened, written_whole

AGAIN = "delete it, then run the same command again"
LEVEL = 1  # of zstd; level 9 needs 3 % less space and five times as long
INTEGER = np.dtype("<i8")


def header_of(shape: tuple[int, ...]) -> bytes:
    """The header of a ``.npy`` file of uint8 in C order."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


HEADER = len(header_of((0,)))  # bytes, for a shard of any size: numpy pads the header so that the first axis can grow


def checksum(image: np.ndarray) -> str:
    """XXH3 of an image's bytes in C order, 16 bytes in hexadecimal; ten times as fast as BLAKE2b on one core."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image))


@contextlib.contextmanager
def shard_written(
    path: str | Path, count: int, shape: tuple[int, ...], compression: str | None = None
) -> Iterator[Callable[[np.ndarray], object]]:
    """Write a shard image by image; the file appears only when it is complete.

    Parameters
    ----------
    count, shape : number of images, and the shape of each
    compression : "zstd", or None

    Yields
    ------
    a function that writes the next image
    """
    with written_whole(path, "wb") as file:
        if compression is None:
            file.write(header_of((count, *shape)))
            yield lambda image: file.write(np.ascontiguousarray(image))
            return
        import zstandard  # here, because uncompressed shards do without it

        compressor = zstandard.ZstdCompressor(level=LEVEL)
        starts = [file.seek(HEADER + INTEGER.itemsize * _integers(count))]

        def write(image: np.ndarray) -> None:
            starts.append(starts[-1] + file.write(compressor.compress(np.ascontiguousarray(image))))

        yield write
        offsets = np.array([count, *shape, *starts], INTEGER)
        file.seek(0)
        file.write(header_of((starts[-1] - HEADER,)) + offsets.tobytes())
        file.write(np.array(zlib.crc32(offsets), INTEGER).tobytes())


def _integers(images: int) -> int:
    """The number of integers at the start of a compressed shard of so many images."""
    return 4 + images + 1 + 1


class ShardFile:
    """A shard to read from; any number of threads may share it.

    Every read opens the file: thousands of shards then need no open descriptors, and threads do not disturb each
    other's read-ahead.

    Parameters
    ----------
    path : the file, compressed or not

    Attributes
    ----------
    shape : of all images, (images, D, H, W)
    compressed : whether the images are compressed
    starts : offset of each image in the file, then the end of the last one

    Raises
    ------
    InputError
        if the file is missing, incomplete or not a shard
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with opened(self.path) as file:
                self._read_header(file.raw)
        except InputError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise InputError(path, "", f"the shard can't be read ({error})", AGAIN) from None

    def _read_header(self, file: FileIO) -> None:
        header, size = file.read(HEADER), os.fstat(file.fileno()).st_size
        found = re.search(rb"'shape': \(([\d, ]+)\)", header)
        shape = tuple(int(edge) for edge in found[1].split(b",") if edge.strip()) if found else ()
        if header != header_of(shape) or len(shape) not in (1, 4):
            raise ValueError("its header is not the header of a shard")
        if size != HEADER + math.prod(shape):
            raise ValueError(f"it holds {size:,} bytes instead of {HEADER + math.prod(shape):,}")
        self.compressed = len(shape) == 1
        if not self.compressed:
            self.shape = shape
            self.starts = HEADER + math.prod(shape[1:]) * np.arange(shape[0] + 1)
            return
        images = int.from_bytes(file.read(INTEGER.itemsize), "little")
        offsets = np.empty(min(_integers(images), size // INTEGER.itemsize), INTEGER)
        _fill(offsets, file, HEADER)
        if zlib.crc32(offsets[:-1]) != offsets[-1]:
            raise ValueError("its table of offsets is damaged")
        self.shape, self.starts = tuple(offsets[:4].tolist()), offsets[4:-1]

    def read(self, row: int, image: np.ndarray) -> None:
        """Read one image into an existing array, uint8 [D, H, W] in C order.

        Raises
        ------
        InputError
            if there is no such image or it can't be read; names the shard and the row
        """
        if row >= self.shape[0] or image.shape != self.shape[1:]:
            what = f"it holds {self.shape[0]} images of {self.shape[1:]} voxels, not row {row} of {image.shape} voxels"
            raise InputError(self.path, "", what, AGAIN)
        start, end = self.starts[row : row + 2].tolist()
        try:
            with opened(self.path) as file:
                if not self.compressed:
                    _fill(image, file.raw, start)
                    return
                frame = np.empty(end - start, np.uint8)
                _fill(frame, file.raw, start)
            _decompress(frame, image)
        except (OSError, EOFError) as error:
            raise InputError(self.path, f"row {row}", f"the image can't be read ({error})", AGAIN) from None

    def image(self, row: int) -> np.ndarray:
        """One image as a new array, uint8 [D, H, W]."""
        found = np.empty(self.shape[1:], np.uint8)
        self.read(row, found)
        return found


def _decompress(frame: np.ndarray, image: np.ndarray) -> None:
    """One Zstandard frame, uint8 [bytes], into an existing array; EOFError if it is none, or ends too early."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
            if reader.readinto(memoryview(image).cast("B")) < image.nbytes:
                raise EOFError("its frame ends too early")
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None


def _fill(target: np.ndarray, file: FileIO, start: int) -> None:
    """Read the file's bytes from `start` on into `target`, without an intermediate copy and without the GIL."""
    view = memoryview(target).cast("B")
    while len(view):
        count = os.preadv(file.fileno(), [view], start)
        if not count:
            raise EOFError("it ends too early")
        view, start = view[count:], start + count


def verify_row(image: np.ndarray, expected: str, path: str | Path, row: int) -> None:
    """Refuse an image whose bytes differ from the cached ones.

    Raises
    ------
    InputError
        naming the shard and the row
    """
    if checksum(image) != expected:
        raise InputError(path, f"row {row}", "the image's bytes do not match its checksum", AGAIN)
