"""Patches of Snakemake 9.27 for studies with thousands of jobs and private data, applied in its main process only.

No patch changes which jobs run, or when.  Each states its reason; a test fails when Snakemake no longer needs it.
"""

from __future__ import annotations

import atexit
import functools
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


def keep_report_public(reporter: type[Any], check: Callable[[Path], None]) -> None:
    """Leave out of ``snakemake --report`` what can name people or users: values of params, and folders of files.

    The params of the rule `report` are the whole configuration, those of `certificate` name pairs of people.

    Parameters
    ----------
    reporter : Snakemake's class of HTML reports
    check : raises an error if the finished file must not be mailed; the file is then deleted
    """
    render = reporter.render

    def render_public(self: Any) -> None:
        for subcategories in self.results.values():
            for results in subcategories.values():
                for result in results:
                    result.params = ""
        self.rules = {name: _public_rule(rule) for name, rule in self.rules.items()}
        render(self)
        try:
            check(Path(self.settings.path))
        except BaseException:
            Path(self.settings.path).unlink(missing_ok=True)
            raise

    reporter.render = render_public


def _public_rule(rule: Any) -> SimpleNamespace:
    """A rule's record in the report, whose files have no folders outside the study."""
    kept = {name: getattr(rule, name) for name in ("conda_env", "language", "source", "n_jobs")}
    files = {name: [_without_folder(path) for path in getattr(rule, name)] for name in ("input", "output")}
    container = rule.container_img_url and _without_folder(rule.container_img_url)
    return SimpleNamespace(**kept, **files, container_img_url=container)


def _without_folder(path: Any) -> str:
    """An absolute path's last part; a path below the study's folder stays."""
    return Path(str(path)).name if str(path).startswith("/") else str(path)


def patch_snakemake(dry_run: bool) -> None:
    """Apply the patches for large studies."""
    from snakemake import sourcecache
    from snakemake.scheduling.job_scheduler import JobScheduler

    schedule_once(JobScheduler)
    cache_parsed_paths(sourcecache)
    collect_garbage_rarely(dry_run)
