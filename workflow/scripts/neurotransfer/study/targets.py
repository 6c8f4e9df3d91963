"""The six targets of pretraining, in the order of the authors' published model; the one list of them."""

from __future__ import annotations

TARGETS = ("age", "sex", "handedness", "bmi", "fluid_intelligence", "neuroticism")
UNITS = {"age": "years", "bmi": "kg/m²"}  # of those that have one
CLASSES = {"sex": "male", "handedness": "left-handed"}  # what class 1 of a binary target is
