"""What a BIDS folder holds, before there is a study: `neurotransfer look FOLDER` and `neurotransfer init FOLDER...`.

Goes in: folders.  Comes out: a description for a person, and a table of cohorts with a configuration that run, with
every guess as a comment.  Nothing is written into a data set.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files import write_text
from ..text import aligned, counted, without_accents
from .bids import Exclusion, Participant, find_participants, key_of, printable
from .bids_tables import MISSING, Table, read_header, read_sidecar, read_tsv
from .cohorts import codes_of
from .guesses import Guess, guesses_of, read_levels
from .image_choice import choose_scans
from .session_labels import folded, near_label
from .unnamed_columns import KEYS, described

COLUMNS = 40  # columns of a table that are described
SHARE = 0.3  # of the healthy people of a cohort that pretrains and is tested
SIZES = (20, 50, 100, 200, 300, 400, 500)
SET_SHARES = (0.2, 0.5)  # of n in validation and in test: the paper's; more if a class is rare
YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # which YAML reads as something else
NAME_OF_IMAGE = "sub-LABEL[_ses-LABEL]..._T1w.nii or .nii.gz (docs/bids.md)"
COHORTS, STUDY = "cohorts.tsv", "my-study.yaml"
EXAMPLE = (  # a task, commented out
    "  # my_task:",
    "  #   title: Patients or controls",
    "  #   positive: [Patient]      # words of the column, or what its codes mean",
    "  #   negative: [HC]",
    "  #   seed: 0",
)
# The sizes n whose resamples can be drawn of a number of positive and of negative people, with a share of n in
# validation and in test: split.pools.feasible_sizes.
FeasibleSizes = Callable[[int, int, Sequence[int], float], list[int]]


@dataclass(frozen=True)
class Look:
    """A data set: its people, what is left out, participants.tsv (None if there is none), and the guesses.

    `problem` says why participants.json was not read, if it is there and cannot be; `is_derivative` that the data set's
    description calls it a derivative.
    """

    folder: Path
    people: Sequence[Participant]
    excluded: Sequence[Exclusion]
    participants: Table | None
    guesses: Mapping[str, Guess]
    problem: str = ""
    is_derivative: bool = False

    @property
    def name(self) -> str:
        """A cohort's name: letters and digits of the folder's."""
        return re.sub(r"[^A-Za-z0-9]", "", without_accents(self.folder.resolve().name)) or "cohort"

    def fetching(self) -> str:
        """The command that fetches every image whose content is elsewhere; "" if there is none."""
        elsewhere = next((one for one in self.excluded if one.reason == "not_fetched"), None)
        if elsewhere is None:
            return ""
        command = "datalad get sub-*/ses-*/anat" if "/ses-" in elsewhere.file else "datalad get sub-*/anat"
        if "git lfs" in elsewhere.detail:
            command = "git lfs pull --include '*_T1w*'"
        return f"cd {shlex.quote(str(self.folder))} && {command}"

    def _on_rows(self) -> list[str]:
        """What is amiss with the rows of participants.tsv."""
        assert self.participants is not None
        if "participant_id" not in self.participants.columns:
            first = printable(self.participants.columns[0])
            return [f"participants.tsv has no column participant_id; if {first} has the labels, rename it"]
        counts, lines = _rows_of(self.participants), []
        others = {folded(key): key for key in counts}
        if rowless := [key for person in self.people if (key := key_of(person.label, "sub-")) not in counts]:
            first = f"sub-{rowless[0]}{near_label(rowless[0], others)}"
            lines.append(f"people without a row in participants.tsv: {len(rowless):,} (first: {first})")
        if several := [key for key, count in counts.items() if count > 1]:
            fix = "give each one row, and what differs between sessions a sessions.tsv"
            lines.append(
                f"people with several rows in participants.tsv: {len(several):,} (first: sub-{several[0]}): {fix}"
            )
        return lines

    def text(self) -> str:
        """For a terminal."""
        scans = sum(len(person.scans) for person in self.people)
        sessions = Counter(scan.session or "(none)" for person in self.people for scan in person.scans)
        lines = [
            f"{self.folder}: {counted(scans, 'T1-weighted image')} of "
            f"{counted(sum(bool(person.scans) for person in self.people), 'person', 'people')}",
            f"sessions: {', '.join(f'{name} {count:,}' for name, count in sessions.most_common(10)) or 'none'}",
        ]
        kinds = Counter(
            re.sub(r"-\d+", "-*", scan.entities) or "(plain)" for person in self.people for scan in person.scans
        )
        lines.append(f"names: {', '.join(f'{kind} {count:,}' for kind, count in kinds.most_common(8)) or 'none'}")
        if not scans:
            lines.append(f"no image was found: a folder sub-LABEL/anat or sub-LABEL/ses-LABEL/anat has {NAME_OF_IMAGE}")
        if self.is_derivative:
            lines.append("DatasetType: derivative: a program has made these images, and they are no raw scans")
        for reason, count in Counter(one.reason for one in self.excluded).most_common():
            first = next(one for one in self.excluded if one.reason == reason)
            lines.append(f"left out, {reason}: {count:,} (first: {first.file}: {first.detail})")
        if command := self.fetching():
            lines.append(f"to fetch them all: {command}")
        if self.participants is None:
            return "\n".join([*lines, "there is no participants.tsv that can be read"])
        lines += self._on_rows()
        names = [name for name in self.participants.columns if name not in KEYS]
        cells = [["column", "missing", "values", "may be"]]
        meant = {guess.column: field for field, guess in self.guesses.items()}
        for name in names[:COLUMNS]:
            column = self.participants.column(name)
            absent = sum(cell in MISSING for cell in column) / max(len(column), 1)
            cells.append(
                [
                    printable(name),
                    f"{100 * absent:.0f} %",
                    described([c for c in column if c not in MISSING]),
                    meant.get(name, ""),
                ]
            )
        lines += ["", f"participants.tsv, {counted(len(self.participants.lines), 'row')}:", aligned(cells, "lrll")]
        if len(names) > COLUMNS:
            lines.append(f"and {counted(len(names) - COLUMNS, 'column')} more")
        others = sorted(path for path in (self.folder / "phenotype").glob("*.tsv"))
        tables = next((person.sessions_table for person in self.people if person.sessions_table), None)
        for path in [*([tables] if tables else []), *others]:
            lines.append(f"{path.relative_to(self.folder)}: {', '.join(read_header(path)[:COLUMNS])}")
        lines += ["", *([self.problem] if self.problem else []), "guesses for cohorts.tsv:"]
        lines += [f"  {_said(field, guess)}" for field, guess in self.guesses.items()] or ["  none"]
        return "\n".join(printable(part) for line in lines for part in line.split("\n"))


def _rows_of(table: Table) -> Counter[str]:
    """The number of a person's rows by label; a table with sessions has a row for each."""
    labels = [key_of(key, "sub-") for key in table.column("participant_id")]
    return Counter(set(labels) if "session_id" in table.columns else labels)


