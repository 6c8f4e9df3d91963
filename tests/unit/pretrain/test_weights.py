"""A file of weights: what it says of itself, and what is refused."""

import hmac
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from neurotransfer import __version__
from neurotransfer.cache.provenance import made_by
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.network.sfcn import SFCN
from neurotransfer.pretrain.study_key import digests_of, key_id, make_study_key, read_study_key, seen_by, why_unknown
from neurotransfer.pretrain.weight_checks import tensors_of
from neurotransfer.pretrain.weight_file import read_checked, show
from neurotransfer.pretrain.weights import (
    check_head,
    check_made_by,
    check_weights,
    expected_of,
    network_from,
    read_weights,
    write_weights,
)

NETWORK = {"channels": [2, 3], "bottleneck": 4, "pooling": "max"}
TARGET = {"name": "age", "kind": "continuous", "weight": 1.0, "mean": 50.0, "sd": 20.0, "loss": "squared"}
FACTS = {
    "network": NETWORK, "crop": [32, 32, 32], "preprocessing": {"engine": "builtin", "voxel_size": 1.0, "threads": 1},
    "targets": [TARGET | {"positive_weight": 1.0}], "scaling": "none",
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    model = SFCN([2, 3], 4, 1, "max", 0.0)
    write_weights(tmp_path / "w.safetensors", model.state_dict(), FACTS)
    return tmp_path / "w.safetensors", model


def test_what_is_written_is_read(file):
    path, model = file
    state, facts = read_weights(path)
    assert facts | FACTS == facts
    rebuilt = network_from(facts)
    rebuilt.load_state_dict(state)
    x = torch.rand(2, 1, 9, 9, 9)
    assert torch.equal(model.eval()(x), rebuilt.eval()(x))


def expected(**changes):
    given = {**FACTS, "crop_rule": "bounding_box", **changes}
    return expected_of(*(given[name] for name in ("network", "crop", "preprocessing", "crop_rule")))


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"crop": [32, 32, 64]}, r"crop: .* \[32, 32, 32\], this study has \[32, 32, 64\]"),
        ({"network": NETWORK | {"pooling": "average"}}, 'network.pooling: .* "max", this study has "average"'),
        ({"network": NETWORK | {"channels": [2, 4]}}, r"network.channels: .* \[2, 3\], this study has \[2, 4\]"),
        ({"network": NETWORK | {"bottleneck": 5}}, "network.bottleneck: .* 4, this study has 5"),
        ({"preprocessing": {"engine": "builtin", "voxel_size": 2.0}}, "voxel_size: .* 1.0, this study has 2.0"),
        ({"network": NETWORK | {"scaling": "mean"}}, 'scaling: .* "none", this study has "mean".* network.scaling'),
        ({"crop_rule": "pyment"}, 'crop_rule: .* "bounding_box", this study has "pyment"; .* cache.crop_rule, or say'),
    ],
)
def test_a_mismatch_is_refused_with_both_values(file, changes, values):
    _, facts = read_weights(file[0])
    with pytest.raises(InputError, match=values):
        check_weights(facts, expected(**changes), file[0])


def test_another_scaling_or_an_unknown_one_is_refused(file):
    _, facts = read_weights(file[0])
    with pytest.raises(InputError, match=r'scaling: .* "unit", this study has "none"'):
        check_weights(facts | {"scaling": "unit"}, expected(), file[0])
    with pytest.raises(InputError, match=r"scaling: .* null, this study"):
        check_weights({name: fact for name, fact in facts.items() if name != "scaling"}, expected(), file[0])


def test_a_crop_by_another_rule_will_do_if_the_configuration_says_so(file, caplog):
    _, facts = read_weights(file[0])
    check_weights(facts | {"crop_rule": "pyment"}, expected(crop_rule="pyment"), file[0])
    assert not caplog.text
    check_weights(facts | {"crop_rule": "pyment"}, expected(), file[0], accept=True)
    assert '"pyment", this study has "bounding_box", which the configuration accepts' in caplog.text
    with pytest.raises(InputError, match="crop: "):
        check_weights(facts, expected(crop=[32, 32, 64]), file[0], accept=True)


