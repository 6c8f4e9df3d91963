"""Files between stages: written whole or not at all, and read with the types that were written.

Every table is a TSV whose missing values are empty fields; a file may begin with lines that start
with ``#`` and hold one JSON object of facts about the table.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import InputError
from .text import byte_size

if TYPE_CHECKING:  # importing pandas takes a second, which parsing the workflow need not pay
    import pandas as pd

MOST_BYTES = 500_000_000  # of a file that is read at once
MOST_COLUMNS = 10_000  # of a table
PLAIN_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.][A-Za-z0-9._-]{0,254}")
RESTORE = "restore it, or remove it and run the command again"

# Kinds of a column without text, as pandas names them.
NUMBERS = frozenset(["boolean", "empty", "floating", "integer", "mixed-integer-float"])

# The columns that hold text, in every table: `table_text` refuses a table that does not keep to this list.
TEXT_COLUMNS = frozenset(
    [
        *("image_id", "participant_id", "cohort", "session", "run", "t1w", "diagnosis", "shard", "role", "roles"),
        *("same_as", "in_split"),
        *("acquisition", "reconstruction", "derivatives"),
        *("reason", "detail", "status", "engine", "engine_version", "checksum", "file", "split", "target"),
        *("task", "model", "replicate", "first", "second", "metric", "group", "why", "question", "values", "by"),
        "family",
        *("image_1", "participant_1", "cohort_1", "image_2", "participant_2", "cohort_2", "kind"),
        *("manufacturer", "strata"),
        *("panel", "item", "quantity", "rule", "key", "device", "flags"),
    ]
)


@contextlib.contextmanager
def written_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part of one.  After an error nothing is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    # the system applies the umask; to ask for it a process would have to change it for a moment, for all its threads
    handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def path_within(folder: str | Path, *names: object) -> Path:
    """The path below `folder` that names lead to, which come from a table and may be anything.

    Whatever is removed, or written under a name that a table holds, goes through this function.

    Raises
    ------
    InputError
        if a name is no plain name, or if a folder on the way is a link to another place
    """
    for name in names:
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
            what = f"the name {str(name)[:80]!r} may lead out of this folder"
            raise InputError(folder, "", what, "restore the tables of the manifest: run neurotransfer manifest")
    path = Path(folder)
    for name in names[:-1]:
        path = path / str(name)
        if path.is_symlink():
            raise InputError(path, "", "it is a link, and may lead out of the study", "put the folder in its place")
    return path / str(names[-1])


def remove_within(folder: str | Path, *names: object) -> None:
    """Remove a file, a link or a folder at `path_within`; of a link only the link.  It need not be there."""
    path = path_within(folder, *names)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def restrict(folder: str | Path) -> None:
    """Take from all files and folders below `folder` the permissions that this process's new files do not get.

    Copies keep the permissions of their source, and a container has a umask of its own.  Links are left alone.
    """
    probe = Path(folder, f".{uuid.uuid4().hex[:12]}")
    probe.mkdir()  # has the permissions that the umask leaves
    allowed = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    for base, folders, files in os.walk(folder):
        for path in [*(Path(base, name) for name in (*folders, *files)), Path(base)]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink() and mode & ~allowed:
                path.chmod(mode & allowed)


def check_writable(folder: str | Path) -> None:
    """Raise InputError if a folder of results, or a folder up to two levels below it, cannot be written."""
    folder = Path(folder)
    for path in [folder, *folder.glob("*/"), *folder.glob("*/*/")]:
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            raise InputError(path, "", "it cannot be written", "fix its permissions, then run the same command again")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` whole, as UTF-8."""
    with written_whole(path) as file:
        file.write(text)


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file whole: sorted keys, two spaces, NaN refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[io.BufferedReader]:
    """Open a file to read its bytes; what is no regular file is refused, because reading a FIFO would never end.

    Raises
    ------
    InputError
        if it is a folder, a FIFO, a socket or a device
    FileNotFoundError
        if there is no such file
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise InputError(path, "", "it is a folder", "give a file in its place")
        raise InputError(path, "", "it is no regular file", "put a file in its place")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file (see `opened`).

    Raises
    ------
    InputError
        if it is no regular file, or has more than `most` bytes
    """
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(path, "", f"it is larger than {byte_size(most)}", "name the right file")
    return content


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        if it is not JSON, or if it is no regular file
    FileNotFoundError
        if there is no such file
    """
    try:
        return json.loads(read_bytes(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON ({error})"
        raise InputError(path, "", what, RESTORE) from None


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold, neither infinite nor NaN."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def table_text(table: pd.DataFrame, facts: Mapping[str, object] | None = None) -> str:
    """The text of a table's file: see `write_table`."""
    _check_text_columns(table)
    header = f"# {json.dumps(facts, sort_keys=True)}\n" if facts is not None else ""
    rows: str = table.to_csv(sep="\t", index=False, na_rep="", lineterminator="\n")
    return header + rows