def look(folder: Path) -> Look:
    """Look into a data set.

    Raises
    ------
    InputError
        if there is no such folder, or its participants.tsv is no table
    """
    if not folder.is_dir():
        what = "it is a file" if folder.is_file() else "there is no such folder"
        raise InputError(folder, "", what, "give the folder of a BIDS data set")
    excluded: list[Exclusion] = []
    people = list(find_participants(folder, excluded))
    path = folder / "participants.tsv"
    participants, guesses, problem = None, {}, ""
    if path.is_file():
        participants = read_tsv(path)
        if "participant_id" in participants.columns:
            keys = participants.column("participant_id")
            participants.rows.update({(key_of(key, "sub-"), ""): (0, []) for key in keys})
            levels = {}
            try:
                levels = read_levels(folder)
            except InputError as error:
                problem = str(error)
            guesses = guesses_of(participants, levels)
    try:
        kind = read_sidecar(folder / "dataset_description.json").get("DatasetType")
    except InputError:
        kind = None  # BIDS wants this file; nothing here needs it
    is_derivative = isinstance(kind, str) and kind.lower() == "derivative"
    return Look(folder, people, excluded, participants, guesses, problem, is_derivative)


@dataclass(frozen=True)
class Started:
    """The files of a study that has been begun, the names of its tasks, and sentences on what needs a person."""

    paths: Sequence[Path]
    tasks: Sequence[str]
    notes: Sequence[str]


