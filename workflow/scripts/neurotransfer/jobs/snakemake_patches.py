"""Patches of Snakemake 9.27 for studies with thousands of jobs, applied in its main process only.

No patch changes which jobs run, or when.  Each states its reason; a test fails when Snakemake no longer needs it.
"""

from __future__ import annotations

import atexit
import functools
import gc
import threading
from typing import Any


def schedule_once(scheduler: type[Any]) -> None:
    """Keep Snakemake idle while its jobs run: otherwise it uses a core of the login node for weeks.

    With a limit on submissions, which always exists, every scheduling pass over the ready jobs starts a timer for
    the next pass.  Each job that ends causes a pass too, and so starts one more endless chain of timers.  After a
    thousand of 3,000 fits Snakemake did nothing else.  With this patch at most one timer runs at a time, as a daemon
    thread, which does not delay Snakemake's end.

    Parameters
    ----------
    scheduler : Snakemake's ``JobScheduler``

    Raises
    ------
    AttributeError
        if it has no such method as in Snakemake 9.27
    """

    def schedule_after(self: Any, delay: float) -> None:
        if vars(self).get("_pass_is_due"):
            return

        def begin_pass() -> None:
            self._pass_is_due = False  # before the pass, which starts the next timer
            self._open_jobs.release()

        self._pass_is_due = True
        timer = threading.Timer(delay, begin_pass)
        timer.daemon = True
        timer.start()

    name = "_schedule_reevalutation"
    getattr(scheduler, name)
    setattr(scheduler, name, schedule_after)


def cache_parsed_paths(sourcecache: Any) -> None:
    """Parse a script's path once, not three times for every job, which takes a tenth of a dry run.

    Parameters
    ----------
    sourcecache : Snakemake's module of that name
    """
    sourcecache.parse_uri = functools.cache(sourcecache.parse_uri)


def collect_garbage_rarely(dry_run: bool) -> None:
    """Collect garbage less often, because a plan is millions of objects that all live until the end.

    This saves a tenth of a dry run, and as much at its end, because nothing is freed at exit.  A real run takes weeks
    and keeps collecting, less often than by default.
    """
    gc.set_threshold(5_000_000 if dry_run else 200_000, 20, 50)
    atexit.register(gc.freeze)


def patch_snakemake(dry_run: bool) -> None:
    """Apply all patches."""
    from snakemake import sourcecache
    from snakemake.scheduling.job_scheduler import JobScheduler

    schedule_once(JobScheduler)
    cache_parsed_paths(sourcecache)
    collect_garbage_rarely(dry_run)
