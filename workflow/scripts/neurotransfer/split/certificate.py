"""The proof that nobody is on two sides: made once for all cohorts, and checked again wherever its files are used.

Goes in: every cohort's index and split, and the pairs of images that look like one scan.  Comes out: the
certificate, JSON without a name of a participant or image, and its page; or one line per leak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cache.write import made_by, named_engines
from ..errors import InputError, Mistakes, raise_all
from ..files import digest_of_file, read_json
from ..study import layout
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
) -> dict[str, Any]:
    """Prove that no participant, and no scan under two names, is in two of training, validation and test.

    The resamples of a task divide its pool, so one scan under two names in one pool is a leak as well.  Pairs that
    look like one head in two scans are suspicions and no proof: they are counted, and fail nothing.

    Parameters
    ----------
    splits, indices : of all cohorts, in the same order; an index has `checksum`, of the cached image's bytes
    roles : the roles of each cohort
    pairs : from duplicates.find_pairs, images of two participants that look like one scan or one head
    waived : pairs of participants or of images whose likeness a person has looked into
    one_engine : refuse sets with images of an engine, or a version of it, that made no training image

    Returns
    -------
    JSON values: `counts` per set and per cohort and set (participants, images, age in years, share of females),
    `overlaps` of every pair of sets (participants, and pairs that look like one scan, waived ones, like one head),
    `within` the sets and the tasks' `pools` (such pairs), `digests` (SHA-256 of each set's sorted
    participants, one per line), `shared_cohorts` (on both sides), `engines` per set, `statement`

    Raises
    ------
    InputError
        one line for each participant or scan on two sides, each participant that validates with several images,
        each image that pretrains from a cohort without that role and each set from an engine of its own
    """
    images = join_splits(splits, indices)
    about = pd.concat(indices, ignore_index=True)
    images = images.assign(**{name: about[name] for name in ("checksum", "engine", "engine_version")})
    used = images[images["role"].isin(SETS)]
    alike = _placed(pd.concat([_identical(used), pairs[PAIR]]), used, roles, waived)
    engines = {role: made_by(images[images["role"] == role]) for role in SETS}
    mistakes = Mistakes()
    for error in _crossings(used):
        mistakes.add(error, layout.COHORT_SPLITS, "participant_id")
    for error in _leaking_scans(alike):
        mistakes.add(error, layout.PAIRS, "image_2")
    for error in _out_of_place(images, roles):
        mistakes.add(error, layout.COHORT_SPLITS)
    for error in _strange_engines(engines) if one_engine else ():
        mistakes.add(error, layout.INDEX)
    mistakes.raise_if_any()
    people = {role: set(used.loc[used["role"] == role, "participant_id"]) for role in SETS}
    counts = {role: _counts(images[images["role"] == role]) for role in ROLES}
    by_cohort = {
        cohort: {role: _counts(images[(images["cohort"] == cohort) & (images["role"] == role)]) for role in ROLES}
        for cohort in roles
    }
    overlaps = [
        {"sets": [one, other], "participants": len(people[one] & people[other])}
        | _alike_counts(alike, [has == (one, other) for has in alike["sets"]])
        for one, other in combinations(SETS, 2)
    ]
    within = {role: _alike_counts(alike, [has == (role,) for has in alike["sets"]]) for role in SETS}
    tasks = sorted({task for has in roles.values() for task in has} - {"pretraining", "holdout"})
    pools = {task: _alike_counts(alike, [task in has for has in alike["tasks"]]) for task in tasks}
    waivers = int((alike["waived"] & (alike["kind"] == SCAN)).sum())
    sizes = ", ".join(f"{counts[role]['participants']} in {role}" for role in SETS)
    passed = f"; {waivers} pairs of scans that look identical were waived by name" if waivers else ""
    return {
        "counts": counts,
        "cohorts": by_cohort,
        "overlaps": overlaps,
        "within": within,
        "pools": pools,
        "shared_cohorts": [c for c, has in by_cohort.items() if has["test"]["images"] and has["train"]["images"]],
        "digests": {role: digest_of_participants(people[role]) for role in SETS},
        "engines": engines,
        "waived_scans": waivers,
        "statement": f"No participant and no scan is in two of training, validation and test ({sizes}){passed}.",
    }


def digest_of_participants(people: Collection[str]) -> str:
    """SHA-256 of the sorted participants, one per line: equal for equal sets, whatever their order."""
    return hashlib.sha256("\n".join(sorted(people)).encode()).hexdigest()


def check_sources(
    splits: Sequence[pd.DataFrame],
    indices: Sequence[pd.DataFrame],
    manifest: pd.DataFrame,
    roles: Mapping[str, Collection[str]],
    pretraining_shares: Mapping[str, float],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Refuse an index that names other people than the manifest, and a split that is not the one drawn from its index.

    Parameters
    ----------
    splits, indices : by cohort, in the order of `roles`
    manifest : `image_id`, `participant_id` and `cohort` of every image
    pretraining_shares, settings, seed : as split_cohort wants them

    Raises
    ------
    InputError
        a line for each file that is not what it must be
    """
    wrong = []
    names = ["participant_id", "cohort"]
    known = manifest.set_index("image_id")[names]
    for (cohort, has), split, index in zip(roles.items(), splits, indices, strict=True):
        strangers = ~index["image_id"].isin(known.index)
        mine = known.reindex(index["image_id"]).reset_index(drop=True)
        other = (mine != index[names].reset_index(drop=True)).any(axis=1).to_numpy() | strangers.to_numpy()
        if other.any():
            what = f"{int(other.sum())} of its images have another participant than in {layout.IMAGES}"
            wrong.append(InputError(layout.index(cohort), "participant_id", what, AGAIN))
        drawn = split_cohort(index, has, pretraining_shares[cohort], settings, seed)
        columns = ["image_id", "participant_id", "role"]
        if not split[columns].reset_index(drop=True).equals(drawn[columns].reset_index(drop=True)):
            what = "its roles are not those that the configuration draws from the cohort's index"
            wrong.append(InputError(f"{layout.COHORT_SPLITS}/{cohort}.tsv", "role", what, AGAIN))
    raise_all(wrong)