def _said(field: str, guess: Guess) -> str:
    codes = f", codes {guess.codes}" if guess.codes else ""
    codes += f", missing {', '.join(guess.missing)}" if guess.missing else ""
    column = "no column" if guess.column == "-" else guess.column
    return f"{field}: {column}{codes}{f' ({guess.why})' if guess.why else ''}"


def start_study(folders: Sequence[Path], target: Path, feasible: FeasibleSizes) -> Started:
    """Write cohorts.tsv and my-study.yaml for data sets; both have what was guessed as comments.

    Parameters
    ----------
    target : the study's folder
    feasible : split.pools.feasible_sizes with the configuration's resampling

    Raises
    ------
    InputError
        if one of the files is there already, or a folder is no data set with images
    """
    paths = [target / COHORTS, target / STUDY]
    for path in paths:
        if path.exists():
            raise InputError(path, "", "it is there already", "remove it, or choose another folder with --directory")
    for at, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:at]]:
            raise InputError(folder, "", "it is given twice", "give each data set once")
    found = [look(folder) for folder in folders]
    for one in found:
        if not any(person.scans for person in one.people):
            command = one.fetching()
            what = "its T1-weighted images are not here" if command else "it holds no T1-weighted image"
            fix = f"fetch them: {command}" if command else f"see: neurotransfer look {one.folder}"
            raise InputError(one.folder, "", what, fix)
        if one.participants is None:
            fix = "write one (BIDS): participant_id, age, sex, ..., separated by tabs"
            raise InputError(one.folder / "participants.tsv", "", "a cohort needs it, and it is not there", fix)
        if one.is_derivative:
            what = "its DatasetType is derivative, and its images are no raw scans"
            raise InputError(one.folder, "dataset_description.json", what, "give the raw data set")
    names = _unique([one.name for one in found])
    guessed = {name: task for name, one in zip(names, found, strict=True) if (task := _task_of(name, one))}
    pretrain = SHARE if len(guessed) == len(names) else 0.0  # of the controls, if nobody else can
    tasks, sizes, share = _drawable(guessed, pretrain, feasible)
    target.mkdir(parents=True, exist_ok=True)
    write_text(paths[0], _cohorts_text(names, found, tasks))
    write_text(paths[1], _study_text(tasks, sizes, share, set(names) == tasks.keys()))
    return Started(paths, list(tasks), _notes(dict(zip(names, found, strict=True)), guessed, tasks))


def _notes(found: Mapping[str, Look], guessed: Mapping[str, _Task], tasks: Mapping[str, _Task]) -> list[str]:
    """What a person should know of the guesses: diagnoses that are not read, and tasks that cannot be drawn."""
    notes = [
        f"{name}: its diagnosis is not read ({one.guesses['diagnosis'].why}). Its role is holdout, because its "
        "patients would pretrain as healthy people"
        for name, one in found.items()
        if _has_unread_diagnosis(one)
    ]
    for name, task in guessed.items():
        if name not in tasks:
            counts = f"{task.people[0]} people with {task.positive} and {task.people[1]} with {task.negative}"
            notes.append(
                f"{name}: its {counts} are too few for {SIZES[0]} training images and their test sets: no task"
            )
    if not guessed:
        notes.append(
            "no task was found: say in cohorts.tsv which column has the diagnosis (neurotransfer look FOLDER lists "
            "them), and write a task into my-study.yaml, as its comment shows (docs/bids.md)"
        )
    return notes


