"""Seeds from the names of a computation, never from the time or order of its run."""

import hashlib


def seed_from(*parts: object) -> int:
    """A seed in [0, 2**63) from the names of a computation, the same on every machine and in any order of runs.

    Parameters
    ----------
    parts : strings and numbers that name the computation, such as (study seed, task, n, replicate); they are
        joined by a separator that none of them contains, so ("a", "bc") and ("ab", "c") differ.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
