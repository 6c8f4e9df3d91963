"""Indices of invented people with ages and diagnoses, for tests of splits and their certificate."""

import numpy as np
import pandas as pd


def index_of(people, cohort="C"):
    """An index of people given as (age, sex, diagnoses of their images)."""
    rows = [
        {
            "image_id": f"{cohort}_{person:03d}_ses-{session}",
            "participant_id": f"{cohort}_{person:03d}",
            "cohort": cohort,
            "age": age,
            "sex": sex,
            "diagnosis": diagnosis,
            "checksum": f"{cohort} {person} {session}",
        }
        for person, (age, sex, diagnoses) in enumerate(people)
        for session, diagnosis in enumerate(diagnoses)
    ]
    columns = ["image_id", "participant_id", "cohort", "age", "sex", "diagnosis", "checksum"]
    missing = dict.fromkeys(["handedness", "bmi", "fluid_intelligence", "neuroticism"])
    made = {"engine": "builtin", "engine_version": "1", "shard": f"{cohort}-0001", "row": range(len(rows))}
    return pd.DataFrame(rows, columns=columns).assign(**missing, **made)


def crowd(number, seed=0, sessions=2):
    """Many healthy people of all ages."""
    generator = np.random.default_rng(seed)
    ages, sexes = generator.uniform(5, 95, number), generator.integers(0, 2, number)
    counts = generator.integers(1, sessions + 1, number)
    return [(age, sex, ["HC"] * count) for age, sex, count in zip(ages, sexes, counts, strict=True)]
