"""The manifest: cohorts and their BIDS folders -> images, shards, and what was left out.

Goes in: cohorts.tsv, the data sets it names, and the shards of the last time.  Comes out:
``results/manifest/{images,shards,excluded,scanners}.tsv`` and ``shards/<shard>.tsv``.

An image that has a shard keeps it, and its place in it.  The memory is the shard files themselves: images
that are gone leave theirs, new ones get new shards, and only files whose content changed are written.  A shard
whose images are all gone keeps its file, without rows, because its number must not be given again; it has no row in
``shards.tsv``.  The files of a cohort that has left cohorts.tsv stay as they are: it comes back to its old shards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError, Mistakes
from ..files import path_within, read_dicts, read_facts, table_text, write_text
from ..study import layout
from ..study.demands import images_per_job, may_leave_volumes_out
from ..study.plan import digest_of_cohorts, digest_of_list
from ..study.same_people import COLUMNS as SAME_PEOPLE
from ..study.same_people import People, rows_of
from ..study.targets import TARGETS
from ..text import aligned, counted
from .bids import PROCESSED, Exclusion, Participant, Scan, find_participants, key_of, safe
from .bids_tables import Table, day_of, read_acquisitions, read_participants, read_sessions, read_sidecar
from .cohorts import Cohort, read_cohorts
from .image_choice import choose_scans, entities_named
from .labels import Labels, mapped_columns
from .path_patterns import fill_in
from .people import Person, Visit
from .same_people import people_in, read_same_people
from .scanners import scanners_of, with_scanner
from .session_labels import folded, near_label
from .unnamed_columns import notes_on_columns
from .withdrawal import Apart, emptied, fill_positions, read_withdrawn, set_apart

COLUMNS = [
    *("image_id", "participant_id", "cohort", "session", "run", "acquisition", "reconstruction", "t1w"),
    *("derivatives", *TARGETS, "diagnosis", "shard"),
]
GAINS_VOLUMES = "its images get regional volumes now; its preprocessing jobs run again, without FastSurfer's network"
EXCLUDED = ["cohort", "file", "reason", "detail"]
PoolsCheck = Callable[[Mapping[str, Any], pd.DataFrame, Sequence[Cohort], Mistakes, People], list[str]]


@dataclass(frozen=True)
class Summary:
    """What the manifest found, for a person.

    `images` and `excluded` are the tables written; `notes` are sentences about what deserves a look; `written`,
    `new_images` and `gone_images` say what changed since the last time.  `withdrawn_shards` are those in which
    other images are withdrawn now: what depends on them is made again.  `pools` are lines about the tasks' labels.
    """

    images: pd.DataFrame
    excluded: pd.DataFrame
    cohorts: tuple[str, ...]
    notes: tuple[str, ...]
    written: int
    new_images: int
    gone_images: int
    shards: int
    withdrawn_shards: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()

    def text(self) -> str:
        """A table: per cohort its images, participants, the share of images without each label, what is left out."""
        header = ["cohort", "images", "participants"]
        header += [f"no {field.replace('_', ' ')}" for field in (*TARGETS, "diagnosis")] + ["left out"]
        rows = [header]
        for cohort in self.cohorts:
            rows.append(self._row(cohort, self.images["cohort"] == cohort, self.excluded["cohort"] == cohort))
        if len(self.cohorts) > 1:
            rows.append(self._row("total", self.images["cohort"].notna(), self.excluded["cohort"].notna()))
        lines = [aligned(rows, "l" + "r" * (len(header) - 2) + "l")]
        if len(self.excluded):
            lines.append(f"each file that is left out, and why: {layout.EXCLUDED}")
        lines += self.pools
        lines += [f"note: {note}" for note in self.notes]
        new = counted(self.new_images, "image is new", "images are new")
        gone = f" {counted(self.gone_images, 'is gone', 'are gone')}," if self.gone_images else ""
        written = counted(self.written, "file was written", "files were written")
        changed = f"{new},{gone} {written}" if self.written else "no change"
        return "\n".join([*lines, f"{counted(self.shards, 'shard')}; {changed}"])

    def _row(self, name: str, images: pd.Series, excluded: pd.Series) -> list[str]:
        table = self.images[images]
        missing = table[[*TARGETS, "diagnosis"]].isna().mean()
        reasons = Counter(self.excluded.loc[excluded, "reason"]).most_common()
        left_out = ", ".join(f"{count} {reason}" for reason, count in reasons) or "0"
        shares = [f"{100 * share:.0f} %" for share in missing]
        return [name, f"{len(table):,}", f"{table['participant_id'].nunique():,}", *shares, left_out]


def compile_manifest(
    config: Mapping[str, Any], check_pools: PoolsCheck, folder: str | Path = layout.MANIFEST
) -> Summary:
    """Read the cohorts and write the manifest, or write nothing and say everything that is wrong.

    Parameters
    ----------
    config : the study's configuration, checked
    check_pools : split.pools.check_pools; it is called before anything is written and collects its mistakes
    folder : of the manifest

    Raises
    ------
    InputError
        one line for each mistake in the table of cohorts, the data sets' tables and the tasks' pools
    """
    folder, table = Path(folder), Path(config["cohorts"])
    mistakes = Mistakes()
    cohorts = read_cohorts(table, list(config["tasks"]), images_per_job(config), mistakes)
    images, excluded, notes = _read_images(config, table, cohorts, mistakes)
    _check_duplicates(images, mistakes)
    if not mistakes:
        _check_engine(config, table, cohorts, mistakes)
        _check_roles(config, table, cohorts, mistakes)
    mistakes.raise_if_any()
    previous, numbers = read_assignments(folder)
    withdrawn = read_withdrawn(config["withdrawn"], mistakes)
    images, apart = set_apart(withdrawn, images, previous, folder, mistakes)
    excluded = excluded[~withdrawn.own(excluded)]
    listed, known = config.get("same_people"), set(images["participant_id"])
    groups, roles = read_same_people(listed, mistakes), {cohort.name: cohort.roles for cohort in cohorts}
    people, on_people = people_in(groups, listed, known, withdrawn, roles, mistakes)
    mistakes.raise_if_any()
    images = assign_shards(images, previous, numbers, config["manifest"]["images_per_shard"])
    in_tasks = {cohort.name: cohort.path for cohort in cohorts if {*cohort.roles} - {"pretraining", "holdout"}}
    scanners = scanners_of(images, in_tasks)
    pools = check_pools(config, with_scanner(images, scanners), cohorts, mistakes, people)
    mistakes.raise_if_any()
    begun = _known_without_volumes(folder)
    without_volumes = _without_volumes(config, cohorts, images, folder, begun)
    about = {"images.tsv": images, "excluded.tsv": excluded, "scanners.tsv": scanners}
    digest = digest_of_list(listed)
    facts = dict(apart.facts) | ({"same_people_sha256": digest} if digest else {})
    if people:
        about["same_people.tsv"] = pd.DataFrame(rows_of(people), columns=list(SAME_PEOPLE))
    else:
        (folder / "same_people.tsv").unlink(missing_ok=True)
    apart = replace(apart, facts=facts)
    written = _write(folder, table, cohorts, about, previous, apart, without_volumes)
    gaining = [cohort.name for cohort in cohorts if cohort.name in begun and cohort.name not in without_volumes]
    again = []
    for name in gaining:
        shards = images.loc[images["cohort"] == name, "shard"].unique()
        ledgers = [ledger for shard in shards for ledger in _ledgers(folder, shard)]
        for ledger in ledgers:
            ledger.unlink()  # Snakemake makes it again, also if it has no record of how the old one was made
        if ledgers and config["preprocessing"]["engine"] == "fastsurfer":  # another engine does everything again
            again.append(name)
    return Summary(
        images=people.named(images),
        excluded=excluded,
        cohorts=tuple(cohort.name for cohort in cohorts),
        notes=(
            *(cause.what for cause in mistakes.causes),
            *notes,
            *apart.notes,
            *on_people,
            *(f"{name}: {GAINS_VOLUMES}" for name in again),
        ),
        written=written,
        new_images=int((~images["image_id"].isin(list(previous))).sum()),
        gone_images=_gone(previous, {*images["image_id"], *apart.positions}, cohorts),
        shards=images["shard"].nunique(),
        withdrawn_shards=apart.shards,
        pools=tuple(pools),
    )


def _gone(previous: Mapping[str, tuple[str, int]], now: Collection[str], cohorts: Sequence[Cohort]) -> int:
    """How many images had a shard and have no place now, in cohorts that are still in the table."""
    names = {cohort.name for cohort in cohorts}
    return sum(shard.rpartition("-")[0] in names and image not in now for image, (shard, _) in previous.items())


def _read_images(
    config: Mapping[str, Any], table: Path, cohorts: Sequence[Cohort], mistakes: Mistakes
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Every cohort's images (without shards, with the identity of each file), exclusions and notes."""
    tasks = [task for task in config["tasks"].values() if task is not None]
    words = {word for task in tasks for word in (*task["positive"], *task["negative"])} | {*config["split"]["healthy"]}
    rows: list[dict] = []
    left_out: list[tuple[str, str, str, str]] = []
    notes: list[str] = []
    for cohort in cohorts:
        found, excluded, of_cohort = images_of_cohort(cohort, table, words, mistakes)
        rows += found
        left_out += [(cohort.name, *exclusion) for exclusion in excluded]
        notes += of_cohort
        other = Counter(row["diagnosis"] for row in found if row["diagnosis"] and row["diagnosis"] not in words)
        if other:
            known = {known.casefold(): known for known in words}
            listed = ", ".join(
                f"{word} ({count:,}{f', did you mean {near}?' if (near := known.get(word.casefold())) else ''})"
                for word, count in other.most_common(8)
            )
            notes.append(f"{cohort.name}: diagnoses that neither a task nor split.healthy names: {listed}")
    images = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "shard"] + ["identity"])
    images = images.astype(dict.fromkeys(TARGETS, "float64"))
    images = images.astype({"sex": "Int64", "handedness": "Int64"})  # written as 0 and 1, not 0.0
    return images, pd.DataFrame(left_out, columns=EXCLUDED), notes