def check_waivers(waived: Sequence[Sequence[str]], manifest: pd.DataFrame) -> None:
    """Refuse waivers of names that are not in the manifest, or that mix a participant with an image.

    Raises
    ------
    InputError
        a line for each waiver that is none
    """
    known = [set(manifest[column]) for column in ("participant_id", "image_id")]
    wrong = []
    for place, pair in enumerate(waived):
        if not any(set(pair) <= names for names in known):
            strange = [name for name in pair if not any(name in names for names in known)]
            what = (
                f"there is no participant or image {strange[0]!r}" if strange else "it names a participant and an image"
            )
            where = f"split.waived_duplicates[{place}]"
            wrong.append(
                InputError("configuration", where, what, "name two participants, or two images, of the manifest")
            )
    raise_all(wrong)


def check_certified(certificate: str | Path, files: Iterable[str | Path]) -> dict[str, Any]:
    """Refuse files that are not, byte for byte, those that were certified; return the certificate.

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
            what = f"it is not the file that was certified in {certificate}"
            wrong.append(InputError(file, "", what, AGAIN))
    raise_all(wrong)
    return proof


def check_resamples_certified(
    paths: Iterable[str | Path], indices: Sequence[pd.DataFrame], splits: Sequence[pd.DataFrame]
) -> None:
    """Refuse resamples whose rows are not as drawn, or hold an image that the certificate keeps out of tasks.

    Parameters
    ----------
    indices, splits : of the tasks' cohorts, certified

    Raises
    ------
    InputError, InputErrors
        naming every refused file
    """
    about = ["participant_id", "shard", "row", "checksum"]
    images = pd.concat(indices, ignore_index=True).set_index("image_id")
    role = pd.concat(splits, ignore_index=True).set_index("image_id")["role"]
    images = images.loc[role.reindex(images.index) == "test", about]
    wrong: list[InputError] = []
    for path in paths:
        try:
            resample = read_resample(path)[0].set_index("image_id")[about]
        except InputError as error:
            wrong.append(error)
            continue
        except (ValueError, KeyError) as error:
            wrong.append(InputError(path, "", f"it can't be read as a resample ({error})", AGAIN))
            continue
        certified = images.reindex(resample.index)
        strange = int((certified != resample).any(axis=1).sum())  # what is not certified is missing, and equals nothing
        if strange:
            what = f"{strange} of its rows are no images of people whom the certificate keeps for testing"
            wrong.append(InputError(path, "", what, "delete it, then run the same command again"))
    raise_all(wrong)


def check_behind_weights(participants: pd.DataFrame, splits: Sequence[pd.DataFrame], path: str | Path) -> int:
    """Refuse weights that learnt from other people than those who are certified to pretrain.

    People who are in no split any more (who withdrew, say) are let pass: the weights are no leak for that.

    Parameters
    ----------
    participants : `participant_id` and `role`, of pretraining
    splits : of the pretraining cohorts, certified
    path : the table of participants, for the message

    Returns
    -------
    how many people behind the weights are in no split any more

    Raises
    ------
    InputError
        with the number of people concerned
    """
    table = pd.concat(splits, ignore_index=True)
    table = table[table["role"].isin(SETS)].drop_duplicates("participant_id").set_index("participant_id")["role"]
    behind = participants.set_index("participant_id")["role"]
    today = table.reindex(behind.index)
    moved = int((today.notna() & (today != behind)).sum())
    new = int((table.isin(["train", "validation"]) & ~table.index.isin(behind.index)).sum())
    if moved or new:
        what = f"{moved} people behind the weights have another role in the certified split, {new} who pretrain are not"
        fix = f"delete {layout.PRETRAIN} and run again, or give the weights as pretrain.weights"
        raise InputError(path, "role", what, fix)
    return int(today.isna().sum())


def duplicates_in_words(summary: Mapping[str, Any]) -> str:
    """What the comparison of all heads found, in one or two sentences without a name.

    Parameters
    ----------
    summary : from duplicates.find_pairs
    """
    if summary["least_similarity"] is None:
        return "Too few images to look for one person under two names."
    said = (
        f"Among {summary['pairs_compared']:,} pairs of images, {summary['scans']:,} of two participants look like the "
    )
    said += (
        f"same scan and {summary['heads']:,} like one head in two scans; suspicions of the second kind fail nothing."
    )
    if summary["pairs_found"] > summary["pairs_listed"]:
        said += f" {summary['pairs_found'] - summary['pairs_listed']:,} more pairs are as similar and are not listed."
    if summary["images"] > summary["images_compared"]:
        said += f" {summary['images'] - summary['images_compared']:,} images could not be compared."
    return said


def _identical(used: pd.DataFrame) -> pd.DataFrame:
    """Pairs of images, of two participants, whose cached bytes are the same: columns as duplicates.find_pairs'."""
    known = used[used["checksum"].notna()]
    doubled = known[known.duplicated("checksum", keep=False)]
    rows = [
        dict(zip(PAIR, [*one[:3], *other[:3], None, 1.0, 0.0, SCAN], strict=True))
        for _, group in doubled.groupby("checksum", sort=True)
        for one, other in combinations(group[["image_id", "participant_id", "cohort"]].itertuples(index=False), 2)
        if one[1] != other[1]
    ]
    return pd.DataFrame(rows, columns=PAIR)


