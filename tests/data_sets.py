"""Small BIDS data sets and tables of cohorts in the working directory, for tests of the manifest."""

from pathlib import Path

import pandas as pd
import pytest
from neurotransfer.errors import InputError, Mistakes
from neurotransfer.files import read_table
from neurotransfer.manifest.cohorts import read_cohorts
from neurotransfer.manifest.compile import compile_manifest, images_of_cohort
from neurotransfer.split.pools import check_pools


def people(number, diagnosis="HC", first=1):
    return [
        {"participant_id": f"sub-{at:02d}", "age": 20 + at, "sex": "FM"[at % 2], "diagnosis": diagnosis}
        for at in range(first, first + number)
    ]


def write_cohort(folder, rows, scans=None):
    """A data set: participants.tsv from `rows`, and a scan for each row, or `scans` as paths below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "participants.tsv", rows)
    if scans is None:
        scans = [f"{row['participant_id']}/anat/{row['participant_id']}_T1w.nii.gz" for row in rows]
    for scan in scans:
        add_scan(folder / scan)


def add_scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"scan")


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *[[str(row.get(name, "n/a")) for name in columns] for row in rows]]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def write_cohorts(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *[[str(row.get(name, "")) for name in columns] for row in rows]]
    Path("cohorts.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))


def images():
    return read_table("results/manifest/images.tsv").set_index("image_id")


def lines_of(config):
    with pytest.raises(InputError) as caught:
        compile_manifest(config, check_pools)
    assert not Path("results").exists(), "after a mistake nothing is written"
    return str(caught.value).splitlines()


def excluded():
    """The reason of each file that was left out."""
    table = read_table("results/manifest/excluded.tsv")
    return dict(zip(table["file"], table["reason"], strict=True))


def change(path, old, new):
    path = Path(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def read_one(folder="A", **columns):
    """The images of one cohort by name, the excluded files by name, and the notes; `columns` are of cohorts.tsv.

    Raises InputError like the manifest.
    """
    write_cohorts([{"cohort": "A", "path": folder, "roles": "holdout", **columns}])
    mistakes = Mistakes()
    rows, left_out, notes = [], [], []
    for cohort in read_cohorts("cohorts.tsv", [], 64, mistakes):
        rows, left_out, notes = images_of_cohort(cohort, Path("cohorts.tsv"), {"HC", "AD"}, mistakes)
    mistakes.raise_if_any()
    table = pd.DataFrame(rows).set_index("image_id")
    return table, {Path(file).name: (reason, detail) for file, reason, detail in left_out}, notes


def refused(folder="A", **columns):
    """The lines of the error that refuses a cohort."""
    with pytest.raises(InputError) as caught:
        read_one(folder, **columns)
    return str(caught.value).splitlines()
