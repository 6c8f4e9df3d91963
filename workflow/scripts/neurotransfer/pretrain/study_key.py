"""The study key, and the digests under it by which people behind weights are found again.

Standard library only, because jobs that use no network read the key, too.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_bytes
from ..study.same_people import NOBODY, People

logger = logging.getLogger("neurotransfer")
SCHEME = "hmac-sha256"  # of the participants' digests, cut to 128 bits
KEY_BYTES = 32


def digests_of(participants: Iterable[str], key: bytes, people: People = NOBODY) -> dict[str, Any]:
    """HMAC-SHA256 digests of the participants behind weights, by which a later study with the key finds its people.

    Without the key they say nothing: names are short, so plain or salted hashes would be guessed.  `key_id`
    distinguishes a wrong key from people who are not among them.

    Parameters
    ----------
    people : who has several names; all names of a participant's person have digests
    """
    return {
        "scheme": SCHEME,
        "key_id": key_id(key),
        "digests": sorted(_digest(name, key) for name in people.names(participants)),
    }


def seen_by(
    metadata: Mapping[str, Any], participants: Iterable[str], key: bytes | None, people: People = NOBODY
) -> set[str] | None:
    """Those of `participants` who are behind the weights; None if that is not known.

    Parameters
    ----------
    key : the study key that the weights' digests were made with; None if there is none
    people : who has several names; a participant is behind the weights if another name of the person is
    """
    known = metadata.get("participants")
    if not known or key is None or known.get("scheme") != SCHEME or known["key_id"] != key_id(key):
        return None
    digests = set(known["digests"])
    return {name for name in participants if any(_digest(one, key) in digests for one in people.names([name]))}


def why_unknown(metadata: Mapping[str, Any], key: bytes | None) -> str:
    """Why `seen_by` gives None, in words; empty if it does not."""
    known = metadata.get("participants")
    if not known:
        return "the file of weights holds no digests of its participants"
    if known.get("scheme") != SCHEME:
        return "the file of weights holds digests of an older kind, not used because they can be guessed"
    if key is None:
        return "there is no study key to check the weights' digests of participants with"
    return "" if known["key_id"] == key_id(key) else "the study key is not the one of the weights' digests"


def _digest(participant: str, key: bytes) -> str:
    return hmac.new(key, b"participant:" + participant.encode(), hashlib.sha256).hexdigest()[:32]


def key_id(key: bytes) -> str:
    """A name for a study key that does not give it away."""
    return hmac.new(key, b"study key", hashlib.sha256).hexdigest()[:16]


def read_study_key(path: str | Path) -> bytes | None:
    """The study key in a file, None if there is no such file.

    Raises
    ------
    InputError
        if the file holds no key, or others than its owner's group may read it
    """
    path = Path(path)
    try:
        key = bytes.fromhex(read_bytes(path, 10_000).decode("ascii").strip())
    except FileNotFoundError:
        return None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        fix = "put the study's key back, or move the file away and let a new one be made"
        raise InputError(path, "", f"it holds no study key ({2 * KEY_BYTES} hexadecimal digits)", fix)
    if path.stat().st_mode & 0o007:
        raise InputError(path, "", "everybody on this machine may read the study key", f"chmod 600 {path}")
    return key


def make_study_key(path: str | Path) -> bytes:
    """The study key in a file; if there is none yet, a random one is written, readable by its owner alone."""
    path = Path(path)
    if (key := read_study_key(path)) is not None:
        return key
    path.parent.mkdir(parents=True, exist_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:  # a full disk leaves no empty key, and of two processes that make one the first wins
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{key.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except FileExistsError:
        return make_study_key(path)
    finally:
        part.unlink(missing_ok=True)
    logger.info("%s: made a study key; keep it safe, inside your site and out of any repository", path)
    return key
