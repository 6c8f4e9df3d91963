"""Snakemake still needs the patches, and they change nothing else."""

import threading
import time

from neurotransfer.jobs.snakemake_patches import cache_parsed_paths, schedule_once
from snakemake import sourcecache
from snakemake.scheduling.job_scheduler import JobScheduler

SPAN = 0.05


class Loop(JobScheduler):
    """The loop alone: each pass starts a timer for the next one, as `JobScheduler.schedule` does."""

    def __init__(self) -> None:
        self._open_jobs, self.passes = threading.Semaphore(0), 0

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._open_jobs.acquire(timeout=0.01):
                self.passes += 1
                self._schedule_reevalutation(SPAN)


def passes(loop: Loop, ended: int) -> int:
    """The number of passes in 20 timespans, after `ended` jobs have ended at once."""
    for _ in range(ended):
        loop._open_jobs.release()
    loop.run(20 * SPAN)
    return loop.passes - ended


def test_jobs_that_end_start_no_endless_chains_of_passes():
    class Patched(Loop):
        pass

    schedule_once(Patched)
    assert passes(Loop(), 30) > 200  # if this fails, Snakemake has fixed it, and the patch can be removed
    assert 5 <= passes(Patched(), 30) <= 21


def test_no_pass_is_lost_and_none_delays_the_end():
    class Patched(Loop):
        pass

    schedule_once(Patched)
    loop = Patched()
    assert passes(loop, 1) >= 5
    loop._schedule_reevalutation(1000)
    assert all(thread.daemon for thread in threading.enumerate() if isinstance(thread, threading.Timer))


def test_a_path_is_parsed_once(monkeypatch):
    taken, places = sourcecache.parse_uri, ["/study/workflow/scripts/cache.py", "relative/Snakefile"]
    asked = []
    monkeypatch.setattr(sourcecache, "parse_uri", lambda path: asked.append(path) or taken(path))
    cached = [sourcecache.LocalSourceFile(path).get_cache_path() for path in places]
    assert [sourcecache.LocalSourceFile(path).get_cache_path() for path in places] == cached
    assert asked == [*places, *places]  # Snakemake still parses a path three times
    cache_parsed_paths(sourcecache)
    assert [sourcecache.LocalSourceFile(path).get_cache_path() for path in 2 * places] == 2 * cached
    assert asked == [*places, *places, *places]
