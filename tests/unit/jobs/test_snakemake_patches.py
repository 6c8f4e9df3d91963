"""What is mended of Snakemake: that it is needed, and that nothing is lost by it."""

import threading
import time

from neurotransfer.jobs.snakemake_patches import look_again_once, remember_places
from snakemake import sourcecache
from snakemake.scheduling.job_scheduler import JobScheduler

SPAN = 0.05


class Loop(JobScheduler):
    """The loop alone: each look asks for another one after the timespan, as `JobScheduler.schedule` does."""

    def __init__(self) -> None:
        self._open_jobs, self.looks = threading.Semaphore(0), 0

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._open_jobs.acquire(timeout=0.01):
                self.looks += 1
                self._schedule_reevalutation(SPAN)


def looks(loop: Loop, ended: int) -> int:
    """How often it looks in 20 timespans, after `ended` jobs have ended at once."""
    for _ in range(ended):
        loop._open_jobs.release()
    loop.run(20 * SPAN)
    return loop.looks - ended


def test_jobs_that_end_begin_no_endless_rows_of_looks():
    class Mended(Loop):
        pass

    look_again_once(Mended)
    assert looks(Loop(), 30) > 200  # what is mended is still there; when Snakemake has mended it, this can go
    assert 5 <= looks(Mended(), 30) <= 21


def test_no_look_is_lost_and_the_end_waits_for_none():
    class Mended(Loop):
        pass

    look_again_once(Mended)
    loop = Mended()
    assert looks(loop, 1) >= 5
    loop._schedule_reevalutation(1000)
    assert all(thread.daemon for thread in threading.enumerate() if isinstance(thread, threading.Timer))


def test_a_path_is_taken_apart_once(monkeypatch):
    taken, places = sourcecache.parse_uri, ["/study/workflow/scripts/cache.py", "relative/Snakefile"]
    asked = []
    monkeypatch.setattr(sourcecache, "parse_uri", lambda path: asked.append(path) or taken(path))
    cached = [sourcecache.LocalSourceFile(path).get_cache_path() for path in places]
    assert [sourcecache.LocalSourceFile(path).get_cache_path() for path in places] == cached
    assert asked == [*places, *places]  # what is mended is still there
    remember_places(sourcecache)
    assert [sourcecache.LocalSourceFile(path).get_cache_path() for path in 2 * places] == 2 * cached
    assert asked == [*places, *places, *places]
