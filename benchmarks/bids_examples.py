"""Do the public BIDS examples give the T1-weighted images that pybids finds?  docs/bids.md

    git clone https://github.com/bids-standard/bids-examples
    python -m venv pybids && pybids/bin/pip install pybids
    python benchmarks/bids_examples.py bids-examples --python pybids/bin/python

The examples' images are empty files.  Each data set that has a T1-weighted one is copied, with a byte in each image,
and read as a cohort with the rule `all`.  What the two lists do not share is printed with the reason in excluded.tsv.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts")]

from neurotransfer.errors import InputError, Mistakes  # noqa: E402
from neurotransfer.manifest.bids import Exclusion, find_participants  # noqa: E402
from neurotransfer.manifest.cohorts import read_cohorts  # noqa: E402
from neurotransfer.manifest.compile import images_of_cohort  # noqa: E402
from neurotransfer.manifest.image_choice import choose_scans  # noqa: E402

LIST = """
import json, sys, warnings
warnings.simplefilter("ignore")
from bids import BIDSLayout
found = {}
for folder in sys.argv[1:]:
    try:
        layout = BIDSLayout(folder, validate=False, derivatives=False)
        found[folder] = layout.get(suffix="T1w", extension=[".nii", ".nii.gz"], return_type="filename")
    except Exception as error:
        found[folder] = f"{type(error).__name__}: {error}"
json.dump(found, sys.stdout)
"""


def copies(examples: Path, target: Path) -> list[Path]:
    """Copies of the data sets that have a file whose name ends in T1w, with a byte in each image."""
    made = []
    for folder in sorted(path for path in examples.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not any(folder.rglob("sub-*_T1w.nii*")):
            continue
        copy = target / folder.name
        shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("*.ome.tif*", ".git"))
        for path in copy.rglob("*.nii*"):
            if path.is_file() and not path.stat().st_size:
                path.write_bytes(b"x")
        made.append(copy)
    return made


def scans(folder: Path) -> tuple[set[str], dict[str, str]]:
    """The images of a data set by the rule `all`, and the reason of each file that is left out."""
    excluded: list[Exclusion] = []
    taken = []
    for person in find_participants(folder, excluded):
        images, others = choose_scans(person.scans, ("all",))
        excluded += others
        taken += images
    return {image.path for image in taken}, {one.file: one.reason for one in excluded}


def refused(folder: Path, table: Path) -> list[str]:
    """The lines that refuse a data set as a cohort, for its tables or its kind."""
    table.write_text(f"cohort\tpath\troles\tt1w\nX\t{folder}\tholdout\tall\n")
    mistakes = Mistakes()
    [cohort] = read_cohorts(table, [], 64, mistakes)
    images_of_cohort(cohort, table, {"HC"}, mistakes)
    try:
        mistakes.raise_if_any()
    except InputError as error:
        return str(error).splitlines()
    return []


def main() -> None:
    """Compare, and print a line per data set whose lists differ or that is refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=Path, help="a clone of bids-examples")
    parser.add_argument("--python", default=sys.executable, help="a Python that has pybids")
    asked = parser.parse_args()
    agree = explained = without_table = 0
    with tempfile.TemporaryDirectory() as work:
        folders = copies(asked.examples.resolve(), Path(work).resolve())
        line = [asked.python, "-c", LIST, *map(str, folders)]
        theirs = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
        for folder in folders:
            images, reasons = scans(folder)
            found = theirs[str(folder)]
            if isinstance(found, str):
                print(f"{folder.name}: pybids stops ({found[:100]})")
                continue
            missing, more = set(found) - images, images - set(found)
            why = Counter(reasons.get(path, "NOT EXPLAINED") for path in missing)
            agree += not missing and not more
            explained += bool(missing) and not more and "NOT EXPLAINED" not in why
            if missing or more:
                print(f"{folder.name}: {len(found)} by pybids, not here {dict(why)}, only here {len(more)}")
            lines = refused(folder, Path(work, "cohorts.tsv"))
            without_table += any("no participants.tsv" in text for text in lines)
            for text in [text for text in lines if "no participants.tsv" not in text][:3]:
                print(f"{folder.name}: refused: {text.replace(work, '')[:220]}")
    print(f"{len(folders)} data sets with T1-weighted images: {agree} agree, {explained} differ as docs/bids.md says")
    print(f"{without_table} have no participants.tsv, without which a data set cannot be a cohort")


if __name__ == "__main__":
    main()