def _placed(
    pairs: pd.DataFrame, used: pd.DataFrame, roles: Mapping[str, Collection[str]], waived: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Pairs of used images, each once, with their `sets`, the `tasks` whose pool holds both, and whether `waived`."""
    role = used.set_index("image_id")["role"]
    pairs = pairs[pairs["image_1"].isin(role.index) & pairs["image_2"].isin(role.index)]
    pairs = pairs.drop_duplicates(["image_1", "image_2"]).reset_index(drop=True)
    passed = {frozenset(pair) for pair in waived}
    sets, tasks, waivers = [], [], []
    for pair in pairs.itertuples():
        one, other = (role[image] for image in (pair.image_1, pair.image_2))
        sets.append(tuple(name for name in SETS if name in (one, other)))
        both = set(roles[pair.cohort_1]) & set(roles[pair.cohort_2]) - {"pretraining", "holdout"}
        tasks.append(sorted(both) if one == other == "test" else [])
        names = [frozenset((pair.participant_1, pair.participant_2)), frozenset((pair.image_1, pair.image_2))]
        waivers.append(not passed.isdisjoint(names))
    return pairs.assign(sets=sets, tasks=tasks, waived=waivers).astype({"waived": bool})


def _alike_counts(pairs: pd.DataFrame, chosen: Sequence[bool]) -> dict[str, int]:
    """Chosen pairs that look like one scan (and are not waived), those waived, and pairs that look like one head."""
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
        yield InputError(f"{layout.COHORT_SPLITS}/{other['cohort']}.tsv", name, what, fix)


def _strange_engines(engines: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[InputError]:
    """An error for each set with images of an engine, or a version of it, that made no training image."""
    for role in ("validation", "test") if engines["train"] else ():
        others = [pair for pair in engines[role] if pair not in engines["train"]]
        if others:
            what = f"{role} has images of {named_engines(others)}, training of {named_engines(engines['train'])}"
            fix = "process them alike, or say pretrain.accept_other_preprocessing: true"
            yield InputError(layout.INDEX, "engine", what, fix)


def _out_of_place(images: pd.DataFrame, roles: Mapping[str, Collection[str]]) -> list[InputError]:
    """An error for each cohort that pretrains without the role, and each participant validating with many images."""
    pretrain = images[images["role"].isin(["train", "validation"])]
    errors = [
        InputError(layout.cohort_split(cohort), "", "images of it pretrain without that role", "run it again")
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
    """Participants, images, age over images (years) and share of females over participants of known sex."""
    age = images["age"].dropna().astype(float)
    sex = images.groupby("participant_id")["sex"].first().dropna().astype(float)
    return {
        "participants": int(images["participant_id"].nunique()),
        "images": len(images),
        "age": {name: round(float(getattr(age, name)()), 3) if len(age) else None for name in ("min", "mean", "max")},
        "female_share": round(float((sex == 0).mean()), 4) if len(sex) else None,
    }
