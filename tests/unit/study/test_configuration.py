"""Configurations merge as Snakemake merges them, and every mistake is one line that has the place and the fix."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from neurotransfer.errors import InputError
from neurotransfer.study.configuration import check_config, load_config, merge
from neurotransfer.study.documents import read_document
from snakemake.utils import update_config, validate

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMAS = REPOSITORY / "workflow/schemas"
BASE = REPOSITORY / "config/config.yaml"

values = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
documents = st.recursive(
    st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), values | inner, max_size=3),
    max_leaves=8,
)


def mistakes_of(tmp_path, text, name="my.yaml"):
    """The lines that an overlay with this text is answered with; none where it is right."""
    overlay = tmp_path / name
    overlay.write_text(text)
    config = load_config(REPOSITORY, [overlay])
    try:
        check_config(config, SCHEMAS, [overlay, str(BASE)])  # the order in which Snakemake names them
    except InputError as error:
        return str(error).splitlines()
    return []


@settings(max_examples=100, deadline=None)
@given(documents, documents)
def test_groups_merge_as_snakemake_merges_them(below, above):
    expected = copy.deepcopy(below)
    update_config(expected, above)
    merged = copy.deepcopy(below)
    merge(merged, above)
    assert merged == expected
    assert list(merged) == list(expected)


def test_overlays_apply_as_in_a_run_of_snakemake(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.json"
    first.write_text("seed: 1\ntasks: {ad_hc: null, mine: {title: T, positive: [P], negative: [N], seed: 0}}\n")
    second.write_text('{"seed": 2, "resampling": {"n": [50]}}')
    # as snakemake.workflow does it: the overlays, the workflow's own file, the overlays again
    expected = {}
    for path in (first, second, BASE, first, second):
        update_config(expected, yaml.safe_load(path.read_text()))
    config = load_config(REPOSITORY, [first, second])
    assert config == expected
    assert list(config["tasks"]) == list(expected["tasks"])
    assert config["tasks"]["ad_hc"] is None and config["resampling"]["n"] == [50] and config["seed"] == 2


def test_the_papers_study_and_the_demo_are_right(tmp_path, monkeypatch):
    check_config(load_config(REPOSITORY), SCHEMAS, [BASE])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.tsv").write_text("image_id\n")
    demo = REPOSITORY / "config/demo.yaml"
    check_config(load_config(REPOSITORY, [demo]), SCHEMAS, [BASE, demo])


def test_the_overlay_for_a_laptop_needs_no_gpu_and_no_other_program():
    laptop = REPOSITORY / "config/laptop.yaml"
    config = load_config(REPOSITORY, [laptop])
    check_config(config, SCHEMAS, [BASE, laptop])
    assert config["preprocessing"]["engine"] == "builtin"
    assert config["pretrain"]["gpus"] == config["models"]["cnn"]["gpus"] == 0


def test_the_papers_study_has_its_numbers():
    config = load_config(REPOSITORY)
    assert config["resampling"]["n"] == [100, 200, 300, 400, 500] and config["resampling"]["replicates"] == 100
    assert all(len(config["models"][model]["settings"]) == 9 for model in ("linear", "baseline", "transfer"))


def test_snakemakes_own_validation_agrees_and_changes_nothing():
    config = load_config(REPOSITORY)
    before = copy.deepcopy(config)
    validate(config, str(SCHEMAS / "config.schema.yaml"))
    assert config == before


def schemas_within(schema, path="$"):
    if isinstance(schema, dict):
        if "properties" in schema or "patternProperties" in schema or schema.get("type") == "object":
            yield path, schema
        for key, inner in schema.items():
            yield from schemas_within(inner, f"{path}.{key}")


@pytest.mark.parametrize("name", ["config", "cohorts"])
def test_every_key_is_described_and_no_other_is_let_in(name):
    schema = read_document(SCHEMAS / f"{name}.schema.yaml")
    Draft202012Validator.check_schema(schema)
    groups = list(schemas_within(schema))
    assert groups
    for path, group in groups:
        assert group.get("additionalProperties") is False, path
        for key, inner in {**group.get("properties", {}), **group.get("patternProperties", {})}.items():
            assert len(inner.get("description", "")) > 5, f"{path}.{key}"


WRONG = {
    "seeds: 3": ["my.yaml: seeds:", "did you mean 'seed'?"],
    "models: {cnn: {epoch: 3}}": ["my.yaml: models.cnn.epoch:", "did you mean 'epochs'?"],
    "split: {quux: 1}": ["split.quux", "here there are: validation_share, healthy, age_band"],
    "models: {baseline: {settings: [{learning_rate: 0.1, weight_decay: 0, dropout: 0, freeze: [0, 6]}]}}": [
        "models.baseline.settings[0].freeze",
        "the network has 5 blocks",
        "write at most 5, or trunk",
    ],
    "models: {baseline: {settings: [{learning_rate: 0.1, weight_decay: 0, dropout: [0, 1]}]}}": [
        "models.baseline.settings[0].dropout[1]",
        "less than 1",
    ],
    "pretrain: {checkpoint_minutes: 0}": ["pretrain.checkpoint_minutes", "more than 0"],
    "seed: abc": ["my.yaml: seed:", 'it is "abc" but must be a whole number', "write a number"],
    'seed: "7"': ["seed", "write 7, without quotes"],
    "seed: true": ["seed", "it is true but must be a whole number"],
    "pretrain: {learning_rate: 1e-3}": ["pretrain.learning_rate", 'it is "1e-3"', "write 0.001, without quotes"],
    "pretrain: {learning_rate: .nan}": ["pretrain.learning_rate", "must be a number"],
    "resampling: {replicates: 100.0}": ["resampling.replicates", "must be a whole number", "write 100"],
    "resampling: {replicates: 0}": ["resampling.replicates", "at least 1"],
    "resampling: {validation_share: 1.0}": ["resampling.validation_share", "less than 1"],
    "resampling: {test_share: 0}": ["resampling.test_share", "more than 0"],
    "resampling: {n: 100}": ["resampling.n", "must be a list"],
    "resampling: {n: [100, 100]}": ["resampling.n", "an entry twice"],
    "resampling: {n: [10]}": ["resampling.n[0]", "a set of 2 (validation_share), too few for 2 of each class"],
    "statistics: {alpha: 1}": ["statistics.alpha", "less than 1"],
    "statistics: {statistic: men}": ["statistics.statistic", "did you mean 'mean'?"],
    "cache: {crop: [16, 192, 192]}": ["cache.crop[0]", "at least 32"],
    "cache: {crop: [192, 192]}": ["cache.crop", "it has 2 entries", "give 3"],
    "cache: {crop: [32, 40, 32]}\nnetwork: {channels: [4, 4, 4, 4, 4, 4]}": ["cache.crop", "at least 64"],
    "models: {linear: {settings: []}}": ["models.linear.settings", "0 entries", "at least 1"],
    "models: {transfer: {settings: [{learning_rate: 0.1, weight_decay: 0}]}}": ["settings[0].dropout", "missing"],
    "tasks: {holdout: null}": ["tasks.holdout", "this name is not allowed"],
    "tasks: {ad-hc: null}": ["tasks.ad-hc", "this name is not allowed"],
    "tasks: {ad_hc: {positive: [HC]}}": ["tasks.ad_hc", "'HC' is in positive and in negative"],
    "tasks: {ad_hc: {negative: []}}": ["tasks.ad_hc.negative", "give at least 1"],
    "tasks: {ad_hc: null, scz_bd: null}": ["tasks", "every task is null"],
    "tasks: {mine: {title: T, positive: [A], negative: [B]}}": [
        *("my.yaml: tasks.mine.seed", "this key is missing; add seed: 0 (The start of the random draws of this task's"),
    ],
    "tasks: {mine: {title: T, positive: [A], seed: 1}}": ["add negative (Diagnoses of the negative class)"],
    "tasks: {1: null}": ["tasks.1", "YAML reads this key as int", "put it in quotes"],
    "models: {cnn: {validation_fraction: 0,4}}": ["YAML reads this key as int", "a decimal number has a point, as 0.4"],
    "targets: {height: {kind: continuous}}": ["targets.height", "here there are: age, sex"],
    "targets: {age: {kind: binary}}": ["targets.age.kind", "write 'continuous'"],
    "targets: {age: {loss: null}}": ["targets.age.loss", "it is null"],
    "pretrain: null": ["pretrain", "it is null but must be a group of keys"],
    "pretrain: {weights: nowhere.safetensors}": ["pretrain.weights", "there is no file nowhere.safetensors"],
    "preprocessing: {engine: fastsurfr}": ["preprocessing.engine", '"fastsurfr"', "'builtin'"],
    "resampling: {replicates: 10000000}": ["resampling.replicates", "at most 10000"],
    "resampling: {n: [1000000000]}": ["resampling.n[0]", "at most 100000"],
    "resampling: {replicates: 10000, n: [100, 200, 300, 400, 500, 600]}": ["120,000 resamples", "at most 100,000"],
    f"models: {{linear: {{settings: [{{c: {[at + 1 for at in range(600)]}, penalty: [l1, l2]}}]}}}}": [
        "models.linear.settings[0]: with this grid a fit tries 1,200 settings",
        "at most 1,000",
    ],
    "preprocessing: {grid: [1000000, 256, 256]}": ["preprocessing.grid[0]", "at most 1024"],
    "split: {age_band: 1.0e-300}": ["split.age_band", "at least 0.1"],
    "seed: " + "9" * 400: ["seed", "must be a whole number", "write a smaller number"],
    "pretrain: {learning_rate: " + "9" * 400 + "}": ["pretrain.learning_rate", "write a smaller number"],
    "cohorts: 'config/{x}.tsv'": ["cohorts", "with a brace or a control character"],
    'withdrawn: "a\\n"': ["withdrawn", "with a brace or a control character"],
    "models: {features: {mine: '{x}.tsv'}}": ["models.features.mine", "with a brace"],
    "study: " + "x" * 300: ["study", "it has 300 characters", "write at most 200"],
    "resampling: {n: [{2020-01-01: 1}]}": ["resampling.n[0].2020-01-01", "YAML reads this key as date"],
    "manifest: {converters: by_sesion}": ["manifest.converters", "did you mean 'by_session'?"],
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_one_line_with_its_file_its_key_and_the_fix(tmp_path, text):
    lines = mistakes_of(tmp_path, text)
    assert len(lines) == 1, lines
    assert str(tmp_path / "my.yaml") in lines[0] and ";" in lines[0]
    for part in WRONG[text]:
        assert part in lines[0]


def test_a_study_of_ones_own_is_right(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    text = f"""
pretrain: {{weights: {weights}, patience: 5}}
tasks: {{ad_hc: null, mine_2: {{title: Mine, positive: [P], negative: [N, M], seed: 3}}}}
models:
  linear: {{settings: [{{c: [0.1, 10.0]}}]}}
  transfer: {{settings: [{{learning_rate: [0.1, 0.2], weight_decay: 0, dropout: 0, freeze: [0, 5, trunk]}}]}}
