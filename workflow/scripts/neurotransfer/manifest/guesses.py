"""What the columns of a data set's tables probably mean, by their names, their values and the sidecar's levels.

Goes in: participants.tsv and participants.json.  Comes out: a cell of cohorts.tsv for each field, with the reason for
the guess.  A guess is for a person to look at; nothing else in the program relies on one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from ..text import counted, without_accents
from .ages import AGES, uncapped, written_years
from .bids_tables import MISSING, Table, read_sidecar
from .decimal_commas import NUMBER, comma_problem
from .vocabulary import is_healthy

# Names of columns, in the order in which they are preferred; the first that a table has is taken.
NAMES = {
    "age": (
        r"age",
        r"age[ _.-]*(?:at)?[ _.-]*(?:mri|scan|visit)?",
        r"age[ _.-]*(?:in)?[ _.-]*(?:years|yrs?|y)",
        r".*\bage\b.*",
        r"(?:lebens)?alter\b.*",
        r"âge\b.*",
        r"edad\b.*",
    ),
    "sex": (r"sex", r"gender", r"geschlecht", r"sexe", r"sexo"),
    "handedness": (r"handedness", r"hand(?:ed)?", r"dominant.?hand", r"edinburgh.*", r"h(?:ä|ae)ndigkeit"),
    "bmi": (r"bmi", r"body.?mass.?index"),
    "height": (r"height(?:.?cm)?",),
    "weight": (r"weight(?:.?kg)?",),
    "fluid_intelligence": (r"fluid.?intelligence", r"raven.*", r"matrix.?reasoning.*"),
    "neuroticism": (r"neuroticism", r"neo.*neuroticism.*"),
    "diagnosis": (
        r"diagnosis",
        r"dx",
        r"diag.*",
        r"group",
        r"gr(?:uppe|oupe|upo)",
        r"participant.?type",
        r"patient.*",
        r"status",
        r"condition",
    ),
}
# Ages of something else than the scan, or of somebody else, in four languages.
OTHER_AGE = re.compile(
    r"onset|first|began|begin|start|death|died|diagnos|illness|father|mother|matern|patern|parent|partner|spouse|"
    r"krank|vater|mutter|elter|\btod|début|apparition|maladie|père|mère|décès|inicio|enferm|padre|madre|muerte",
    re.I,
)
# Words for a missing value; of a diagnosis, "none" may mean that somebody is healthy, which a person must say.
ABSENT = re.compile(r"n\.?a\.?|#?n/a|nan|null|nil|-+|\?+|\.|missing|unknown|not available|unavailable|none", re.I)
CODED_AGES = re.compile(r"-\d+(?:\.0)?|([789])\1{2,}(?:\.0)?")  # numbers that mean missing, if ages cannot be so
UNWRITABLE = re.compile(r"[,=\x00-\x1f\x7f]")  # what no cell of codes can hold
FEMALE = re.compile(r"f|fem|female|w|woman|weiblich|frau|femme|mujer", re.I)
MALE = re.compile(r"m|male|man|männlich|mann|homme|hombre", re.I)
RIGHT = re.compile(r"r|right.*|dextr.*|rechts.*", re.I)
LEFT = re.compile(r"l|left.*|sinistr.*|links.*", re.I)
MONTHS = 1500.0  # ages above, on average, are in days
KINDS = 8  # a diagnosis has no more values than this; a column with more is free text or a number


@dataclass(frozen=True)
class Guess:
    """A field's cells in cohorts.tsv: its column, its codes (or ""), and why."""

    column: str
    codes: str = ""
    why: str = ""
    missing: tuple[str, ...] = ()  # words that probably mean missing
    unit: str = ""  # of an age, if it can't be years


def read_levels(root: Path) -> dict[str, dict[str, str]]:
    """The meaning of each value of each column, as participants.json gives it; empty if it does not."""
    found = {}
    for name, facts in read_sidecar(root / "participants.json").items():
        levels = facts.get("Levels") if isinstance(facts, dict) else None
        if isinstance(levels, dict):
            found[name] = {str(value): str(text) for value, text in levels.items()}
    return found


def guesses_of(participants: Table, levels: Mapping[str, Mapping[str, str]]) -> dict[str, Guess]:
    """What each field's column may be, by field; fields without a likely column are left out.

    Parameters
    ----------
    participants : participants.tsv with all its columns
    levels : from read_levels
    """
    found: dict[str, Guess] = {}
    for field_name, patterns in NAMES.items():
        for pattern in patterns:
            names = [name for name in participants.columns if re.fullmatch(pattern, name, re.I)]
            if field_name == "age":
                names = [name for name in names if not OTHER_AGE.search(name)]
            guess = next((made for name in names if (made := _guess(field_name, name, participants, levels))), None)
            if guess is not None:
                found[field_name] = guess
                break
        # a column of BIDS's own name would be read unasked, and its words refused
        unread = next((name for name in participants.columns if name.lower() == field_name), None)
        if unread and field_name not in found and field_name != "diagnosis":
            words = [cell for cell in dict.fromkeys(participants.column(unread)) if cell not in MISSING]
            if words:
                found[field_name] = Guess("-", why=f"{unread} has {', '.join(words[:5])}, which is no {field_name}")
    if "sex" not in found and (name := _with_words_of_sex(participants)):
        guess = _guess("sex", name, participants, levels)
        found |= {"sex": guess} if guess else {}
    if not {"height", "weight"} <= found.keys() or "bmi" in found:
        found.pop("height", None)
        found.pop("weight", None)
    return found