def test_published_weights_state_a_range_of_voxel_sizes(file):
    _, facts = read_weights(file[0])
    facts["preprocessing"]["voxel_size"] = [0.69, 1.03]
    check_weights(facts, expected(preprocessing={"voxel_size": 0.8}), file[0])
    with pytest.raises(InputError, match=r"voxel_size: .* \[0.69, 1.03\], this study has 1.2"):
        check_weights(facts, expected(preprocessing={"voxel_size": 1.2}), file[0])


def test_another_head_is_refused_with_both_lists_unless_the_configuration_accepts_it(file, caplog):
    _, facts = read_weights(file[0])
    check_head(facts, ["age"], file[0])
    with pytest.raises(InputError, match=r"predicts age; this study's targets are age, sex; .*accept_other_head: true"):
        check_head(facts, ["sex", "age"], file[0])
    check_head(facts, ["sex", "age"], file[0], accept=True)
    assert "which the configuration accepts" in caplog.text


def test_matching_weights_pass_whatever_the_threads(file):
    _, facts = read_weights(file[0])
    check_weights(facts, expected(preprocessing={**FACTS["preprocessing"], "threads": 8}), file[0])


def test_the_same_weights_are_the_same_bytes(file, tmp_path):
    path, model = file
    write_weights(tmp_path / "again.safetensors", model.state_dict(), dict(reversed(FACTS.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_tensors_that_are_not_those_of_the_metadata_are_refused(file, tmp_path):
    path, model = file
    write_weights(path, model.state_dict(), FACTS | {"network": NETWORK | {"channels": [2, 4]}})
    with pytest.raises(InputError, match="not those of the network that its metadata describes"):
        read_weights(path)
    write_weights(path, model.state_dict(), {name: fact for name, fact in FACTS.items() if name != "targets"})
    with pytest.raises(InputError, match="no 'targets' in its metadata"):
        read_weights(path)


KEY = b"0123456789abcdef" * 2


def test_weights_know_whom_they_have_seen_without_naming_them(file):
    path, model = file
    write_weights(path, model.state_dict(), FACTS | {"participants": digests_of(["x_01", "x_02", "x_02"], KEY)})
    _, facts = read_weights(path)
    assert seen_by(facts, ["x_02", "x_03"], KEY) == {"x_02"}
    assert why_unknown(facts, KEY) == ""
    written = path.read_bytes()
    assert b"x_02" not in written and KEY not in written and KEY.hex().encode() not in written
    assert f"2 HMAC-SHA256 digests under the study key {key_id(KEY)}" in show(path)


def test_digests_are_hmac_sha256_under_the_key():
    digests = digests_of(["x_01"], KEY)["digests"]
    assert digests == [hmac.new(KEY, b"participant:x_01", "sha256").hexdigest()[:32]]
    assert not set(digests) & set(digests_of(["x_01"], KEY[::-1])["digests"])


def test_without_the_right_key_the_overlap_is_unknown_and_never_none():
    facts = {"participants": digests_of(["x_01"], KEY)}
    assert seen_by(facts, ["x_01"], None) is None and "no study key" in why_unknown(facts, None)
    assert seen_by(facts, ["x_01"], KEY[::-1]) is None and "not the one" in why_unknown(facts, KEY[::-1])
    assert seen_by({}, ["x_01"], KEY) is None and "no digests" in why_unknown({}, KEY)


def test_digests_of_the_older_kind_are_not_used_and_said_to_be_so(file):
    path, model = file
    old = {"participants": {"key": "1234", "digests": ["aabbccddeeff0011"]}}
    write_weights(path, model.state_dict(), FACTS | old)
    _, facts = read_weights(path)
    assert seen_by(facts, ["x_01"], KEY) is None
    assert "older kind" in why_unknown(facts, KEY) and "\n" not in why_unknown(facts, KEY)
    assert "older kind" in show(path) and "1234" not in show(path)


def test_a_study_key_is_made_once_for_its_owner_alone_and_told_without_being_shown(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "config/study.key"
    assert read_study_key(path) is None
    key = make_study_key(path)
    assert len(key) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert make_study_key(path) == read_study_key(path) == key
    assert caplog.text.count("made a study key") == 1 and key.hex() not in caplog.text
    path.chmod(0o604)
    with pytest.raises(InputError, match="everybody on this machine may read the study key; chmod 600"):
        read_study_key(path)
    path.chmod(0o600)
    path.write_text("secret\n")
    with pytest.raises(InputError, match=r"study\.key: it holds no study key") as error:
        make_study_key(path)
    assert "secret" not in str(error.value)


def test_no_study_key_is_ever_committed():
    repository = Path(__file__).resolve().parents[3]
    asked = ["git", "-C", str(repository), "check-ignore", "config/study.key", "config/site.key"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.stdout.split() == ["config/study.key", "config/site.key"]


def test_images_of_another_engine_or_version_are_refused_with_both_sides(file, caplog):
    facts = FACTS | {"images_made_by": [["fastsurfer", "2.4.2"]]}
    check_made_by(facts, [["fastsurfer", "2.4.2"]], "w")
    for made, shown in (
        ([["freesurfer", "7.4.1"]], "freesurfer 7.4.1"),
        ([["fastsurfer", "2.5.0"]], "fastsurfer 2.5.0"),
    ):
        with pytest.raises(
            InputError, match=f"learnt from images of fastsurfer 2.4.2, these images are of {shown}; .*true"
        ):
            check_made_by(facts, [["fastsurfer", "2.4.2"], *made][1:], "w")
        check_made_by(facts, made, "w", accept=True)
    assert caplog.text.count("which the configuration accepts") == 2
    with pytest.raises(InputError, match="engines that their file does not name"):
        check_made_by(FACTS, [["builtin", "1"]], "w")
    path, model = file
    write_weights(path, model.state_dict(), facts)
    assert "images made by: fastsurfer 2.4.2" in show(path)


def test_the_engines_behind_images_are_listed_once_and_in_order():
    images = pd.DataFrame({"engine": ["b", "a", "b", None], "engine_version": ["2", "1", "2", None]})
    assert made_by(images) == [["a", "1"], ["b", "2"], ["unknown", "unknown"]]


def test_damaged_foreign_and_missing_files_get_one_line(file, tmp_path):
    path, _ = file
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[:50])
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    for wrong in (half, text, tmp_path / "none.safetensors"):
        with pytest.raises(InputError) as error:
            read_weights(wrong)
        assert str(wrong) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_person_is_shown_what_weights_are_and_a_damaged_file_is_one_line(file, capsys):
    path, model = file
    write_weights(path, model.state_dict(), FACTS | {"training": {"epochs": 7, "validation_loss": 0.25}})
    main(["weights", "show", str(path)])
    text = capsys.readouterr().out
    words = ["network", '"pooling": "max"', "crop: [32, 32, 32]", 'scaling: "none"', "age: continuous", "builtin"]
    for word in [*words, '"validation_loss": 0.25', f'version: "{__version__}"']:
        assert word in text
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["weights", "show", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and str(path) in told.err


@pytest.mark.parametrize("bins", [None, (0.0, 1.0, 40)])
@pytest.mark.parametrize(("channels", "bottleneck"), [([2], 3), ([2, 3], 4), ([3, 2, 5, 4], 2)])
def test_the_expected_tensors_are_those_of_the_network(channels, bottleneck, bins):
    facts = {"network": {"channels": channels, "bottleneck": bottleneck}, "targets": [{"bins": bins}, {}]}
    state = SFCN(channels, bottleneck, 41 if bins else 2, "max", 0.0).state_dict()
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    assert tensors_of(facts) == {name: (tuple(value.shape), kinds[value.dtype]) for name, value in state.items()}


def test_weights_are_shown_without_torch(file):
    path, model = file
    state, facts = read_checked(path)
    assert facts == read_weights(path)[1] and state.keys() == model.state_dict().keys()
    code = "import sys; from neurotransfer.cli import main; main(['weights', 'show', sys.argv[1]])"
    code += "; print(sorted({'torch', 'pandas', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