"""
    assert mistakes_of(tmp_path, text) == []


def test_several_mistakes_are_all_told_at_once(tmp_path):
    lines = mistakes_of(tmp_path, "seed: x\nstudi: y\ncache: {crop: 3}\n")
    assert len(lines) == 3


def test_thousands_of_mistakes_are_cut(tmp_path):
    lines = mistakes_of(tmp_path, "\n".join(f"key{at}: 1" for at in range(4_000)))
    assert len(lines) == 21 and "it has more mistakes than these" in lines[-1]


def test_the_file_that_holds_the_mistake_is_named(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("resampling: {replicates: 5}\n")
    bad.write_text("resampling: {replicates: none}\n")
    with pytest.raises(InputError, match=r"bad\.yaml: resampling.replicates"):
        check_config(load_config(REPOSITORY, [good, bad]), SCHEMAS, [BASE, good, bad])
    check_config(load_config(REPOSITORY, [bad, good]), SCHEMAS, [BASE, bad, good])  # the last one wins


def test_a_value_of_the_command_line_is_named_so():
    config = load_config(REPOSITORY)
    config["seed"] = "abc"
    with pytest.raises(InputError, match=r"^--config: seed: it is"):
        check_config(config, SCHEMAS, [BASE])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"seed: [1\n", "it is not YAML"),
        (b"- 1\n", "no keys at its top level"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (None, "there is no such configuration file"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, content, part):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=part) as caught:
        load_config(REPOSITORY, [path])
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_folder_in_place_of_a_configuration_file_is_named_as_one(tmp_path):
    with pytest.raises(InputError, match="it is a folder; give a file in its place"):
        load_config(REPOSITORY, [tmp_path])


def test_checking_leaves_the_configuration_alone():
    config = load_config(REPOSITORY)
    before = copy.deepcopy(config)
    check_config(config, SCHEMAS, [BASE])
    assert config == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nstudy: a\nseed: 2\n", "line 3: the key 'seed' stands here and in line 1; keep one of them"),
        ("pretrain:\n  epochs: 1\n  epochs: 1\n", "line 3: the key 'epochs' stands here and in line 2"),
        ("a: [{x: 1}, {x: 1,\n x: 2}]\n", "line 2: the key 'x'"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text, said):
    """YAML keeps the last one and says nothing."""
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_document(tmp_path / "my.yaml")
    assert said in str(caught.value)


def test_anchors_and_merges_are_no_repetition(tmp_path):
    (tmp_path / "my.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_document(tmp_path / "my.yaml")["b"] == {"x": 1, "y": 2}


def test_further_arms_need_a_name_of_their_own_and_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.tsv").write_text("image_id\tf\n")
    assert not mistakes_of(tmp_path, "models: {frozen: blocks, features: {brainiac: f.tsv}}")
    for name in ("linear", "frozen", "person", "count", "fit"):
        assert "this name is taken" in mistakes_of(tmp_path, f"models: {{features: {{{name}: f.tsv}}}}")[0]
    assert "there is no file g.tsv" in mistakes_of(tmp_path, "models: {features: {brainiac: g.tsv}}")[0]
    assert "this name is not allowed" in mistakes_of(tmp_path, "models: {features: {../x: f.tsv}}")[0]
    assert "write 'None' or 'trunk' or 'blocks'" in mistakes_of(tmp_path, "models: {frozen: true}")[0]
