"""The proof that no participant is in two sets: made once for all cohorts, checked again by every job that uses it.

Goes in: every cohort's index and split, and the pairs of images that look like one scan.  Comes out: the
certificate, JSON without names of participants or images; or one line per leak.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cache.provenance import made_by, named_engines
from ..errors import InputError, Mistakes, raise_all
from ..files import digest_of_file, read_json
from ..study import layout
from ..study.same_people import NOBODY, People
from ..text import counted
from .duplicates import COLUMNS as PAIR
from .duplicates import HEAD, SCAN
from .resampling import read_resample
from .roles import ROLES, SETS, join_splits, split_cohort

AGAIN = "delete it, then run the same command again"


def certify(
    splits: Sequence[pd.DataFrame],
    indices: Sequence[pd.DataFrame],
    roles: Mapping[str, Collection[str]],
    pairs: pd.DataFrame,
    *,
    waived: Sequence[Sequence[str]] = (),
    one_engine: bool = True,
    key: bytes | None = None,
    people: People = NOBODY,
) -> dict[str, Any]:
    """Prove that no participant, and no scan under two names, is in two of training, validation and test.

    The resamples of a task divide its pool, so one scan under two names in one pool is a leak, too.  Pairs that look
    like one head in two scans are no proof: they are counted and cause no error.

    Parameters
    ----------
    splits, indices : of all cohorts, in the same order; an index has `checksum`, of the cached image's bytes
    roles : the roles of each cohort
    pairs : from duplicates.find_pairs, images of two participants that look like one scan or one head
    waived : pairs of participants or of images that the user has examined and accepts
    one_engine : if true, refuse images of engines, or versions of engines, that made no training image
    key : the study key, for the digests of participants; None: no digests
    people : who has several names; a person counts once, and must not cross under any of them

    Returns
    -------
    JSON values: `counts` per set and per cohort and set (participants, images, age in years, share of females),
    `overlaps` of every pair of sets (participants; pairs that look like one scan, waived ones, pairs that look like
    one head), the same pairs `within` each set and in the tasks' `pools`, `keyed_digests` (of each set's participants,
    see `digest_of_participants`), `shared_cohorts` (both in training and in test), `engines` per set, `statement`, and
    of people with several names, if there are any, `same_people`: how many they are, their names, and the pairs that
    join two of them

    Raises
    ------
    InputError
        one line for each participant or scan in two sets, each participant that validates with several images, each
        cohort that pretrains without that role and each set with images of an engine that made no training image
    """
    images = people.named(join_splits(splits, indices))
    listed = people.named(pairs, "participant_1", "participant_2")
    same = listed["participant_1"] == listed["participant_2"]
    waived = [[people.first(name) for name in pair] for pair in waived]
    about = pd.concat(indices, ignore_index=True)
    names = ["checksum", "engine", "engine_version"]
    images[names] = about[names]
    used = images[images["role"].isin(SETS)]
    alike = _with_sets(pd.concat([_identical(used), listed.loc[~same, PAIR]]), used, roles, waived)
    engines = {role: made_by(images[images["role"] == role]) for role in SETS}
    mistakes = Mistakes()
    for error in _crossings(used):
        mistakes.add(error, layout.COHORT_SPLITS, "participant_id")
    for error in _leaking_scans(alike):
        mistakes.add(error, layout.PAIRS, "image_2")
    for error in _wrong_roles(images, roles):
        mistakes.add(error, layout.COHORT_SPLITS)
    for error in _other_engines(engines) if one_engine else ():
        mistakes.add(error, layout.INDEX)
    mistakes.raise_if_any()
    persons = {role: set(used.loc[used["role"] == role, "participant_id"]) for role in SETS}
    counts = {role: _counts(images[images["role"] == role]) for role in ROLES}
    by_cohort = {
        cohort: {role: _counts(images[(images["cohort"] == cohort) & (images["role"] == role)]) for role in ROLES}
        for cohort in roles
    }
    overlaps = [
        {"sets": [one, other], "participants": len(persons[one] & persons[other])}
        | _alike_counts(alike, [has == (one, other) for has in alike["sets"]])
        for one, other in combinations(SETS, 2)
    ]
    within = {role: _alike_counts(alike, [has == (role,) for has in alike["sets"]]) for role in SETS}
    tasks = sorted({task for has in roles.values() for task in has} - {"pretraining", "holdout"})
    pools = {task: _alike_counts(alike, [task in has for has in alike["tasks"]]) for task in tasks}
    waivers = int((alike["waived"] & (alike["kind"] == SCAN)).sum())
    several = {"people": len(people), "names": sum(map(len, people.groups)), "pairs": int(same.sum())}
    return {
        "counts": counts,
        "cohorts": by_cohort,
        "overlaps": overlaps,
        "within": within,
        "pools": pools,
        "shared_cohorts": [c for c, has in by_cohort.items() if has["test"]["images"] and has["train"]["images"]],
        "keyed_digests": {role: digest_of_participants(persons[role], key) for role in SETS} if key else {},
        "engines": engines,
        "waived_scans": waivers,
        "statement": statement(counts, waivers, several_names=len(people)),
        **({"same_people": several} if people else {}),
    }


def statement(
    counts: Mapping[str, Mapping[str, Any]],
    waivers: int,
    smallest: int = 1,
    several_names: int = 0,
    hidden: Collection[str] = (),
) -> str:
    """What the certificate proves, in a sentence.

    Parameters
    ----------
    counts : `participants` of each set
    waivers : pairs of scans that were waived
    smallest : number of people; a smaller set is "fewer than 5"
    several_names : people with several participant ids
    hidden : sets whose number is not said, because one of few people would follow from it
    """

    def said(count: int) -> str:
        return f"fewer than {smallest}" if 0 < count < smallest else str(count)

    numbers = {role: said(counts[role]["participants"]) for role in SETS}
    sizes = ", ".join(
        f"{'a hidden number' if role in hidden and count.isdigit() else count} in {role}"
        for role, count in numbers.items()
    )
    waived = f"; {waivers} pairs of scans that look identical were waived by name" if waivers else ""
    known = ""
    if several_names:
        known = f"; people listed with several participant ids, who count once: {said(several_names)}"
    return f"No participant and no scan is in two of training, validation and test ({sizes}){waived}{known}."


def digest_of_participants(people: Collection[str], key: bytes) -> str:
    """HMAC-SHA256 under the study key of the sorted participants, one per line; their order does not matter.

    A plain digest of a short list of short names would be guessed.
    """
    return hmac.new(key, "\n".join(["participants of a set", *sorted(people)]).encode(), hashlib.sha256).hexdigest()


def check_sources(
    splits: Sequence[pd.DataFrame],
    indices: Sequence[pd.DataFrame],
    manifest: pd.DataFrame,
    roles: Mapping[str, Collection[str]],
    pretraining_shares: Mapping[str, float],
    settings: Mapping[str, Any],
    seed: int,
    people: People = NOBODY,
) -> None:
    """Refuse an index whose people differ from the manifest's, and a split that differs from the one its index gives.

    Parameters
    ----------
    splits, indices : by cohort, in the order of `roles`
    manifest : `image_id`, `participant_id` and `cohort` of every image
    pretraining_shares, settings, seed, people : arguments of `split_cohort`

    Raises
    ------
    InputError
        a line for each file that differs
    """
    wrong = []
    names = ["participant_id", "cohort"]
    known = manifest.set_index("image_id")[names]
    for (cohort, has), split, index in zip(roles.items(), splits, indices, strict=True):
        expected = known.reindex(index["image_id"]).reset_index(drop=True)  # missing for unknown images: equals nothing
        gone = int(expected["participant_id"].isna().sum())
        other = int((expected != index[names].reset_index(drop=True)).any(axis=1).sum()) - gone
        if gone:
            what = (
                f"{gone} of its images are not in {layout.IMAGES} any more: they were withdrawn, or left out, while a "
                "job ran that had read the manifest before"
            )
            fix = "run snakemake again, which makes this file again without them"
            wrong.append(InputError(layout.index(cohort), "image_id", what, fix))
        if other:
            what = f"{other} of its images have another participant than in {layout.IMAGES}"
            wrong.append(InputError(layout.index(cohort), "participant_id", what, AGAIN))
        drawn = split_cohort(index, has, pretraining_shares[cohort], settings, seed, people)
        columns = ["image_id", "participant_id", "role"]
        if not split[columns].reset_index(drop=True).equals(drawn[columns].reset_index(drop=True)):
            what = "its roles are not those that the configuration draws from the cohort's index"
            wrong.append(InputError(layout.cohort_split(cohort), "role", what, AGAIN))
    raise_all(wrong)


def check_waivers(waived: Sequence[Sequence[str]], manifest: pd.DataFrame) -> None:
    """Refuse waivers with names that are not in the manifest, or with a participant and an image.

    Raises
    ------
    InputError
        a line for each invalid waiver
    """
    known = [set(manifest[column]) for column in ("participant_id", "image_id")]
    wrong = []
    for number, pair in enumerate(waived):
        if any(set(pair) <= names for names in known):
            continue
        unknown = [name for name in pair if not any(name in names for names in known)]
        what = f"there is no participant or image {unknown[0]!r}" if unknown else "it names a participant and an image"
        fix = "name two participants, or two images, of the manifest"
        wrong.append(InputError("configuration", f"split.waived_duplicates[{number}]", what, fix))
    raise_all(wrong)


def check_certified(certificate: str | Path, files: Iterable[str | Path]) -> dict[str, Any]:
    """Refuse files that differ from the certified ones in any byte; return the certificate.

    Raises
    ------
    InputError
        a line for each file that has changed or was never certified
    """
    proof = read_json(certificate)
    wrong = []
    for file in map(str, files):
        if file not in proof["files"]:
            wrong.append(InputError(file, "", f"{certificate} does not cover this file", f"delete {certificate}"))
        elif digest_of_file(file) != proof["files"][file]:
            what = f"it differs from the file that was certified in {certificate}"
            wrong.append(InputError(file, "", what, AGAIN))
    raise_all(wrong)
    return proof


def check_resamples_certified(
    paths: Iterable[str | Path],
    indices: Sequence[pd.DataFrame],
    splits: Sequence[pd.DataFrame],
    people: People = NOBODY,
) -> None:
    """Refuse resamples whose rows have changed, or that contain an image which the certificate excludes from tasks.

    Parameters
    ----------
    indices, splits : of the tasks' cohorts, certified
    people : who has several names; a resample names a person by one of them

    Raises
    ------
    InputError, InputErrors
        naming every refused file
    """
    about = ["participant_id", "shard", "row", "checksum"]
    images = pd.concat(indices, ignore_index=True).set_index("image_id")
    role = pd.concat(splits, ignore_index=True).set_index("image_id")["role"]
    images = people.named(images.loc[role.reindex(images.index) == "test", about])
    wrong: list[InputError] = []
    for path in paths:
        try:
            resample = people.named(read_resample(path)[0].set_index("image_id")[about])
        except InputError as error:
            wrong.append(error)
            continue
        except (ValueError, KeyError) as error:
            wrong.append(InputError(path, "", f"it can't be read as a resample ({error})", AGAIN))
            continue
        certified = images.reindex(resample.index)
        other = int((certified != resample).any(axis=1).sum())  # an uncertified image is missing, which equals nothing
        if other:
            what = f"{other} of its rows are not certified images of test participants"
            wrong.append(InputError(path, "", what, AGAIN))
    raise_all(wrong)


def check_behind_weights(participants: pd.DataFrame, splits: Sequence[pd.DataFrame], path: str | Path) -> int:
    """Refuse weights that were trained on other participants than the certified ones.

    Participants who are in no split any more, for example after a withdrawal, are accepted: they cause no leak.

    Parameters
    ----------
    participants : `participant_id` and `role` during pretraining
    splits : of the pretraining cohorts, certified
    path : the table of participants, for the message

    Returns
    -------
    the number of participants behind the weights who are in no split any more

    Raises
    ------
    InputError
        with the number of participants concerned
    """
    table = pd.concat(splits, ignore_index=True)
    table = table[table["role"].isin(SETS)].drop_duplicates("participant_id").set_index("participant_id")["role"]
    behind = participants.set_index("participant_id")["role"]
    today = table.reindex(behind.index)
    moved = int((today.notna() & (today != behind)).sum())
    new = int((table.isin(["train", "validation"]) & ~table.index.isin(behind.index)).sum())
    if moved or new:
        others = counted(moved, "participant behind the weights has", "participants behind the weights have")
        more = counted(new, "participant who now pretrains is", "participants who now pretrain are")
        what = f"{others} another role in the certified split, and {more} not behind them"
        fix = f"delete {layout.PRETRAIN} and run again, or set pretrain.weights to these weights"
        raise InputError(path, "role", what, fix)
    return int(today.isna().sum())


def duplicates_in_words(
    summary: Mapping[str, Any], same: int = 0, smallest: int = 1, *, is_hidden: bool = False
) -> str:
    """The result of the comparison of all heads, in one or two sentences without names.

    Parameters
    ----------
    summary : from duplicates.find_pairs
    same : how many of the pairs join two names of one person
    smallest : number of images; fewer that could not be compared are "fewer than 5"
    is_hidden : whether the number of images is not shown; it would follow from the number of pairs, which is then not
        said, and be confined by a rounded one
    """
    if summary["least_similarity"] is None:
        return "Too few images to look for one person under two names."
    left = summary["images"] - summary["images_compared"]
    count = "all" if is_hidden or 0 < left < smallest else f"{summary['pairs_compared']:,}"
    text = (
        f"Among {count} pairs of images, {summary['scans']:,} of two participants look like the "
        f"same scan and {summary['heads']:,} like one head in two scans; pairs of the second kind cause no error."
    )
    if same:
        text += f" Of these pairs, {same:,} are of people listed with both names."
    if summary["pairs_found"] > summary["pairs_listed"]:
        text += f" {summary['pairs_found'] - summary['pairs_listed']:,} more pairs are as similar and are not listed."
    if left:
        text += f" {f'Fewer than {smallest}' if left < smallest else format(left, ',')} images could not be compared."
    return text


def _identical(used: pd.DataFrame) -> pd.DataFrame:
    """Pairs of images of two participants whose cached bytes are equal, with the columns of duplicates.find_pairs."""
    known = used[used["checksum"].notna()]
    doubled = known[known.duplicated("checksum", keep=False)]
    rows = []
    for _, group in doubled.groupby("checksum", sort=True):
        for one, other in combinations(group.itertuples(index=False), 2):
            if one.participant_id != other.participant_id:
                first = {"image_1": one.image_id, "participant_1": one.participant_id, "cohort_1": one.cohort}
                second = {"image_2": other.image_id, "participant_2": other.participant_id, "cohort_2": other.cohort}
                rows.append({**first, **second, "correlation": 1.0, "rotation": 0.0, "kind": SCAN})
    return pd.DataFrame(rows, columns=PAIR)


def _with_sets(
    pairs: pd.DataFrame, used: pd.DataFrame, roles: Mapping[str, Collection[str]], waived: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Pairs of used images, each once, with their `sets`, the `tasks` whose pools contain both, and `waived`."""
    role = used.set_index("image_id")["role"]
    pairs = pairs[pairs["image_1"].isin(role.index) & pairs["image_2"].isin(role.index)]
    pairs = pairs.drop_duplicates(["image_1", "image_2"]).reset_index(drop=True)
    accepted = {frozenset(pair) for pair in waived}
    sets, tasks, waivers = [], [], []
    for pair in pairs.itertuples():
        one, other = (role[image] for image in (pair.image_1, pair.image_2))
        sets.append(tuple(name for name in SETS if name in (one, other)))
        both = set(roles[pair.cohort_1]) & set(roles[pair.cohort_2]) - {"pretraining", "holdout"}
        tasks.append(sorted(both) if one == other == "test" else [])
        names = [frozenset((pair.participant_1, pair.participant_2)), frozenset((pair.image_1, pair.image_2))]
        waivers.append(not accepted.isdisjoint(names))
    return pairs.assign(sets=sets, tasks=tasks, waived=waivers).astype({"waived": bool})