def _check_text_columns(table: pd.DataFrame) -> None:
    """Raise TypeError if a column would be read with another type than it has."""
    from pandas.api.types import infer_dtype

    for name, column in table.items():
        kind = infer_dtype(column.astype(object) if column.dtype == "category" else column)
        if name not in TEXT_COLUMNS and kind not in NUMBERS:
            raise TypeError(f'column {name!r} holds text: add it to files.TEXT_COLUMNS, or "01" is read as 1')
        if name in TEXT_COLUMNS and kind != "string" and column.notna().any():
            raise TypeError(f"column {name!r} is in files.TEXT_COLUMNS and does not hold text only, but {kind}")


def write_table(table: pd.DataFrame, path: str | Path, facts: Mapping[str, object] | None = None) -> None:
    """Write a table whole, with `facts` (JSON values) in a first line that starts with ``#``.

    Floats are written with enough digits to be read back as the same numbers.

    Raises
    ------
    TypeError
        if a column holds text and is not in `TEXT_COLUMNS`, or is in it and holds anything else
    """
    write_text(path, table_text(table, facts))


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts in a table's first line; empty if it has none.

    Raises
    ------
    InputError
        if that line is no JSON object
    """
    with opened(path) as file:
        line = file.readline(MOST_BYTES)
    return facts_of(path, line)


def facts_of(path: str | Path, line: bytes) -> dict[str, Any]:
    """The facts in the first line of the table in `path`; empty if it starts without ``#``.

    Raises
    ------
    InputError
        if the line starts with ``#`` and is no JSON object
    """
    if not line.startswith(b"#"):
        return {}
    try:
        facts = json.loads(line[1:])
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise InputError(path, "line 1", "it is no JSON object behind #", RESTORE)
    return facts


def read_table(path: str | Path, *needed: str) -> pd.DataFrame:
    """Read a table: empty fields are missing, and columns that hold names stay text ("01" is not 1).

    Raises
    ------
    InputError
        if it is no table, or no regular file, or if one of the `needed` columns is missing
    """
    import pandas as pd

    with opened(path) as file:
        first = file.readline(MOST_BYTES)
        head = file.readline(MOST_BYTES) if first.startswith(b"#") else first
        if head.count(b"\t") >= MOST_COLUMNS:
            raise InputError(path, "", f"it has more than {MOST_COLUMNS:,} columns", RESTORE)
        begin = len(first) if first.startswith(b"#") else 0
        try:
            columns = pd.read_csv(io.BytesIO(head), sep="\t", nrows=0).columns
            file.seek(begin)
            table = pd.read_csv(
                file,
                sep="\t",
                dtype={name: "str" for name in columns if name in TEXT_COLUMNS},
                keep_default_na=False,
                na_values=[""],
            )
        except (ValueError, OverflowError) as error:
            raise InputError(path, "", f"it is no table ({error})", RESTORE) from None
    if missing := [name for name in needed if name not in columns]:
        raise InputError(path, "", f"it has no column {missing[0]}", RESTORE)
    return table


def read_cells(path: str | Path) -> Iterator[list[str]]:
    """The rows of a TSV as lists of cells, the header first; facts in a first line are left out.

    Raises
    ------
    InputError
        if it is no text, has a cell that never ends, or is no regular file
    """
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        try:
            for at, cells in enumerate(csv.reader(text, delimiter="\t")):
                if at or not cells or not cells[0].startswith("# {"):
                    yield cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(path, "", f"it is no table ({error})", RESTORE) from None


def read_dicts(path: str | Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a TSV by column; a short row lacks its last columns.

    Raises
    ------
    InputError
        if it is no table (see `read_cells`), or if one of `columns` is missing in it or in a row
    """
    rows = read_cells(path)
    header = next(rows, [])
    for name in columns:
        if name not in header:
            raise InputError(path, "", f"it has no column {name}", RESTORE)
    needed = max((header.index(name) for name in columns), default=-1)
    for at, cells in enumerate(rows, start=2):
        if len(cells) <= needed:
            raise InputError(path, f"line {at}", "it is cut off", RESTORE)
        yield dict(zip(header, cells, strict=False))


def rows_if_any(path: str | Path) -> Iterator[dict[str, str]]:
    """The rows of a TSV by column, without any check: what is no UTF-8 is replaced, and a missing file has none."""
    if Path(path).is_file():
        with Path(path).open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Several tables, one below the other; an empty table does not change the types of the others."""
    import pandas as pd

    tables = [read_table(path) for path in paths]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled or tables[:1], ignore_index=True) if tables else pd.DataFrame()


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_rows(table: pd.DataFrame | Path) -> str:
    """SHA-256 of a table's text without its facts; the table is in memory or in a file."""
    if not isinstance(table, Path):
        return hashlib.sha256(table_text(table).encode()).hexdigest()
    text = read_bytes(table)
    return hashlib.sha256(text.partition(b"\n")[2] if text.startswith(b"#") else text).hexdigest()


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON value; it does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