def _has_unread_diagnosis(one: Look) -> bool:
    """Whether a column seems to say who is a patient, and cannot be read as it is."""
    return "diagnosis" in one.guesses and one.guesses["diagnosis"].column == "-"


@dataclass(frozen=True)
class _Task:
    """A comparison that a cohort allows: patients of one word against controls, or against another word."""

    name: str
    positive: str
    negative: str
    people: tuple[int, int]  # with either

    def left(self, pretrain: float) -> tuple[int, int]:
        """The people of the task if a share of its controls pretrains."""
        positive, negative = self.people
        return positive, int(negative * (1 - pretrain if self.negative == "HC" else 1))


def _drawable(
    tasks: Mapping[str, _Task], pretrain: float, feasible: FeasibleSizes
) -> tuple[dict[str, _Task], list[int], float]:
    """The tasks whose resamples can be drawn, the sizes n that all of them allow, and the sets' share of n."""
    allowed: dict[str, set[int]] = {}
    for share in SET_SHARES:
        allowed = {name: set(feasible(*task.left(pretrain), SIZES, share)) for name, task in tasks.items()}
        if allowed and (common := set.intersection(*allowed.values())):
            return dict(tasks), sorted(common), share
    kept = {name: task for name, task in tasks.items() if allowed[name]}
    return kept, sorted(set.intersection(*(allowed[name] for name in kept))) if kept else [], share


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        again = sum(other.lower() == name.lower() for other in found)
        found.append(f"{name}{again + 1}" if again else name)
    return found


def _task_of(name: str, one: Look) -> _Task | None:
    """The comparison of a cohort's two most frequent diagnoses, the controls as negative; None if it is too small."""
    guess = one.guesses.get("diagnosis")
    if guess is None or guess.column == "-" or one.participants is None:
        return None
    codes = codes_of(guess.codes)
    imaged = {key_of(person.label, "sub-") for person in one.people if any(choose_scans(person.scans, ("first",))[0])}
    keys, words = one.participants.column("participant_id"), one.participants.column(guess.column)
    counts = Counter(
        meaning
        for key, word in zip(keys, words, strict=True)
        if word not in MISSING
        and word not in guess.missing
        and key_of(key, "sub-") in imaged
        and (meaning := codes.get(word, word))
    )
    if len(counts) < 2:
        return None
    first, second = [word for word, _ in counts.most_common(2)]
    if "HC" in counts:
        first, second = next(word for word, _ in counts.most_common() if word != "HC"), "HC"
    title = re.sub(r"[^a-z0-9]+", "_", first.lower()).strip("_")
    return _Task(f"{name.lower()}_{title}", first, second, (counts[first], counts[second]))


def _cohorts_text(names: Sequence[str], found: Sequence[Look], tasks: Mapping[str, _Task]) -> str:
    """cohorts.tsv: comments, a header, and a row per data set."""
    fields = list(dict.fromkeys(field for one in found for field in one.guesses))
    coded = [field for field in ("sex", "handedness", "diagnosis") if any(_codes(one, field) for one in found)]
    header = ["cohort", "path", "roles", "pretraining_share"]
    for field in fields:
        header += [
            field,
            *(["age_unit"] if field == "age" and any(_unit(one) for one in found) else []),
            *([f"{field}_codes"] if field in coded else []),
            *(["height_unit"] if field == "height" else []),
        ]
    absent = any(guess.missing for one in found for guess in one.guesses.values())
    header += ["missing"] if absent else []
    lines = ["# Made by `neurotransfer init`; each line that begins with # is a guess to be checked, or a hint."]
    lines.append("# Columns: workflow/schemas/cohorts.schema.yaml; what a data set holds: neurotransfer look FOLDER")
    rows = []
    alone = not any(name not in tasks for name in names)  # nobody else pretrains
    healthy = {name for name, task in tasks.items() if task.negative == "HC"}
    for name, one in zip(names, found, strict=True):
        row = {"cohort": name, "path": str(one.folder.resolve()), "roles": "pretraining"}
        if _has_unread_diagnosis(one):
            row["roles"] = "holdout"
        if name in tasks:
            row["roles"] = f"pretraining,{tasks[name].name}" if alone and name in healthy else tasks[name].name
            row["pretraining_share"] = f"{SHARE:g}" if alone and name in healthy else ""
        lines += [f"# {name}: {_said(field, guess)}" for field, guess in one.guesses.items()]
        for field, guess in one.guesses.items():
            row[field] = guess.column
            row[f"{field}_codes"] = guess.codes
        row["age_unit"] = _unit(one)
        row["missing"] = ", ".join(f"{field}:{word}" for field, guess in one.guesses.items() for word in guess.missing)
        if "height" in one.guesses:
            row["height_unit"] = _height_unit(one)
        rows.append("\t".join(row.get(column, "") for column in header))
    return "\n".join([*lines, "\t".join(header), *rows]) + "\n"