def images_of_cohort(
    cohort: Cohort, table: Path, words: set[str], mistakes: Mistakes
) -> tuple[list[dict], list[Exclusion], list[str]]:
    """A cohort's images as rows (sorted by participant, session and name), what is left out, and notes."""
    excluded: list[Exclusion] = []
    lost: list[Exclusion] = []
    if not cohort.path.is_dir():
        fix = "mount it, or correct the path"
        mistakes.add(InputError(table, f"{cohort.where}, path", f"there is no folder {cohort.path}", fix))
        return [], excluded, []
    _refuse_derivatives(cohort, mistakes)
    participants = read_participants(cohort.path, mapped_columns(cohort), mistakes)
    if participants is None:
        return [], excluded, []
    labels = Labels(cohort, participants, words, mistakes)
    rows: list[dict] = []
    people: list[Person] = []
    owners: dict[str, str] = {}
    found: set[str] = set()
    others = {folded(key): key for key, _ in participants.rows}
    for person in find_participants(cohort.path, excluded):
        key = key_of(person.label, "sub-")
        if (key, "") not in participants.rows:
            near = near_label(key, others)
            detail = f"participants.tsv has no row sub-{key}{near}"
            without_row = [Exclusion(scan.path, "no_participants_row", detail) for scan in person.scans]
            excluded += without_row
            lost += without_row if near else []
            continue
        if not person.scans:
            continue
        found.add(key)
        name = f"{cohort.name}_{safe(key)}"
        if owners.setdefault(name, person.label) != person.label:
            what = f"sub-{owners[name]} and sub-{person.label} are both {name} once other characters are replaced"
            mistakes.add(InputError(cohort.path, f"sub-{person.label}", what, "rename one of them"))
        of_person, known = _images_of_person(cohort, person, name, labels, excluded, mistakes)
        rows += of_person
        people.append(known)
    for row, values in zip(rows, labels.values(people), strict=True):
        row |= values
    labels.report(table)
    labels.notes[:0] = _without_diagnosis(cohort, rows) if labels.has("diagnosis") else []
    labels.notes[:0] = notes_on_columns(cohort, participants, labels.has("diagnosis"))
    _explain_labels(cohort, table, lost, mistakes)
    _check_derivatives(cohort, table, rows, labels.notes, mistakes)
    if not rows:
        what = "it holds no T1-weighted image (sub-*/[ses-*/]anat/*_T1w.nii.gz)"
        if excluded:
            [(usual, _)] = Counter(one.reason for one in excluded).most_common(1)
            first = next(one for one in excluded if one.reason == usual)
            example = f"{first.file}: {first.detail}"
            what = f"none of its {len(excluded)} T1-weighted images can be used (the first: {example})"
        elif inner := next((path.parent for path in sorted(cohort.path.glob("*/sub-*/")) if path.is_dir()), None):
            what = f"{what}; its folder {inner.name} holds sub- folders"
        fix = f"correct the path in {table}, or the data set"
        mistakes.add(InputError(cohort.path, "", what, fix))
    elif without := len(participants.rows) - len(found):
        has = "person of participants.tsv has" if without == 1 else "people of participants.tsv have"
        labels.notes.append(f"{cohort.name}: {without:,} {has} no T1-weighted image")
    return rows, excluded, labels.notes