def _alike_counts(pairs: pd.DataFrame, chosen: Sequence[bool]) -> dict[str, int]:
    """Numbers of the chosen pairs: like one scan and not waived, like one scan and waived, like one head."""
    pairs = pairs[np.array(chosen, bool)]
    scans = pairs["kind"] == SCAN
    waived = int((scans & pairs["waived"]).sum())
    return {
        "identical_scans": int(scans.sum()) - waived,
        "waived_scans": waived,
        "similar_heads": int((pairs["kind"] == HEAD).sum()),
    }


def _leaking_scans(alike: pd.DataFrame) -> Iterator[InputError]:
    """An error for each scan under two names that is in two sets, or in one task's pool."""
    for pair in alike[(alike["kind"] == SCAN) & ~alike["waived"]].itertuples():
        if len(pair.sets) == 2:
            where = f"in {pair.sets[0]} and in {pair.sets[1]}"
        elif pair.tasks:
            where = f"and both are in the pool of {pair.tasks[0]}, so a resample may train on one and test on the other"
        else:
            continue
        what = f"it is the same scan as {pair.image_1}, {where}"
        yield InputError(
            layout.PAIRS, pair.image_2, what, "remove one of the two, or waive them in split.waived_duplicates"
        )


def _crossings(used: pd.DataFrame) -> Iterator[InputError]:
    """An error for each participant in more than one set."""
    sets = used.groupby("participant_id")["role"].nunique()
    for name in sets.index[sets > 1]:
        rows = used[used["participant_id"] == name]
        first = rows.iloc[0]
        other = rows[rows["role"] != first["role"]].iloc[0]
        what = f"the participant is in {first['role']} and in {other['role']}"
        fix = "delete the cohorts' splits and run again"
        yield InputError(layout.cohort_split(other["cohort"]), name, what, fix)


