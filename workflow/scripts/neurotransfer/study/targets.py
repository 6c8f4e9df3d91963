"""The six targets of pretraining, in the order of the authors' published model; the one list of them."""

from __future__ import annotations

TARGETS = ("age", "sex", "handedness", "bmi", "fluid_intelligence", "neuroticism")
