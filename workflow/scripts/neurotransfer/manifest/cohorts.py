"""The table of cohorts: where each lies, what it is for, and what its columns mean.

Goes in: cohorts.tsv, one row per cohort (columns in workflow/schemas/cohorts.schema.yaml).  Comes out: a
`Cohort` per row.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, Mistakes
from ..study.configuration import schema_mistakes
from ..study.documents import read_document
from ..study.targets import TARGETS
from .bids_tables import MISSING, read_tsv
from .image_choice import rule_mistake
from .path_patterns import pattern_mistake

SCHEMA = Path(__file__).resolve().parents[3] / "schemas/cohorts.schema.yaml"
FIELDS = (*TARGETS, "diagnosis")
NO_COLUMN = "-"  # in a field's cell: the cohort has no such column, whatever its tables call their columns
EXTRA_FIELDS = ("height", "weight", "birth_date")  # what a target can be computed from, if cohorts.tsv names it
T1W = ("first",)  # [assumed] of several images of one session, which is taken
# The words of BIDS (participants.tsv: sex, handedness), in lower case; "other" and "ambidextrous" are neither class.
LIMIT = re.compile(r"[<>]\s*[+-]?(?:\d+\.?\d*|\.\d+)")  # of a score, as <0
SEX = {"f": "0", "female": "0", "m": "1", "male": "1", "o": None, "other": None}
HANDEDNESS = {"r": "0", "right": "0", "l": "1", "left": "1", "a": None, "ambidextrous": None}


@dataclass(frozen=True)
class Cohort:
    """One row of the table.

    `columns` names the column of each field (the targets, diagnosis, and height, weight and birth_date if they
    are given), `files` the phenotype file of those that were named with one, and `given` the fields whose column the
    table itself names.  `codes` maps sex, handedness and diagnosis to what each value means (None: missing); a field
    without codes is not in it.  `t1w` is the rule for several images of a session (image_choice.py), `age_unit` is None
    if sidecars decide, and `derivatives` is the pattern of each image's existing outputs (path_patterns.py), or None.
    A field without a column is not in `columns`.  `ages` has the age's column by session, if each session has one.
    `missing` has the words for missing values by field, "" for all fields, and `ignored` the columns that are known to
    hold nothing that is used.
    """

    name: str
    path: Path
    roles: tuple[str, ...]
    pretraining_share: float
    images_per_job: int
    columns: Mapping[str, str]
    given: frozenset[str]
    codes: Mapping[str, Mapping[str, str | None]]
    height_in_m: float
    where: str
    files: Mapping[str, str]
    t1w: tuple[str, ...] = T1W
    age_unit: str | None = None
    derivatives: str | None = None
    ages: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def is_missing(self, name: str, text: str) -> bool:
        """Whether a cell of a field says that its value is missing."""
        return text in MISSING or text in self.missing.get(name, ()) or text in self.missing.get("", ())


def read_cohorts(path: str | Path, tasks: Collection[str], images_per_job: int, mistakes: Mistakes) -> list[Cohort]:
    """Read the table of cohorts, in its order; lines that start with # are left out.

    Parameters
    ----------
    path : cohorts.tsv
    tasks : names of the configuration's tasks, those that are null included
    images_per_job : for cohorts whose row has no number of its own
    mistakes : collects everything that is wrong with a row; such a row gives no cohort

    Raises
    ------
    InputError
        if the table cannot be read at all or has no row
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "there is no such cohort table", "write one, or correct the key 'cohorts'")
    table = read_tsv(path, comments=True)
    if not table.lines:
        raise InputError(path, "", "it has no cohort", "write a row for each cohort")
    schema = read_document(SCHEMA)
    cohorts: dict[str, Cohort] = {}
    for line, cells in table.lines:
        row = {name: cell for name, cell in zip(table.columns, cells, strict=True) if cell not in MISSING}
        where = f"line {line} ({row.get('cohort', '?')})"
        wrong = _check_row(path, where, row, schema, tasks)
        taken = next((name for name in cohorts if name.lower() == row.get("cohort", "").lower()), None)
        if taken:
            wrong.append(InputError(path, where, f"the name is taken by {cohorts[taken].where}", "rename one of them"))
        for error in wrong:
            mistakes.add(error)
        if not wrong:
            cohorts[row["cohort"]] = _cohort(row, where, images_per_job)
    return list(cohorts.values())


def _check_row(
    path: Path, where: str, row: dict[str, str], schema: Mapping[str, Any], tasks: Collection[str]
) -> list[InputError]:
    wrong = []

    def complain(key: str, what: str, fix: str) -> None:
        wrong.append(InputError(path, f"{where}, {key}" if key else where, what, fix))

    for mistake in schema_mistakes({key: _number(key, cell) for key, cell in row.items()}, schema):
        complain(str(mistake.path[0]) if mistake.path else "", mistake.what, mistake.fix)
    if wrong:
        return wrong
    for key, what, fix in (*_role_mistakes(row, tasks), *_cell_mistakes(row)):
        complain(key, what, fix)
    return wrong


