"""The time and memory that a reader or a command may take of what somebody else wrote."""

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 2.0  # of a processor, which a busy machine changes little; readers take hundredths
BYTES = 500 * 10**6
MORE = 4 * 10**9  # of addresses: beyond it an allocation fails, and does not take the machine's memory
PROCESS = Path("/proc/self")


@dataclass
class Used:
    """What was used at most: `seconds` of a processor, and `bytes` of memory beyond those at the start."""

    seconds: float = 0.0
    bytes: int = 0


@contextmanager
def bounded(used: Used) -> Iterator[None]:
    """Measure a block and fail if it takes more than its processor time or memory; threads of this process count."""
    (PROCESS / "clear_refs").write_text("5")  # sets the peak to what is in use
    at_start, begun = _status("VmHWM"), time.process_time()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MORE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        seconds, taken = time.process_time() - begun, _status("VmHWM") - at_start
        used.seconds, used.bytes = max(used.seconds, seconds), max(used.bytes, taken)
    assert seconds <= SECONDS, f"{seconds:.1f} s of a processor"
    assert taken <= BYTES, f"{taken / 1e6:.0f} MB of memory"


def _status(name: str) -> int:
    """A size of this process, bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found
    return 1024 * int(found[1])
