"""Marks failed images for another try, and lists the jobs that follow from it.

An image is marked by removing its ``status.json``, which records its result, and the ledger of its job, which
Snakemake then makes again.  The job's other images keep their ``status.json`` and are not processed again.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from ..errors import InputError
from ..files import path_within
from ..jobs.job import is_held
from ..study import layout
from ..study.consequences import counts_by_rule, jobs_after
from ..study.plan import Study
from ..text import aligned, counted, number
from .image_states import EXCLUDED, FAILED, OK, UNKNOWN, State, ledgers_of, read_rows, states_of_images

SHOWN = 10  # images that are listed without --list
LOCKS = ".snakemake/locks"


@dataclass(frozen=True)
class Retry:
    """The images for another try, and the consequences.

    `images` maps them to their states; `status_files` and `ledgers` are the files that marking removes; `jobs` are
    all jobs that the next run does because of it, in Snakemake's words.
    """

    images: Mapping[str, State]
    status_files: tuple[Path, ...]
    ledgers: tuple[Path, ...]
    jobs: tuple[str, ...]

    def text(self, everything: bool = False) -> str:
        """The images and the jobs as text; only the first few images, or `everything`."""
        count = len(self.images)
        lines = [f"{counted(count, 'image')} to be tried again:"]
        shown = list(self.images.items())[: None if everything else SHOWN]
        cells = [
            [image, state.shard, state.state if state.state == OK else state.reason or UNKNOWN]
            for image, state in shown
        ]
        lines.append(indent(aligned(cells, "lll"), "  "))
        if len(shown) < count:
            lines.append(f"  and {count - len(shown):,} more (--list shows all)")
        lines.append("the next run of snakemake does these jobs, and those that are not done yet:")
        note = "(of these jobs' images, only the ones above)"
        rows = [
            [rule, number(jobs), note if rule == "preprocess" else ""]
            for rule, jobs in counts_by_rule(self.jobs).items()
        ]
        return "\n".join([*lines, indent(aligned(rows, "lrl"), "  ")])


def retry_of(
    study: Study,
    results: str | Path = layout.RESULTS,
    *,
    reason: str | None = None,
    cohort: str | None = None,
    images: Collection[str] = (),
) -> Retry:
    """The failed images of a reason and of a cohort, or images by name, and the consequences of marking them.

    Parameters
    ----------
    study : the plan
    results : the folder of its results
    reason : a reason of the ledger; None takes any
    cohort : a cohort's name; None takes any
    images : names of images, which may also be ok; with a reason or a cohort, only those that fit it

    Raises
    ------
    InputError
        if no image is asked for, if a reason, cohort or image does not exist (it names those that do), or if a job
        that would be marked is running
    """
    results = Path(results)
    states = dict(states_of_images(results))
    failed = {image: state for image, state in states.items() if state.state == FAILED}
    if reason is None and cohort is None and not images:
        fix = f"there are: {_listed(failed, 'reason')}" if failed else "and no image has failed"
        raise InputError("", "", "name the images by --reason, --cohort or --image", fix)
    if cohort is not None and cohort not in study.cohorts:
        _refuse("--cohort", cohort, "there is no such cohort", study.cohorts, ", ".join(study.cohorts))
    of_cohort = {image: state for image, state in failed.items() if cohort in (None, state.cohort)}
    if images:
        for image in images:
            if image not in states:
                _refuse("--image", image, "the manifest has no such image", states, f"see {layout.IMAGES}")
        usable = {image: states[image] for image in images if states[image].state in (OK, EXCLUDED, FAILED)}
        chosen = {image: state for image, state in usable.items() if cohort in (None, state.cohort)}
        chosen = {image: state for image, state in chosen.items() if reason in (None, state.reason)}
        if not chosen:
            raise InputError("", "--image", "none of these images has been tried and fits", "run snakemake")
    else:
        reasons = {state.reason for state in of_cohort.values()}
        if reason is not None and reason not in reasons:
            within = f" in {cohort}" if cohort else ""
            what = f"no image{within} failed for this reason"
            if any(state.state == EXCLUDED and state.reason == reason for state in states.values()):
                what = "this is a rule of quality control, which is set in the configuration (quality)"
            elif any(state.reason == reason for state in failed.values()):
                raise InputError("", f"--reason {reason}", what, f"there are{within}: {_listed(of_cohort, 'reason')}")
            _refuse("--reason", reason, what, [r for r in reasons if r], _listed(of_cohort, "reason"))
        chosen = {image: state for image, state in of_cohort.items() if reason in (None, state.reason)}
        if not chosen:
            raise InputError("", f"--cohort {cohort}", "no image of it has failed", "there is nothing to try again")
    return _consequences(study, results, chosen)


def _refuse(option: str, given: str, what: str, known: Collection[str], listed: str) -> None:
    near = difflib.get_close_matches(given, list(known), 1)
    fix = f"did you mean {near[0]!r}? there are: {listed}" if near else f"there are: {listed}"
    raise InputError("", f"{option} {given}", what, fix)


def _listed(states: Mapping[str, State], field: str) -> str:
    counts = Counter(getattr(state, field) or UNKNOWN for state in states.values())
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common()) or "none"


def _consequences(study: Study, results: Path, chosen: Mapping[str, State]) -> Retry:
    by_shard: dict[str, set[str]] = {}
    for image, state in chosen.items():
        by_shard.setdefault(state.shard, set()).add(image)
    ledgers: list[Path] = []
    preprocessing: dict[str, set[str]] = {}
    for shard, images in by_shard.items():
        # an image's job follows from its row in the shard's file, as in the job itself
        rows = enumerate(read_rows(layout.within(results, layout.SHARD_TABLES) / f"{shard}.tsv", "image_id"))
        per_job = study.shards[shard].images_per_job
        preprocessing[shard] = {f"{at // per_job:04d}" for at, row in rows if row["image_id"] in images}
        ledgers += [
            path
            for path in map(Path, ledgers_of(results, shard))
            if path.stem in preprocessing[shard]
            or any(row["image_id"] in images for row in read_rows(path, "image_id"))
        ]
    running = [
        path
        for shard, jobs in preprocessing.items()
        for job in jobs
        if is_held(path := layout.within(results, layout.ledger(shard, job)))
    ]
    if running:
        what = f"{len(running)} of the jobs that would be marked are running"
        raise InputError(f"{running[0]}.lease", "", what, "wait for their end, then give the command again")
    subjects = layout.within(results, layout.SUBJECTS)
    return Retry(
        images=chosen,
        status_files=tuple(path_within(subjects, state.shard, image, "status.json") for image, state in chosen.items()),
        ledgers=tuple(ledgers),
        jobs=tuple(jobs_after(study, preprocessing)),
    )


def mark(retry: Retry, study_folder: str | Path = ".") -> None:
    """Remove the images' ``status.json``, then the ledgers; after an interruption the same call completes it.

    Raises
    ------
    InputError
        if Snakemake runs in the study's folder, because it relies on the ledgers that it has found
    """
    locks = Path(study_folder, LOCKS)
    if locks.is_dir() and any(locks.iterdir()):
        fix = "wait for its end or stop it (if none runs: snakemake --unlock), then give the command again"
        raise InputError(locks, "", "Snakemake is running in this study", fix)
    for path in (*retry.status_files, *retry.ledgers):
        path.unlink(missing_ok=True)