def _refuse_derivatives(cohort: Cohort, mistakes: Mistakes) -> None:
    """The images of a derivative data set are no raw scans, unless the column t1w names what is meant."""
    path = cohort.path / "dataset_description.json"
    try:
        kind = read_sidecar(path).get("DatasetType")
    except InputError:
        return  # BIDS wants this file; nothing here needs it
    named = entities_named(cohort.t1w) & set(PROCESSED)
    if isinstance(kind, str) and kind.lower() == "derivative" and not named:
        what = "DatasetType says that this is a derivative data set, and its images are no raw scans"
        fix = (
            f"give the raw data set as path of {cohort.name}, or name the images that are meant as t1w, as desc-preproc"
        )
        mistakes.add(InputError(path, "", what, fix))


def _explain_labels(cohort: Cohort, table: Path, lost: Sequence[Exclusion], mistakes: Mistakes) -> None:
    """Say which images are left out because participants.tsv writes their labels otherwise; a pool may lack them."""
    if not lost:
        return
    left_out = f"{cohort.name}: {counted(len(lost), 'image')} left out"
    note = f"{left_out}: participants.tsv writes the labels otherwise, such as: {lost[0].detail}"
    mistakes.causes.append(InputError(table, "", note, "write each label as its folder"))


def _without_diagnosis(cohort: Cohort, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on images that count as healthy because their diagnosis is missing."""
    missing = sum(not row["diagnosis"] for row in rows)
    if not missing or "pretraining" not in cohort.roles:
        return []
    if missing == len(rows):
        what = "the column of its diagnosis holds nothing, so everybody counts as healthy"
        return [f"ATTENTION: {cohort.name} pretrains, and {what}"]
    have = "has no diagnosis, and counts" if missing == 1 else "have no diagnosis, and count"
    return [f"{cohort.name}: {missing:,} of {counted(len(rows), 'image')} {have} as healthy"]


def _images_of_person(
    cohort: Cohort,
    person: Participant,
    name: str,
    labels: Labels,
    excluded: list[Exclusion],
    mistakes: Mistakes,
) -> tuple[list[dict], Person]:
    """The images of one participant as rows without labels, and what is known for their labels, in the same order."""
    key = key_of(person.label, "sub-")
    sessions = None
    if person.sessions_table is not None:
        diagnosis = cohort.columns.get("diagnosis", "")
        sessions = read_sessions(person.sessions_table, key, diagnosis, mapped_columns(cohort), mistakes)
    by_session: dict[str, list[Scan]] = {}
    for scan in person.scans:
        by_session.setdefault(scan.session, []).append(scan)
    several = len(by_session.keys() | (person.scans_tables.keys() - {""})) > 1
    labels.check_sessions(person.label, sessions, by_session)
    days: dict[str, dict[str, date]] = {}
    if several or "birth_date" in cohort.columns:
        days = _days(person, sessions, labels, mistakes)
    known = labels.person(sessions, several, min((min(has.values()) for has in days.values() if has), default=None))
    rows = []
    for session, scans in by_session.items():
        taken, others = choose_scans(scans, cohort.t1w)
        excluded += others
        for scan in taken:
            has = days.get(key_of(session, "ses-"), {})
            day = next(
                (has[file] for file in has if file and scan.path.endswith(f"/{file}")), min(has.values(), default=None)
            )
            known.visits.append(Visit(labels.cells(person.label, sessions, session), day))
            rows.append(_row(cohort, person, name, scan, mistakes))
    return rows, known


def _days(
    person: Participant, sessions: Table | None, labels: Labels, mistakes: Mistakes
) -> dict[str, dict[str, date]]:
    """The days of each session's scans, by the file's name in scans.tsv; "" for the day that sessions.tsv gives."""
    days: dict[str, dict[str, date]] = {}
    for session, (_, path) in person.scans_tables.items():
        try:
            of_files, unread = read_acquisitions(path)
        except InputError as error:
            mistakes.add(error)
            continue
        labels.count("undated", unread)
        for file, day in of_files.items():
            found = re.match(r"ses-([^/]+)/", file)  # a table beside the folders of sessions names them
            days.setdefault(key_of(session or (found[1] if found else ""), "ses-"), {})[file] = day
    if sessions is not None and "acq_time" in sessions.columns:
        at = sessions.columns.index("acq_time")
        for (_, session), (_, cells) in sessions.rows.items():
            if (visited := day_of(cells[at])) and session not in days:
                days[session] = {"": visited}
    return days


def _row(cohort: Cohort, person: Participant, name: str, scan: Scan, mistakes: Mistakes) -> dict:
    session = f"_ses-{safe(scan.session)}" if scan.session else ""
    image = f"{name}{session}{'_'.join(safe(entity) for entity in scan.entities.split('_'))}"
    run = scan.labels.get("run")
    folder = None
    if cohort.derivatives:
        labels = {"participant": person.label, "session": scan.session, "run": run or "", "image_id": image}
        try:
            folder = str(cohort.path / fill_in(cohort.derivatives, labels))
        except ValueError as error:
            what = f"the pattern of derivatives, {cohort.derivatives}, can't be filled in: {error}"
            fix = "put the part that is not always there into square brackets, as sub-{participant}[_ses-{session}]"
            mistakes.add(InputError(scan.path, "", what, fix), str(cohort.path), "derivatives")
    return {
        "image_id": image,
        "participant_id": name,
        "cohort": cohort.name,
        "session": scan.session or None,
        "run": run,
        "acquisition": scan.labels.get("acq"),
        "reconstruction": scan.labels.get("rec"),
        "t1w": scan.path,
        "derivatives": folder,
        "identity": scan.identity,
    }


def _check_derivatives(
    cohort: Cohort, table: Path, rows: Sequence[Mapping[str, Any]], notes: list[str], mistakes: Mistakes
) -> None:
    """A pattern that finds nothing is a slip, and so is one that gives two images one folder."""
    if cohort.derivatives is None:
        return
    owners: dict[str, str] = {}
    for row in rows:
        if row["derivatives"] and owners.setdefault(row["derivatives"], row["image_id"]) != row["image_id"]:
            what = f"{owners[row['derivatives']]} and {row['image_id']} would both be {row['derivatives']}"
            fix = "name what distinguishes them, as {session} or {run}"
            mistakes.add(InputError(table, f"{cohort.where}, derivatives", what, fix), str(cohort.path), "one folder")
    missing = [folder for folder in owners if not Path(folder).is_dir()]
    if owners and len(missing) == len(owners):
        what = f"not one of its {len(owners):,} folders is there, such as {missing[0]}"
        mistakes.add(InputError(table, f"{cohort.where}, derivatives", what, "correct the pattern"))
    elif missing:
        notes.append(f"{cohort.name}: {len(missing):,} of {len(owners):,} folders of derivatives are not there")


def _check_duplicates(images: pd.DataFrame, mistakes: Mistakes) -> None:
    """One name for two files, or one file under two names."""
    for column, what in (("image_id", "another file has the same name"), ("identity", "this file is there twice")):
        first = images.drop_duplicates(column).set_index(column)["t1w"]
        for row in images[images.duplicated(column)].itertuples():
            line = f"{what}, {row.image_id} ({first[getattr(row, column)]})" if column == "image_id" else what
            if column == "identity":
                line = f"{what}, also as {first[row.identity]}"
            fix = "remove one of them, or one of the cohorts that list it"
            mistakes.add(InputError(row.t1w, "", f"duplicate image: {line}", fix), "duplicate images", column)


def _check_engine(config: Mapping[str, Any], table: Path, cohorts: Sequence[Cohort], mistakes: Mistakes) -> None:
    """The engine derivatives processes nothing: each cohort must name its outputs."""
    if config["preprocessing"]["engine"] == "derivatives":
        for cohort in cohorts:
            if cohort.derivatives is None:
                what = "the engine is derivatives, and this cohort names no folders of outputs"
                fix = "write a pattern, or choose another engine"
                mistakes.add(InputError(table, f"{cohort.where}, derivatives", what, fix))


def _check_roles(config: Mapping[str, Any], table: Path, cohorts: Sequence[Cohort], mistakes: Mistakes) -> None:
    """Pretraining and each task need a cohort."""
    roles = {role for cohort in cohorts for role in cohort.roles}
    for name, task in config["tasks"].items():
        if task is not None and name not in roles:
            fix = f"add the role {name!r} to a cohort, or set tasks.{name} to null"
            mistakes.add(InputError(table, "roles", f"no cohort has the role {name!r}, the pool of that task", fix))
    if "pretraining" not in roles and not config["pretrain"]["weights"]:
        fix = "add it to a cohort, or give existing weights as pretrain.weights"
        mistakes.add(InputError(table, "roles", "no cohort has the role pretraining", fix))


def read_assignments(folder: Path) -> tuple[dict[str, tuple[str, int]], dict[str, int]]:
    """The shard and place of each image so far, and the highest number that each cohort has given to a shard."""
    positions: dict[str, tuple[str, int]] = {}
    numbers: dict[str, int] = {}
    for path in sorted((folder / "shards").glob("*-*.tsv")):
        cohort, _, number = path.stem.rpartition("-")
        if not number.isdigit():
            continue
        numbers[cohort] = max(numbers.get(cohort, 0), int(number))
        for place, row in enumerate(read_dicts(path, "image_id")):
            positions.setdefault(row["image_id"], (path.stem, place))
    return positions, numbers


def assign_shards(
    images: pd.DataFrame,
    previous: Mapping[str, tuple[str, int]],
    numbers: Mapping[str, int],
    images_per_shard: int,
) -> pd.DataFrame:
    """The images with their shards, in order of cohort, shard and place.

    Parameters
    ----------
    images : in the order of cohorts, and within a cohort in the order in which new ones get their positions
    previous : shard and place of images that have one; they keep it
    numbers : the highest number of each cohort's shards; new ones count on from there
    images_per_shard : of new shards; old ones are not filled up, because their files must stay as they are
    """
    fresh = images[~images["image_id"].isin(list(previous))]
    nth = fresh.groupby("cohort", sort=False).cumcount()
    first = fresh["cohort"].map(lambda cohort: numbers.get(cohort, 0) + 1)
    number = (first + nth // images_per_shard).astype(int)
    shards = [f"{cohort}-{at:04d}" for cohort, at in zip(fresh["cohort"], number, strict=True)]
    positions = dict(zip(fresh["image_id"], zip(shards, (nth % images_per_shard).tolist(), strict=True), strict=True))
    positions |= previous
    shard = [positions[image][0] for image in images["image_id"]]
    order = pd.DataFrame(
        {
            "cohort": pd.factorize(images["cohort"])[0],
            "number": [int(name.rpartition("-")[2]) for name in shard],
            "place": [positions[image][1] for image in images["image_id"]],
        },
        index=images.index,
    )
    order = order.sort_values(["cohort", "number", "place"]).index
    return images.assign(shard=shard).loc[order, COLUMNS].reset_index(drop=True)


def _known_without_volumes(folder: Path) -> set[str]:
    """The cohorts whose images need no regional volumes by the manifest that is there."""
    table = folder / Path(layout.SHARDS).name
    return set(read_facts(table).get("without_volumes", ())) if table.is_file() else set()


def _ledgers(folder: Path, shard: str) -> list[Path]:
    return list(path_within(folder.with_name(Path(layout.PREPROCESSED).name), shard, "ledger").parent.glob("*.tsv"))


def _without_volumes(
    config: Mapping[str, Any], cohorts: Sequence[Cohort], images: pd.DataFrame, folder: Path, known: Collection[str]
) -> list[str]:
    """The cohorts whose images need no regional volumes: they are in no task.

    A cohort that has been preprocessed with volumes, at least in part, keeps them, because otherwise Snakemake would
    repeat its jobs and what depends on them.
    """
    if not may_leave_volumes_out(config):
        return []
    shards = images.drop_duplicates("shard").groupby("cohort")["shard"]
    begun = {name for name, of_cohort in shards if any(_ledgers(folder, shard) for shard in of_cohort)}
    return [
        cohort.name
        for cohort in cohorts
        if not cohort.derivatives
        and not set(cohort.roles) - {"pretraining", "holdout"}
        and (cohort.name in known or cohort.name not in begun)
    ]


def _write(
    folder: Path,
    table: Path,
    cohorts: Sequence[Cohort],
    about: Mapping[str, pd.DataFrame],
    previous: Mapping[str, tuple[str, int]],
    apart: Apart,
    without_volumes: Sequence[str],
) -> int:
    """Write what has changed, shards.tsv last, because it means that the rest is there; the number of files written."""
    by_name = {cohort.name: cohort for cohort in cohorts}
    images = about["images.tsv"]
    texts = {}
    shards = []
    for name, rows in fill_positions(images, apart, previous).groupby("shard", sort=False):
        cohort, withdrawn = by_name.get(rows["cohort"].iloc[0]), int(rows["withdrawn"].count())
        if cohort is None:  # it has left cohorts.tsv; its files stay, without what is withdrawn
            texts[f"shards/{name}.tsv"] = emptied(folder / "shards" / f"{name}.tsv", apart.positions)
            continue
        texts[f"shards/{name}.tsv"] = table_text(rows if withdrawn else rows[COLUMNS])
        shards.append((name, cohort.name, len(rows), cohort.images_per_job, withdrawn))
    for name in {shard for shard, _ in previous.values()} - {row[0] for row in shards}:
        if name.rpartition("-")[0] in by_name:
            texts[f"shards/{name}.tsv"] = table_text(images.iloc[:0])
    facts = {
        "cohorts_sha256": digest_of_cohorts(table),
        "roles": {cohort.name: list(cohort.roles) for cohort in cohorts},
        "pretraining_shares": {cohort.name: cohort.pretraining_share for cohort in cohorts},
        "derivatives": [cohort.name for cohort in cohorts if cohort.derivatives],
        **({"without_volumes": list(without_volumes)} if without_volumes else {}),
        **apart.facts,
    }
    texts |= {name: table_text(rows) for name, rows in about.items()}
    columns = ["shard", "cohort", "images", "images_per_job", "withdrawn"]
    texts["shards.tsv"] = table_text(pd.DataFrame(shards, columns=columns), facts)
    return sum(_write_changed(folder / name, text) for name, text in texts.items())


def _write_changed(path: Path, text: str) -> bool:
    """Write a file whose content is another now; an unchanged one keeps its time, which Snakemake goes by."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_text(path, text)
    return True
