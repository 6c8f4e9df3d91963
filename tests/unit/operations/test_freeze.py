"""The analysis plan: what it says, when it is refused, and what the report says of it afterwards."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from neurotransfer import cli
from neurotransfer.errors import InputError
from neurotransfer.files import digest_of_file, read_table, write_json, write_table
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.operations.freeze import freeze
from neurotransfer.operations.plan import roles_of
from neurotransfer.report import analysis_plan
from neurotransfer.report.public import check_public, private_names
from neurotransfer.split.pools import check_pools
from neurotransfer.study import layout
from neurotransfer.study.plan import read_study
from neurotransfer.study.recipe import ADDED
from runs import REPOSITORY

NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
PLAN = Path(layout.ANALYSIS_PLAN)


@pytest.fixture
def config(study):
    """The configuration of a study with a compiled manifest, in the working directory."""
    config = study[0]
    compile_manifest(config, check_pools)
    return config


def certify(config, *, without=0, salt=""):
    """A split of the manifest's images, of which the last ones are missing, and its certificate."""
    images = read_table(layout.IMAGES)
    images["role"] = roles_of(images, read_study(config), config)
    write_table(images[: len(images) - without], layout.SPLIT_IMAGES)
    files = {path: digest_of_file(path) + salt for path in (layout.SPLIT_IMAGES,)}
    write_json(layout.CERTIFICATE, {"files": files})
    return {"files": files}


def found_now(config, certificate):
    """What the report finds out about the study of the plan."""
    pools = analysis_plan.pool_counts(read_table(layout.SPLIT_IMAGES), read_study(config), config)
    return analysis_plan.conformity(PLAN, analysis_plan.facts_of_study(config, certificate, pools))


def test_the_plan_says_what_will_be_tested(config):
    config["resampling"] |= {"n": [8, 12], "replicates": 30}
    config["models"]["frozen"] = "trunk"
    config["confounding"]["waived"] = ["ad_hc"]
    certify(config)
    said = freeze(config, read_study(config), NOW)
    text = PLAN.read_text()
    assert digest_of_file(PLAN) in said and "Written on 2026-03-04 05:06 UTC" in text
    assert "| Alzheimer's disease or healthy (ad_hc) | AD | HC | 30 + 30 | 30 + 30 |" in text
    assert "counted from the certified images" in text
    assert "8 (4, 4), 12 (6, 6). 30 replicates" in text and "networks of 6 replicates" in text
    # 1 task, 2 sizes, 3 pairs; the further arm has 3 pairs, too
    assert "transfer − baseline, transfer − linear and linear − baseline. These are 6 comparisons" in text
    assert "transfer − frozen, frozen − linear and frozen − baseline. These 6 comparisons are a second family" in text
    assert "an adjusted p below 0.05" in text and "| this pool of images | paired sign-flip, 10,000" in text
    assert "mask_volume_mm3: min 400,000, max 2,800,000" in text and "0.9 or more, except ad_hc" in text
    facts = analysis_plan.read_plan(PLAN)
    assert facts["configuration"]["resampling.n"] == [8, 12] and facts["configuration"]["seed"] == config["seed"]
    assert facts["configuration"]["models.linear.settings[3].c"] == 0.1
    assert facts["configuration_sha256"] in text and facts["certificate_sha256"] in text
    assert facts["pools"]["ad_hc"]["images"] == {"positive": 30, "negative": 30}


def test_the_plan_names_no_person_no_image_and_no_folder(config, tmp_path):
    config["withdrawn"] = str(tmp_path / "deep/withdrawn.tsv")
    weights = tmp_path / "models/brain.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    config["pretrain"]["weights"] = str(weights)
    config["split"]["waived_duplicates"] = [["B_01", "B_02"]]
    freeze(config, read_study(config), NOW)
    text = PLAN.read_text()
    check_public(PLAN, text, private_names(config))
    assert str(tmp_path) not in text and "B_01" not in text and "study.key" not in text
    facts = analysis_plan.read_plan(PLAN)
    assert facts["files_sha256"] == {"pretrain.weights": digest_of_file(weights)}
    assert facts["configuration"]["pretrain.weights"] == "…/brain.safetensors"
    config["tasks"]["ad_hc"]["title"] = "the disease of B_01"
    PLAN.unlink()
    with pytest.raises(InputError, match="name of a person"):
        freeze(config, read_study(config), NOW)
    assert not PLAN.exists()


def test_cells_of_few_people_are_not_in_the_plan(config):
    config["report"]["smallest_cell"] = 31
    freeze(config, read_study(config), NOW)
    assert "< 31 + < 31" in PLAN.read_text()
    assert analysis_plan.read_plan(PLAN)["pools"]["ad_hc"]["participants"] == {"positive": "< 31", "negative": "< 31"}


@pytest.mark.parametrize(
    "path",
    [
        layout.fit("ad_hc", 8, "001", "linear"),
        layout.SECOND_SEED.format(task="ad_hc", n=8, replicate="001", model="transfer"),
        layout.AUCS,
    ],
)
def test_no_plan_is_written_once_there_is_a_fit(config, path):
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("{}")
    with pytest.raises(InputError, match="a fit has been made") as refused:
        freeze(config, read_study(config), NOW)
    assert refused.value.file == path and not PLAN.exists()


def test_a_plan_is_never_written_twice(config):
    freeze(config, read_study(config), NOW)
    before = PLAN.read_bytes()
    with pytest.raises(InputError, match="there is an analysis plan already") as refused:
        freeze(config, read_study(config))
    assert refused.value.page == "docs/trust.md#a-plan-from-before-the-first-fit"
    assert PLAN.read_bytes() == before


