"""What Snakemake 9.27 does too often for a study of thousands of jobs, mended from outside, in its main process only.

Nothing here changes what is run, or when.  Each mend says what it is for; where it is needed no longer, a test fails.
"""

from __future__ import annotations

import atexit
import functools
import gc
import threading
from typing import Any


def look_again_once(scheduler: type[Any]) -> None:
    """Keep Snakemake idle while it waits for jobs: otherwise it takes a core of the login node for weeks.

    With a limit on submissions, which is always there, it looks at all ready jobs again a timespan after each look.
    But each job that ends makes it look too, and so begins one more endless row of looks.  Of 3,000 fits a thousand
    had ended when it did nothing else.  Here one look at most waits for its time, and none holds up Snakemake's end.

    Parameters
    ----------
    scheduler : Snakemake's ``JobScheduler``

    Raises
    ------
    AttributeError
        where it is not made as that of Snakemake 9.27 is
    """

    def look_after(self: Any, delay: float) -> None:
        if vars(self).get("_look_waits"):
            return

        def look() -> None:
            self._look_waits = False  # before the look, which asks for the next one
            self._open_jobs.release()

        self._look_waits = True
        timer = threading.Timer(delay, look)
        timer.daemon = True
        timer.start()

    name = "_schedule_reevalutation"
    getattr(scheduler, name)
    setattr(scheduler, name, look_after)


def remember_places(sourcecache: Any) -> None:
    """Take a script's path apart once, not three times for every job: a tenth of a dry run.

    Parameters
    ----------
    sourcecache : Snakemake's module of that name
    """
    sourcecache.parse_uri = functools.cache(sourcecache.parse_uri)


def collect_rarely(dry_run: bool) -> None:
    """Look for dead objects less often: a plan is millions that live to the end, and Python goes through all of them.

    A tenth of a dry run, and as much at its end, where nothing needs to be freed any more.  A real run goes on for
    weeks, so it keeps looking, more rarely than by default.
    """
    gc.set_threshold(5_000_000 if dry_run else 200_000, 20, 50)
    atexit.register(gc.freeze)


def mend(dry_run: bool) -> None:
    """All of it."""
    from snakemake import sourcecache
    from snakemake.scheduling.job_scheduler import JobScheduler

    look_again_once(JobScheduler)
    remember_places(sourcecache)
    collect_rarely(dry_run)