def _guess(field_name: str, name: str, table: Table, levels: Mapping[str, Mapping[str, str]]) -> Guess | None:
    """The guess that a column holds a field; None if its values speak against it."""
    counts = Counter(cell for cell in table.column(name) if cell not in MISSING)
    meanings = dict(levels.get(name, {}))
    absent = tuple(word for word in counts if word not in meanings and _is_absent(field_name, word))
    for word in absent:
        del counts[word]
    guess = _guess_present(field_name, name, counts, meanings)
    return replace(guess, missing=absent) if guess and absent and guess.column != "-" else guess


def _with_words_of_sex(table: Table) -> str | None:
    """The first column all of whose words are of a sex, whatever it is called; None if there is none with both."""
    for name in table.columns:
        words = {cell.strip() for cell in table.column(name) if cell not in MISSING and not ABSENT.fullmatch(cell)}
        sexes = {"f" if FEMALE.fullmatch(word) else "m" if MALE.fullmatch(word) else "" for word in words}
        if sexes == {"f", "m"}:
            return name
    return None


def _is_absent(field_name: str, word: str) -> bool:
    """Whether a cell probably says that its value is missing."""
    return bool(ABSENT.fullmatch(word) or (field_name == "age" and CODED_AGES.fullmatch(word)))


def _guess_present(field_name: str, name: str, counts: Counter[str], meanings: Mapping[str, str]) -> Guess | None:
    words = list(counts)
    if not words:
        return None
    if field_name in ("sex", "handedness", "diagnosis") and any(map(UNWRITABLE.search, words)):
        word = next(filter(UNWRITABLE.search, words))
        return Guess("-", why=f"{name} has {word!a}, whose comma, = or odd character no code can hold: rename it")
    if field_name == "diagnosis":
        return _guess_diagnosis(name, counts, meanings)
    if field_name in ("sex", "handedness"):
        first, second = (FEMALE, MALE) if field_name == "sex" else (RIGHT, LEFT)
        return _guess_coded(field_name, name, words, meanings, first, second)
    numbers = [word for word in words if NUMBER.fullmatch(word.replace(",", ".", 1))]
    such = f"{counted(len(words), 'value')}, such as {words[0]}"
    problem = comma_problem(words) if any("," in word for word in numbers) else None
    doubt = f"; but {problem}" if problem else ""
    if field_name != "age":
        return Guess(name, why=such + doubt) if len(numbers) == len(words) else None
    unread = [
        word
        for word in words
        if word not in numbers and not written_years(uncapped(word)) and not NUMBER.fullmatch(uncapped(word))
    ]
    if unread:
        return Guess("-", why=f"{name} has {', '.join(unread[:5])}, which is no age")
    years = [float(word.replace(",", ".", 1)) for word in numbers]
    unit = "" if not years or median(years) <= AGES[1] else "months" if median(years) < MONTHS else "days"
    assumed = f"; too large for years, {unit} assumed" if unit else ""
    return Guess(name, why=such + assumed + doubt, unit=unit)


def _guess_coded(
    field_name: str,
    name: str,
    words: Sequence[str],
    meanings: Mapping[str, str],
    first: re.Pattern[str],
    second: re.Pattern[str],
) -> Guess | None:
    """Codes 0 and 1 of a column of words, or of numbers that the sidecar explains; scores are coded by limits."""
    codes, unclear = {}, []
    for word in words:
        text = meanings.get(word, word).strip()
        if first.fullmatch(text):
            codes[word] = "0"
        elif second.fullmatch(text):
            codes[word] = "1"
        else:
            unclear.append(word)
    if codes and len(unclear) < len(words):
        codes |= dict.fromkeys(unclear, "n/a")
        why = f"unclear, taken as missing: {', '.join(unclear[:5])}" if unclear else "by its words"
        return Guess(name, ",".join(f"{word}={code}" for word, code in codes.items()), why)
    if field_name == "handedness" and all(NUMBER.fullmatch(word) for word in words) and len(words) > 3:
        return Guess(name, "<0=1,>0=0,0=n/a", "a score; negative is left-handed in the usual ones")
    example, one = f"{words[0]}=1,{words[-1]}=0", "male" if field_name == "sex" else "left-handed"
    fix = f"write {name} under {field_name}, and codes under {field_name}_codes, as {example} if 1 is {one}"
    return Guess("-", why=f"{name} has {', '.join(words[:5])}, which nothing explains: {fix}")


def _guess_diagnosis(name: str, counts: Counter[str], meanings: Mapping[str, str]) -> Guess | None:
    """Words of a diagnosis, the controls' as HC; None if there are too many of them, or one only."""
    if len({word.casefold() for word in counts}) not in range(2, KINDS + 1):
        return None
    codes: dict[str, str] = {}
    alike: dict[str, str] = {}  # the first spelling of each word
    for word in counts:
        text = meanings.get(word, word).strip()
        if word.casefold() in alike and word not in meanings:
            codes[word] = codes[alike[word.casefold()]]
            continue
        alike[word.casefold()] = word
        short = re.sub(r"[^A-Za-z0-9]+", "_", without_accents(text)).strip("_")[:30] or f"D{len(codes) + 1}"
        while short in codes.values():  # two words are two diagnoses, until a person says that they are one
            short += "_2"
        codes[word] = "HC" if is_healthy(text) else short
    named = ", ".join(f"{word} {number}" for word, number in counts.most_common())
    if several := sorted(set(counts) - set(alike.values())):
        named += f"; capitals make no difference: {', '.join(several)}"
    plain = all(word == code and not NUMBER.fullmatch(word) for word, code in codes.items())
    return Guess(name, "" if plain else ",".join(f"{word}={code}" for word, code in codes.items()), named)