def test_results_of_a_study_that_is_as_planned_follow_the_plan(config):
    certificate = certify(config)
    freeze(config, read_study(config), NOW)
    # what changes no result: where files lie, how jobs run, what pages show
    config["withdrawn"], config["report"]["smallest_cell"] = "gone.tsv", 3
    config["preprocessing"] |= {"threads": 9, "max_mem_mb": 1}
    config["models"]["cnn"]["threads"], config["pretrain"]["gpus"] = 2, 4
    found = found_now(config, certificate)
    assert found["changes"] == [] and found["pools"] == [] and found["certified"]
    assert found["written"] == "2026-03-04 05:06 UTC" and found["sha256"] == digest_of_file(PLAN)


def test_each_changed_key_is_named_with_both_values(config):
    certificate = certify(config)
    planned = copy.deepcopy(config)
    freeze(config, read_study(config), NOW)
    config["statistics"]["alpha"] = 0.1
    config["resampling"]["n"] = [8, 10]
    config["models"]["linear"]["settings"] = [{"c": 0.5}, *planned["models"]["linear"]["settings"][1:8]]
    config["quality"]["exclude"]["contrast"] = {"min": 0.1, "max": None}
    assert found_now(config, certificate)["changes"] == [
        "quality.exclude.contrast.min: 0.1 (plan: null)",
        "resampling.n: [8, 10] (plan: [8])",
        "models.linear.settings[0].c: 0.5 (plan: 0.0001)",
        "statistics.alpha: 0.1 (plan: 0.05)",
        "models.linear.settings[8].c: not there (plan: 10000.0)",
    ]


def test_a_key_that_a_later_version_adds_is_no_change_if_it_means_what_was_done_before(config):
    certificate = certify(config)
    facts = analysis_plan.facts_of_study(config, certificate, {})
    later = {key: value for key, value in ADDED.items() if key.startswith("resampling.")}
    assert len(later) >= 3
    for key in later:
        del facts["configuration"][key]
    PLAN.write_text(f"```json\n{json.dumps(facts | {'written': 'today'})}\n```\n")
    now = analysis_plan.facts_of_study(config, certificate, {})
    assert analysis_plan.conformity(PLAN, now)["changes"] == []
    config["resampling"]["stratify"] = True
    now = analysis_plan.facts_of_study(config, certificate, {})
    assert analysis_plan.conformity(PLAN, now)["changes"] == ["resampling.stratify: true (plan: false)"]


def test_other_certified_images_weights_and_versions_are_named(config, tmp_path):
    weights = tmp_path / "brain.safetensors"
    weights.write_bytes(b"weights")
    config["pretrain"]["weights"] = str(weights)
    certify(config)
    freeze(config, read_study(config), NOW)
    weights.write_bytes(b"others")
    PLAN.write_text(PLAN.read_text().replace(f'"version": "{cli.__version__}"', '"version": "0.0.1"'))
    assert found_now(config, certify(config, without=2))["changes"] == [
        "pretrain.weights: the content of the file",
        "certificate: the certified images, or their roles",
        "pool of ad_hc: 28 positive, 30 negative images (plan: 30 positive, 30 negative images)",
        f"neurotransfer: version {cli.__version__} (plan: 0.0.1)",
    ]


def test_a_plan_from_before_the_certificate_says_that_it_fixes_no_images(config):
    freeze(config, read_study(config), NOW)
    text = PLAN.read_text()
    assert "does not fix which images are used" in text and "images that fail will be missing" in text
    found = found_now(config, certify(config, without=2))
    assert not found["certified"] and found["changes"] == []
    assert found["pools"] == ["pool of ad_hc: 28 positive, 30 negative images (plan: 30 positive, 30 negative images)"]


@pytest.mark.parametrize(
    "text", ["", "# a plan", "```json\n[]\n```", "```json\n{\n```", '```json\n{"format": 1}\n```', "\udc80"]
)
def test_a_file_that_is_no_plan_is_one_line(tmp_path, text):
    path = tmp_path / "analysis-plan.md"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="it is no analysis plan") as refused:
        analysis_plan.read_plan(path)
    assert len(str(refused.value).splitlines()) == 1


def test_text_of_the_configuration_cannot_pass_for_the_plans_facts(config):
    hostile = 'x\n```json\n{"format": 1}\n```\n| a | b |'
    config["study"] = config["tasks"]["ad_hc"]["title"] = hostile
    freeze(config, read_study(config), NOW)
    assert analysis_plan.read_plan(PLAN)["study"] == hostile
    assert PLAN.read_text().count("```json\n") == 1


def test_the_command_writes_the_plan_and_then_refuses(config, capsys):
    overlay = Path("my.yaml")
    overlay.write_text(
        "cohorts: cohorts.tsv\ntasks: {scz_bd: null}\n"
        "resampling: {n: [8], validation_share: 0.5, test_share: 0.5}\n"
        "manifest: {images_per_shard: 8, images_per_job: 4}\n"
    )
    assert cli.main(["freeze", "--configfile", "my.yaml"]) == 0
    assert "written: analysis-plan.md" in capsys.readouterr().out and PLAN.is_file()
    assert cli.main(["freeze", "--configfile", "my.yaml"]) == 2
    printed = capsys.readouterr().err
    assert "there is an analysis plan already" in printed and "docs/trust.md#a-plan-from" in printed
    assert (REPOSITORY / "docs/running.md").is_file()