def _role_mistakes(row: Mapping[str, str], tasks: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a cohort's roles and its share for pretraining: column, mistake and fix."""
    roles = _roles(row["roles"])
    known = ["pretraining", "holdout", *tasks]
    for role in roles:
        if role not in known:
            near = difflib.get_close_matches(role, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            yield ("roles", f"there is no role or task {role!r}", hint)
    both = "pretraining" in roles and len(roles) > 1
    if both and "pretraining_share" not in row:
        what = "the cohort pretrains and is tested, and no share divides its healthy participants"
        yield ("pretraining_share", what, "write the share that pretrains, such as 0.3")
    if not both and "pretraining_share" in row:
        what = "only a cohort that pretrains and has another role is divided"
        yield ("pretraining_share", what, "leave it empty, or add the other role")


def _cell_mistakes(row: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """What is wrong within a cell of codes, a file, or a rule or pattern for files: column, mistake and fix."""
    for name in ("sex", "handedness"):
        for value, meaning in codes_of(row.get(f"{name}_codes", "")).items():
            if meaning not in ("0", "1", None):
                yield (f"{name}_codes", f"{value} means {meaning!r}", "it must mean 0, 1 or n/a")
    for name in ("sex_codes", "handedness_codes", "diagnosis_codes", *(["age"] if "=" in row.get("age", "") else [])):
        pairs = [pair.partition("=") for pair in row.get(name, "").split(",")]
        values = [value.strip().removeprefix("ses-") for value, _, _ in pairs]
        if twice := next((value for value in values if value and values.count(value) > 1), None):
            yield (name, f"{twice} stands there twice", "keep one of them")
        if name == "age" and not all(value.strip() and column.strip() for value, _, column in pairs):
            yield (name, "a session or its column is missing", "write pairs such as W1=AgeMRI_W1,W2=AgeMRI_W2")
    if problem := _overlap(codes_of(row.get("handedness_codes", ""))):
        yield ("handedness_codes", problem, "write limits that leave each score one meaning, as <0=1,>0=0")
    for name in (*FIELDS, *EXTRA_FIELDS):
        file, _ = _place(row.get(name, ""))
        if file and (PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts):
            what = f"{file!r} leads out of the data set"
            yield (name, what, "name a file in it, such as phenotype/ipaq.tsv:total")
    if "t1w" in row and (problem := rule_mistake(_words(row["t1w"]))):
        yield ("t1w", problem, "write such as first, or: acq-mprage, first")
    if "derivatives" in row and (problem := pattern_mistake(row["derivatives"])):
        yield ("derivatives", problem, "write such as derivatives/fastsurfer/sub-{participant}[_ses-{session}]")


def _overlap(codes: Mapping[str, str | None]) -> str | None:
    """What is wrong with limits of a score that two of them cover with different meanings; None if nothing is."""
    limits = [(value[:1], float(value[1:]), code) for value, code in codes.items() if LIMIT.fullmatch(value)]
    for low, below, code in limits:
        for high, above, other in limits:
            if (low, high) == ("<", ">") and above < below and code != other:
                return f"<{below:g} and >{above:g} both hold for {(below + above) / 2:g}, and mean different things"
    return None


def _cohort(row: Mapping[str, str], where: str, images_per_job: int) -> Cohort:
    roles = _roles(row["roles"])
    share = float(row["pretraining_share"]) if "pretraining_share" in row else float("pretraining" in roles)
    codes = {
        name: codes_of(row[f"{name}_codes"]) for name in ("sex", "handedness", "diagnosis") if row.get(f"{name}_codes")
    }
    given = {name: row[name] for name in (*FIELDS, *EXTRA_FIELDS) if name in row}
    ages = codes_of(given.pop("age")) if "=" in given.get("age", "") else {}
    unused = {name for name, text in given.items() if text == NO_COLUMN} | ({"age"} if ages else set())
    sources = {name: _place(given.get(name, name)) for name in FIELDS if name not in unused}
    sources |= {name: _place(given[name]) for name in EXTRA_FIELDS if name in given.keys() - unused}
    columns = {name: column for name, (_, column) in sources.items()}
    return Cohort(
        name=row["cohort"],
        path=Path(row["path"]),
        roles=roles,
        pretraining_share=share,
        images_per_job=int(row.get("images_per_job", images_per_job)),
        columns=columns,
        given=frozenset(columns.keys() & given.keys()),
        codes={"sex": SEX, "handedness": HANDEDNESS} | codes,
        height_in_m=0.01 if row.get("height_unit") == "cm" else 1.0,
        where=where,
        files={name: file for name, (file, _) in sources.items() if file},
        t1w=_words(row["t1w"]) if "t1w" in row else T1W,
        age_unit=row.get("age_unit"),
        derivatives=row.get("derivatives"),
        ages={session.removeprefix("ses-"): column for session, column in ages.items() if column},
        missing=_missing_words(row.get("missing", "")),
        ignored=frozenset(_words(row["ignored"])) if "ignored" in row else frozenset(),
    )


def _missing_words(text: str) -> dict[str, frozenset[str]]:
    """Words for missing values by field, "" for every field: "NaN, age:999"."""
    found: dict[str, set[str]] = {}
    for word in _words(text) if text else ():
        name, colon, value = word.partition(":")
        known = colon and name.strip() in (*FIELDS, *EXTRA_FIELDS)
        found.setdefault(name.strip() if known else "", set()).add(value.strip() if known else word)
    return {name: frozenset(words) for name, words in found.items()}


def _roles(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_words(text)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _place(text: str) -> tuple[str, str]:
    """The file and the column of a field: "phenotype/ipaq.tsv:total", or a column alone and no file."""
    file, colon, column = text.rpartition(":")
    return (file.strip(), column.strip()) if colon and file.endswith(".tsv") else ("", text)


def codes_of(text: str) -> dict[str, str | None]:
    """What each value means by a cell such as "depr=MDD,control=HC"; None for a missing one, as in "9=n/a"."""
    pairs = (pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    return {value.strip(): None if meaning.strip() in MISSING else meaning.strip() for value, meaning in pairs}


def _number(key: str, cell: str) -> object:
    """The cell as the number it should be, if it is one; if it is not, the schema refuses it."""
    kind = {"pretraining_share": float, "images_per_job": int}.get(key)
    try:
        return kind(cell) if kind else cell
    except ValueError:
        return cell
