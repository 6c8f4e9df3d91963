"""Who may read a study's results: its owner alone, or the group of its folder as well.

Results, logs and Snakemake's records hold people's names and images.  One umask, set at the start of each process,
gives every file its permissions, those of Snakemake itself, of jobs on other nodes and of containers included.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import LOGS, RESULTS

OWNER = 0o077  # the umask that leaves files to their owner
UMASKS = {"owner": OWNER, "group": 0o027}  # by the key readable_by
SNAKEMAKE = ".snakemake"
REHEARSAL = "rehearsal"  # a small study of its own, with its own results and logs
FOLDERS = (RESULTS, LOGS, SNAKEMAKE, REHEARSAL)


def set_umask(config: Mapping[str, Any]) -> int:
    """Set this process's umask, and that of all processes it starts, to what a configuration allows; return it."""
    mask = UMASKS.get(str(config.get("readable_by")), OWNER)  # a wrong value is refused later
    os.umask(mask)
    return mask


def close_records(mask: int) -> None:
    """Close Snakemake's records and its log, which it may have made before the Snakefile could set the umask."""
    folder = Path(SNAKEMAKE)
    if folder.is_symlink():
        return
    for path in (folder, folder / "log", *sorted((folder / "log").glob("*"))):
        if path.is_symlink() or not path.exists():
            continue
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & mask:
            path.chmod(stat.S_IMODE(found.st_mode) & ~mask)


def left_open(mask: int) -> str | None:
    """The folders of the present study that others may enter, with the command that closes them; None if none is open.

    An older version, or a copy, has made them so.
    """
    opened = [name for name in FOLDERS if os.path.isdir(name) and os.stat(name).st_mode & mask & 0o077]
    if not opened or not os.stat(".").st_mode & mask & 0o011:  # nobody enters the study's folder
        return None
    whom = "everybody on this machine" if any(os.stat(name).st_mode & mask & 0o007 for name in opened) else "the group"
    rights = "go-rwx" if mask == OWNER else "g-w,o-rwx"
    return f"{whom} may enter {', '.join(opened)} of this study; close them: chmod -R {rights} {' '.join(opened)}"
