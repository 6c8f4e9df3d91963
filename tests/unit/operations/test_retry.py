"""Only the images that were asked for are marked, what follows is said first, and a mistake is one line."""

import os
from pathlib import Path

import pytest
from neurotransfer.errors import InputError
from neurotransfer.jobs.job import held
from neurotransfer.operations.retry import mark, retry_of
from neurotransfer.operations.status import states_of_images
from neurotransfer.study.consequences import counts_by_rule, jobs_after
from neurotransfer.study.plan import Shard, Study

LEDGER = "image_id\tstatus\treason\tdetail\tengine\tengine_version\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Two cohorts with three jobs, five failed images and three that are ok, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shards = [Shard("A-0001", "A", 4, 2), Shard("B-0001", "B", 4, 4)]
    rows = {
        "A-0001": ["ok ", "failed truncated", "ok ", "failed flat"],
        "B-0001": ["failed truncated", "failed flat", "failed flat", "ok "],
    }
    manifest = []
    for shard in shards:
        images = [f"{shard.cohort}_{at}" for at in range(4)]
        manifest += [f"{image}\t{shard.cohort}\t{shard.name}\n" for image in images]
        write(
            tmp_path / f"results/manifest/shards/{shard.name}.tsv", "image_id\tage\n" + "\t40\n".join(images) + "\t40\n"
        )
        for image, said in zip(images, rows[shard.name], strict=True):
            state, reason = said.split(" ")
            text = f'{{"state": "{state}", "reason": "{reason}"}}'
            write(tmp_path / f"results/preprocessed/subjects/{shard.name}/{image}/status.json", text)
        said = [row.replace(" ", "\t") for row in rows[shard.name]]
        lines = [f"{image}\t{row}\t\tx\t1\n" for image, row in zip(images, said, strict=True)]
        for job in shard.jobs:
            first = int(job) * shard.images_per_job
            part = "".join(lines[first : first + shard.images_per_job])
            write(tmp_path / f"results/preprocessed/{shard.name}/{job}.tsv", LEDGER + part)
    write(tmp_path / "results/manifest/images.tsv", "image_id\tcohort\tshard\n" + "".join(manifest))
    return Study(
        shards={shard.name: shard for shard in shards},
        roles={"A": frozenset(["pretraining"]), "B": frozenset(["ad_hc"])},
        pretraining_shares={},
        tasks={"ad_hc": {}, "other": {}},
        n=(18,),
        replicates=("001", "002"),
        run="multitask",
    )


def files() -> set[str]:
    return {os.path.join(folder, name) for folder, _, names in os.walk("results") for name in names}


@pytest.mark.parametrize(
    ("asked", "images", "ledgers"),
    [
        ({"reason": "truncated"}, {"A_1", "B_0"}, {"A-0001/0000", "B-0001/0000"}),
        ({"reason": "flat", "cohort": "A"}, {"A_3"}, {"A-0001/0001"}),
        ({"cohort": "B"}, {"B_0", "B_1", "B_2"}, {"B-0001/0000"}),
        ({"images": ["A_0"]}, {"A_0"}, {"A-0001/0000"}),
        ({"images": ["A_0", "A_3", "B_1"], "reason": "flat"}, {"A_3", "B_1"}, {"A-0001/0001", "B-0001/0000"}),
    ],
)
def test_just_those_images_and_their_jobs_are_marked(study, asked, images, ledgers):
    before, states = files(), dict(states_of_images())
    retry = retry_of(study, **asked)
    assert files() == before, "choosing removes nothing"
    mark(retry)
    gone = {f"results/preprocessed/subjects/{states[image].shard}/{image}/status.json" for image in images}
    assert before - files() == gone | {f"results/preprocessed/{ledger}.tsv" for ledger in ledgers}
    after = dict(states_of_images())
    assert {image for image, state in after.items() if state.state == "waiting"} == images
    assert all(after[image] == state for image, state in states.items() if image not in images)


def test_marking_that_was_stopped_half_way_is_completed_by_the_same_words(study):
    first = retry_of(study, reason="truncated")
    first.status_files[0].unlink()
    assert retry_of(study, reason="truncated").images == first.images


def test_the_list_and_the_jobs_are_told(study):
    text = retry_of(study, cohort="B").text()
    assert "3 images" in text and "B_0  B-0001  truncated" in text
    told = dict(line.split()[:2] for line in text.splitlines() if line.startswith("  ") and "B_" not in line)
    assert told == {
        "preprocess": "1", "cache": "1", "quality": "1", "index": "1", "split": "1",
        "heads": "1", "quality_page": "1", "duplicates": "1", "certificate": "1", "resample": "2", "linear": "2",
        "baseline": "2", "transfer": "2", "aggregate": "1",
        "confounding": "1", "classifiers": "1", "compare": "1", "figures": "1", "report": "1",
    }  # fmt: skip


def test_a_long_list_is_cut_unless_all_is_asked_for(study, monkeypatch):
    monkeypatch.setattr("neurotransfer.operations.retry.SHOWN", 1)
    retry = retry_of(study, cohort="B")
    assert "and 2 more" in retry.text() and "B_2" not in retry.text()
    assert "B_2" in retry.text(everything=True)


def test_what_pretrains_brings_every_transfer_with_it(study):
    of_pretraining, of_task = (counts_by_rule(jobs_after(study, {shard: ["0000"]})) for shard in ("A-0001", "B-0001"))
    assert of_pretraining["pretrain"] == 1 and of_pretraining["transfer"] == 4 and "resample" not in of_pretraining
    assert "pretrain" not in of_task and of_task["transfer"] == 2
    assert jobs_after(study, {}) == []


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({}, r"name the images by --reason, --cohort or --image; there are: flat \(3\), truncated \(2\)"),
        ({"reason": "trunkated"}, r"--reason trunkated: no image failed .*did you mean 'truncated'\? there are: flat"),
        ({"cohort": "C"}, r"--cohort C: there is no such cohort; there are: A, B"),
        ({"images": ["A_9"]}, r"--image A_9: the manifest has no such image; did you mean 'A_\d'"),
        ({"reason": "empty", "cohort": "A"}, r"no image in A failed for this reason; there are: .*truncated \(1\)"),
        ({"reason": "mask_volume"}, r"this is a rule of quality control"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_there_is(study, asked, line):
    table = "image_id\tstatus\treason\nA_0\texcluded\tmask_volume\n"
    write(Path("results/quality/A.tsv"), table)
    before = files()
    with pytest.raises(InputError, match=line) as caught:
        retry_of(study, **asked)
    assert "\n" not in str(caught.value)
    assert files() == before


def test_a_cohort_without_failures_says_so(study):
    mark(retry_of(study, cohort="A"))
    with pytest.raises(InputError, match=r"--cohort A: no image of it has failed"):
        retry_of(study, cohort="A")


def test_a_job_that_runs_is_not_marked(study):
    with (
        held("results/preprocessed/B-0001/0000.tsv"),
        pytest.raises(InputError, match="are running; wait for their end"),
    ):
        retry_of(study, reason="truncated")
    assert retry_of(study, reason="truncated").ledgers


def test_nothing_is_marked_while_snakemake_runs(study, tmp_path):
    retry = retry_of(study, reason="truncated")
    write(tmp_path / ".snakemake/locks/0.input.lock", "")
    before = files()
    with pytest.raises(InputError, match=r"Snakemake is running in this study; .*snakemake --unlock"):
        mark(retry)
    assert files() == before
