"""Phenotype files: which of them give a cohort's fields."""

from __future__ import annotations

from ..errors import InputError, Mistakes
from .bids_tables import Table, read_header, read_phenotype
from .cohorts import Cohort


def find_phenotype(
    cohort: Cohort, found: set[str], several: dict[str, list[str]], notes: list[str], mistakes: Mistakes
) -> list[tuple[Table, dict[str, int]]]:
    """The phenotype files with the position of the column of each field that they give.

    They are those that cohorts.tsv names, and those that alone have a field's column if participants.tsv does not.
    An age in such a file is that of the questionnaire, and is taken only if cohorts.tsv names it.

    Parameters
    ----------
    found : fields that have a column; those of the files are added
    several : gets, by field, the files if more than one has its column
    notes, mistakes : get what a person should know, and what is wrong
    """
    wanted: dict[str, dict[str, str]] = {}
    for field_name, name in cohort.files.items():
        wanted.setdefault(name, {})[field_name] = cohort.columns[field_name]
    names = sorted((cohort.path / "phenotype").glob("*.tsv"))
    headers = {f"phenotype/{path.name}": read_header(path) for path in names}
    unasked = {"age"} - cohort.given
    for field_name in sorted(cohort.columns.keys() - found - cohort.files.keys() - unasked):
        name = cohort.columns[field_name]
        files = [file for file, header in headers.items() if name in header and "participant_id" in header]
        if len(files) == 1:
            wanted.setdefault(files[0], {})[field_name] = name
            notes.append(f"{cohort.name}: {field_name} is the column {name!r} of {files[0]}")
        elif files:
            several[field_name] = files
            if field_name not in cohort.given:
                what = f"{cohort.name}: a column {name!r} stands in {', '.join(files)}; the column"
                notes.append(f"{what} {field_name} of the cohort table can name one, as {files[0]}:{name}")
    tables = []
    for file, columns in sorted(wanted.items()):
        if not (cohort.path / file).is_file():
            what = "there is no such phenotype file"
            fields = ", ".join(sorted(columns))
            fix = f"correct {fields} of {cohort.name} in the cohort table"
            mistakes.add(InputError(cohort.path / file, "", what, fix))
            found.update(columns)
            continue
        table = read_phenotype(
            cohort.path,
            file,
            lambda names, has=columns: has.values(),  # type: ignore[misc]
            mistakes,
        )
        if table is not None:
            positions = {key: table.columns.index(name) for key, name in columns.items() if name in table.columns}
            found.update(positions)
            tables.append((table, positions))
    return tables