def _other_engines(engines: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[InputError]:
    """An error for each set with images of an engine, or a version of an engine, that made no training image."""
    for role in ("validation", "test") if engines["train"] else ():
        others = [pair for pair in engines[role] if pair not in engines["train"]]
        if others:
            what = f"{role} has images of {named_engines(others)}, training of {named_engines(engines['train'])}"
            fix = "process all with one engine, or set pretrain.accept_other_preprocessing: true"
            yield InputError(layout.INDEX, "engine", what, fix)


def _wrong_roles(images: pd.DataFrame, roles: Mapping[str, Collection[str]]) -> list[InputError]:
    """An error for each cohort that pretrains without the role, and each participant who validates with many images."""
    pretrain = images[images["role"].isin(["train", "validation"])]
    errors = [
        InputError(layout.cohort_split(cohort), "", "its images pretrain without the role", AGAIN)
        for cohort in pretrain["cohort"].unique()
        if "pretraining" not in roles[cohort]
    ]
    validation = images[images["role"] == "validation"]
    many = validation["participant_id"].value_counts()
    for name in many.index[many > 1]:
        cohort = validation.loc[validation["participant_id"] == name, "cohort"].iloc[0]
        what = f"the participant validates with {many[name]} images instead of one"
        errors.append(InputError(layout.cohort_split(cohort), name, what, "delete it and run again"))
    return errors


def _counts(images: pd.DataFrame) -> dict[str, Any]:
    """Numbers of participants and images, ages of the images (years), share of females among known sexes."""
    age = images["age"].dropna().astype(float)
    sex = images.groupby("participant_id")["sex"].first().dropna().astype(float)
    return {
        "participants": int(images["participant_id"].nunique()),
        "images": len(images),
        "age": {name: round(float(getattr(age, name)()), 3) if len(age) else None for name in ("min", "mean", "max")},
        "female_share": round(float((sex == 0).mean()), 4) if len(sex) else None,
    }
