"""The plan of a study: shards, jobs, roles, and one line where the manifest is missing or stale."""

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurotransfer.errors import InputError
from neurotransfer.study.plan import Shard, read_study


@pytest.fixture
def config(tmp_path):
    (tmp_path / "cohorts.tsv").write_text("cohort\tpath\troles\n")
    return {
        "cohorts": str(tmp_path / "cohorts.tsv"),
        "withdrawn": str(tmp_path / "withdrawn.tsv"),
        "tasks": {"ad_hc": {"seed": 0}, "dropped": None},
        "resampling": {"n": [100, 200], "replicates": 12},
        "pretrain": {"weights": None},
    }


@pytest.fixture
def shards(config, tmp_path):
    """A compiled shards.tsv of three cohorts."""
    digest = hashlib.sha256((tmp_path / "cohorts.tsv").read_bytes()).hexdigest()
    roles = {"A": ["pretraining"], "B": ["pretraining", "ad_hc"], "C": ["holdout"]}
    facts = {"cohorts_sha256": digest, "roles": roles, "pretraining_shares": {"A": 1.0, "B": 0.3, "C": 0.0}}
    rows = [
        "shard\tcohort\timages\timages_per_job",
        "A-0001\tA\t64\t64",
        "A-0002\tA\t10\t64",
        "B-0001\tB\t5\t2",
        "C-0001\tC\t1\t1",
    ]
    path = tmp_path / "shards.tsv"
    path.write_text("\n".join([f"# {json.dumps(facts)}", *rows]) + "\n")
    return path


@given(st.integers(1, 500), st.integers(1, 100))
def test_every_image_of_a_shard_is_in_exactly_one_job(images, images_per_job):
    shard = Shard("A-0001", "A", images, images_per_job)
    of_jobs = [shard.images_of_job(job) for job in shard.jobs]
    assert sum(of_jobs) == images
    assert all(0 < count <= images_per_job for count in of_jobs)
    assert all(count == images_per_job for count in of_jobs[:-1])
    assert shard.jobs == sorted(set(shard.jobs))


def test_the_plan_knows_shards_roles_and_replicates(config, shards):
    study = read_study(config, shards)
    assert study.cohorts == ["A", "B", "C"]
    assert study.shards_of("A") == ["A-0001", "A-0002"]
    assert study.shards["B-0001"].jobs == ["0000", "0001", "0002"]
    assert study.shards["B-0001"].images_of_job("0002") == 1
    assert study.cohorts_of("pretraining") == ["A", "B"]
    assert study.cohorts_of("ad_hc", "holdout") == ["B", "C"]
    assert study.pretraining_shares["B"] == 0.3
    assert list(study.tasks) == ["ad_hc"], "a task that is null is dropped"
    assert study.n == (100, 200)
    assert study.replicates[0] == "001" and study.replicates[-1] == "012" and len(study.replicates) == 12
    assert study.run == "multitask"


def test_weights_that_are_given_take_the_place_of_pretraining(config, shards):
    config["pretrain"]["weights"] = "weights.safetensors"
    assert read_study(config, shards).run == "given"


def test_a_missing_manifest_says_what_to_run(config, tmp_path):
    with pytest.raises(InputError, match=r"; run neurotransfer manifest$"):
        read_study(config, tmp_path / "shards.tsv")


def test_a_stale_manifest_says_what_to_run(config, shards, tmp_path):
    (tmp_path / "cohorts.tsv").write_text("cohort\tpath\troles\nA\tdata\tholdout\n")
    with pytest.raises(InputError, match=r"cohorts.tsv has changed .*; run neurotransfer manifest$"):
        read_study(config, shards)


def test_a_list_of_withdrawn_people_that_has_changed_is_a_stale_manifest(config, shards, tmp_path):
    read_study(config, shards)
    (tmp_path / "withdrawn.tsv").write_text("participant_id\nA_01\n")
    with pytest.raises(InputError, match=r"withdrawn.tsv has changed .*; run neurotransfer manifest$"):
        read_study(config, shards)
    assert read_study(config, shards, stale_too=True).cohorts == ["A", "B", "C"], "to look at, it is good enough"


def test_a_missing_cohort_table_is_named(config, shards, tmp_path):
    (tmp_path / "cohorts.tsv").unlink()
    with pytest.raises(InputError, match=r"cohorts\.tsv: there is no such cohort table"):
        read_study(config, shards)


def test_a_task_without_a_cohort_is_named(config, shards):
    config["tasks"]["scz_bd"] = {"seed": 0}
    with pytest.raises(InputError, match=r"no cohort has the role 'scz_bd'.*set tasks.scz_bd to null"):
        read_study(config, shards)


def test_parsing_imports_nothing_heavy():
    heavy = {"numpy", "pandas", "torch", "nibabel", "jsonschema", "snakemake"}
    program = f"import sys, neurotransfer.study.plan, neurotransfer.jobs.job; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_configuration_is_checked_without_pandas():
    program = "import sys, neurotransfer.study.configuration; print('pandas' in sys.modules or 'numpy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
