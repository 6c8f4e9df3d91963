"""The tables of the paper's whole study without its images: 45 BIDS data sets whose scans have one byte each.

Goes in: a folder, and the share of the study's size.  Comes out: ``data/<cohort>/`` and the ``config/cohorts.tsv`` that
`config/config.yaml` names.  Manifest and dry run are then those of the paper's study.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGES, PARTICIPANTS, COHORTS = 114_257, 80_931, 45  # [paper]
ADNI, TOP = (10_660, 1_678), (1_037, 861)  # [paper] images and participants of the two tasks' pools
PRETRAINING, HOLDOUT = 24, 19  # [paper] 25 and 20, less ADNI and TOP
PRETRAINING_IMAGES = 76_600  # [assumed] 78,570 for training and validation, without ADNI's
COLUMNS = ("cohort", "path", "roles", "pretraining_share", "diagnosis_codes", "age_unit", "t1w")


@dataclass(frozen=True)
class Design:
    """One cohort: its size, its roles in the study, and the layout of its data set.

    `layout` says how ages of several sessions are stored: ``sessions`` (a sessions.tsv per person), ``dates``
    (acquisition times in scans.tsv), ``runs`` (several scans in one session, no ages needed).
    """

    name: str
    images: int
    participants: int
    roles: str
    share: str = ""
    diagnoses: tuple[str, ...] = ("HC",)
    layout: str = "sessions"
    months: bool = False
    commas: bool = False


def designs(share: float = 1.0) -> list[Design]:
    """The 45 cohorts; a `share` below 1 makes them smaller, but the tasks' pools stay large enough for n = 500."""
    rest = (IMAGES - ADNI[0] - TOP[0], PARTICIPANTS - ADNI[1] - TOP[1])
    images = _apportion(PRETRAINING_IMAGES, PRETRAINING) + _apportion(rest[0] - PRETRAINING_IMAGES, HOLDOUT)
    people = _shares_of(rest[1], images)
    cohorts = []
    for number, (has, persons) in enumerate(zip(images, people, strict=True)):
        layout = ("sessions", "dates", "runs")[number % 3]
        made = Design(
            f"C{number + 1:02d}",
            max(2, round(share * has)),
            max(2, round(share * persons)),
            "pretraining" if number < PRETRAINING else "holdout",
            layout=layout,
            months=number % 5 == 4,
            commas=number % 5 == 3,
        )
        cohorts.append(made)
    images_of_adni, people_of_adni = ADNI if share == 1 else (max(1_500, round(share * ADNI[0])), 1_200)
    adni = Design(
        "ADNI", images_of_adni, people_of_adni, "pretraining,ad_hc", "0.3", ("CN", "Dementia"), layout="dates"
    )
    cohorts.insert(0, adni)
    cohorts.append(Design("TOP", *TOP, "holdout,scz_bd", diagnoses=("SCZ", "BD")))
    return cohorts


def _apportion(total: int, parts: int) -> list[int]:
    """Parts in proportion to 1/rank that sum to the total: a few large cohorts and many small ones."""
    return _shares_of(total, [1 / rank for rank in range(1, parts + 1)])


def _shares_of(total: int, weights: list[float]) -> list[int]:
    """Integers in proportion to the weights that sum to the total (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    whole = [int(number) for number in exact]
    largest = sorted(range(len(exact)), key=lambda at: whole[at] - exact[at])
    for at in largest[: total - sum(whole)]:
        whole[at] += 1
    return whole


def write_study(folder: Path, share: float = 1.0) -> list[Design]:
    """Write the study's data sets and its table of cohorts; do nothing if the same study is complete already."""
    cohorts = designs(share)
    mark = folder / "written.json"
    facts = json.dumps([str(cohort) for cohort in cohorts])
    if mark.is_file() and mark.read_text() == facts:
        return cohorts
    lines = ["\t".join(COLUMNS)]
    for number, cohort in enumerate(cohorts):
        write_cohort(folder / "data" / cohort.name, cohort, random.Random(number))
        row = {
            "cohort": cohort.name,
            "path": f"data/{cohort.name}",
            "roles": cohort.roles,
            "pretraining_share": cohort.share,
            "diagnosis_codes": "CN=HC,Dementia=AD" if cohort.name == "ADNI" else "",
            "age_unit": "months" if cohort.months else "",
            "t1w": "all" if cohort.layout == "runs" else "",
        }
        lines.append("\t".join(row[name] for name in COLUMNS))
    table = folder / "config/cohorts.tsv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(lines) + "\n")
    mark.write_text(facts)
    return cohorts


def write_cohort(root: Path, cohort: Design, draw: random.Random) -> None:
    """One data set: participants.tsv, a scan of one byte and its sidecar per image, and the layout's tables."""
    root.mkdir(parents=True, exist_ok=True)
    sidecar = root / "T1w.json"
    sidecar.write_text("{}\n")
    rows = ["participant_id\tage\tsex\tdiagnosis"]
    for at, images in enumerate(_images_of_people(cohort, draw), 1):
        label = f"{at:05d}"
        age, diagnosis = draw.uniform(18, 90), draw.choice(cohort.diagnoses)
        rows.append(f"sub-{label}\t{_age(age, cohort)}\t{draw.choice('FM')}\t{diagnosis}")
        folder = f"{root}/sub-{label}"
        os.mkdir(folder)
        if cohort.layout == "runs":
            _write_scans(f"{folder}/anat", f"sub-{label}", images, sidecar)
            continue
        visits = []
        for session in range(1, images + 1):
            name = f"sub-{label}_ses-{session:02d}"
            os.mkdir(f"{folder}/ses-{session:02d}")
            _write_scans(f"{folder}/ses-{session:02d}/anat", name, 1, sidecar)
            if cohort.layout == "dates":
                text = f"filename\tacq_time\nanat/{name}_T1w.nii.gz\t{1900 + session}-03-01T10:00:00\n"
                _write(f"{folder}/ses-{session:02d}/{name}_scans.tsv", text)
            visits.append(f"ses-{session:02d}\t{_age(age + session - 1, cohort)}")
        if cohort.layout == "sessions" and images > 1:
            _write(f"{folder}/sub-{label}_sessions.tsv", "\n".join(["session_id\tage", *visits]) + "\n")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")


def _images_of_people(cohort: Design, draw: random.Random) -> Iterator[int]:
    """The number of images of each person: one, and the others go to people drawn at random."""
    counts = [1] * cohort.participants
    for _ in range(cohort.images - cohort.participants):
        counts[draw.randrange(cohort.participants)] += 1
    yield from counts


def _age(years: float, cohort: Design) -> str:
    text = f"{12 * years:.0f}" if cohort.months else f"{years:.2f}"
    return text.replace(".", ",") if cohort.commas else text


def _write_scans(folder: str, prefix: str, images: int, sidecar: Path) -> None:
    os.mkdir(folder)
    for run in range(1, images + 1):
        name = f"{folder}/{prefix}_run-{run}_T1w" if images > 1 else f"{folder}/{prefix}_T1w"
        _write(f"{name}.nii.gz", "x")  # not a hard link: the manifest refuses one file under two names
        os.link(sidecar, f"{name}.json")


def _write(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes as long as the file itself
        file.write(text)