def _unit(one: Look) -> str:
    return one.guesses["age"].unit if "age" in one.guesses else ""


def _codes(one: Look, field: str) -> str:
    return one.guesses[field].codes if field in one.guesses else ""


def _height_unit(one: Look) -> str:
    """Metres if no value is above 3."""
    assert one.participants is not None  # a guess was made from it
    cells = one.participants.column(one.guesses["height"].column)
    values = [float(cell.replace(",", ".")) for cell in cells if re.fullmatch(r"\d+(?:[.,]\d+)?", cell)]
    return "m" if values and max(values) < 3 else "cm"


def _quoted(text: str) -> str:
    """A text as YAML reads it as text: in quotes unless it is a plain word."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9 ]*", text) and text.lower() not in YAML_WORDS else json.dumps(text)


def _study_text(tasks: Mapping[str, _Task], sizes: Sequence[int], share: float, alone: bool) -> str:
    """my-study.yaml: what differs from config.yaml; `alone` if only the tasks' cohorts could pretrain."""
    lines = [
        "# Made by `neurotransfer init`: what differs from config/config.yaml, where every key is explained.",
        "# Next: neurotransfer manifest --configfile my-study.yaml, then rehearse, plan, snakemake (docs/README.md).",
        "study: mine",
        f"cohorts: {COHORTS}",
        "# preprocessing: {engine: builtin}   # without FastSurfer: less exact, no container needed",
        "# Without a GPU, to see every step first: --configfile my-study.yaml config/laptop.yaml (docs/tutorial.md)",
        "tasks:",
        "  ad_hc: null                # the paper's two tasks are off",
        "  scz_bd: null",
    ]
    for task in tasks.values():
        first, second = task.people
        lines += [
            f"  {task.name}:  # guessed from the two most frequent diagnoses, {first} and {second} people",
            f"    title: {_quoted(f'{task.positive} or {task.negative}'.replace('_', ' '))}",
            f"    positive: [{_quoted(task.positive)}]",
            f"    negative: [{_quoted(task.negative)}]",
            "    seed: 0",
        ]
    if tasks and not any(task.negative == "HC" for task in tasks.values()) and alone:
        lines += [
            "# Nobody is left who is healthy and could pretrain: add a cohort, or give existing weights,",
            "# pretrain: {weights: FILE}",
        ]
    if tasks:
        lines += ["resampling:", f"  n: {list(sizes)}              # training images"]
        why = "as in the paper" if share == SET_SHARES[0] else "more than in the paper, because a class is rare"
        lines += [f"  {name}: {share:g}    # of n, {why}" for name in ("validation_share", "test_share")]
    else:
        what = f"no cohort has two diagnoses that {SIZES[0]} training images can be drawn of"
        lines += [f"  # {what}: name the column in {COHORTS}, and write a task such as", *EXAMPLE]
    return "\n".join(lines) + "\n"
