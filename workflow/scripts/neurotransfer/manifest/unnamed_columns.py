"""Columns of participants.tsv that nothing names: a diagnosis or a sex may stand in one of them.

Goes in: a cohort's row and its table.  Comes out: sentences for a person, the one that matters most first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .bids import printable
from .bids_tables import MISSING, Table, read_tsv
from .cohorts import Cohort
from .decimal_commas import NUMBER, comma_problem
from .labels import columns_by_field
from .vocabulary import OF_PATIENTS, is_healthy

KEYS = ("participant_id", "session_id", "acq_time")
LISTED = 12  # columns that are listed; tables of biobanks have thousands
WORDS = 6  # different values that are listed of a column
TELLING = re.compile(
    r"gender|sex|geschlecht|age|alter|edad|âge|hand|händ|bmi|weight|height|gewicht|poids|peso|cohort",
    re.I,
)


def notes_on_columns(cohort: Cohort, participants: Table, has_diagnosis: bool) -> list[str]:
    """What a person should know of the columns that neither the cohort table names nor a default finds.

    Parameters
    ----------
    participants : its `header` has all columns of the file
    has_diagnosis : whether any table of the cohort has a column of the diagnosis
    """
    used = {*columns_by_field(cohort, participants.header).values(), *cohort.ages.values(), *cohort.ignored, *KEYS}
    names = [name for name in participants.header if name and name not in used]
    if not names:
        return []
    names.sort(key=lambda name: not (OF_PATIENTS.search(name) or TELLING.search(name)))
    table = read_tsv(participants.path, wanted=lambda _: names[:LISTED])
    shown = [f"{printable(name)} ({described(table.column(name))})" for name in names[:LISTED]]
    more = f", and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    notes = [
        f"{cohort.name}: participants.tsv has columns that nothing names: {', '.join(shown)}{more}. A label among them "
        f"needs its name in the cohort table; the others can be listed there in the column ignored"
    ]
    suspects = [
        text
        for name, text in zip(names, shown, strict=False)
        if OF_PATIENTS.search(name) or any(map(is_healthy, set(table.column(name))))
    ]
    if "pretraining" in cohort.roles and not has_diagnosis and suspects:
        notes.insert(
            0,
            f"ATTENTION: {cohort.name} pretrains, and nobody in it has a diagnosis, so everybody counts as healthy. "
            f"Its participants.tsv has {' and '.join(suspects)}. If this says who is a patient, write the column's "
            "name under diagnosis in the cohort table",
        )
    return notes


def described(cells: Sequence[str]) -> str:
    """The values of a column: words with their numbers, or the range of its numbers.

    Examples
    --------
    >>> described(["depr", "control", "depr", "n/a"]), described([str(at) for at in range(20, 50)])
    ('depr 2, control 1, missing 1', '20 to 49')
    """
    cells = [printable(cell) for cell in cells]
    counts = Counter(cell for cell in cells if cell not in MISSING)
    absent = len(cells) - counts.total()
    commas = any("," in text for text in counts) and comma_problem(counts) is None
    numbers = [text.replace(",", ".") if commas else text for text in counts]
    if len(counts) > WORDS and all(NUMBER.fullmatch(text) for text in numbers):
        values = [float(text) for text in numbers]
        text = f"{min(values):g} to {max(values):g}" + (" (decimal commas)" if commas else "")
    elif len(counts) > WORDS:
        text = f"{len(counts):,} different values, such as {next(iter(counts))}"
    else:
        text = ", ".join(f"{value} {number:,}" for value, number in counts.most_common())
    return ", ".join(part for part in (text, f"missing {absent:,}" if absent else "") if part) or "empty"
