"""Counts in the sentences that a person reads agree with their nouns and verbs."""

import pandas as pd
import pytest
from neurotransfer.jobs.snakemake_run import Ended
from neurotransfer.manifest.compile import Summary
from neurotransfer.operations.rehearsal import Report
from neurotransfer.study.targets import TARGETS
from neurotransfer.text import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (1, ("job",), "1 job"),
        (0, ("job",), "0 jobs"),
        (1_200, ("person", "people"), "1,200 people"),
        (1, ("image is new", "images are new"), "1 image is new"),
        (2, ("image is new", "images are new"), "2 images are new"),
    ],
)
def test_a_count_agrees_with_its_words(count, words, said):
    assert counted(count, *words) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 shard; 1 image is new, 1 is gone, 1 file was written"),
        (2, "2 shards; 2 images are new, 2 are gone, 2 files were written"),
    ],
)
def test_the_summary_of_a_manifest(count, said):
    images = pd.DataFrame(columns=["cohort", "participant_id", "diagnosis", *TARGETS])
    excluded = pd.DataFrame(columns=["cohort", "reason"])
    found = Summary(images, excluded, ("A",), (), written=count, new_images=count, gone_images=count, shards=count)
    assert found.text().splitlines()[-1] == said


def test_the_first_line_of_a_rehearsal():
    ended = Ended(0, (), 90.0)
    assert "1 image of 1 person in 1 cohort, n = 8" in Report("mine", 1, 1, 1, 8, ended).head
    assert "9 images of 7 people in 2 cohorts, n = 8" in Report("mine", 9, 7, 2, 8, ended).head
