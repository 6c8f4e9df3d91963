"""An import passes if it predicts what was published, is recorded then, and stays unchecked otherwise."""

import csv

import nibabel
import numpy as np
import pytest
import torch
from neurotransfer.cache.write import cropped_brain
from neurotransfer.cli import main
from neurotransfer.errors import InputError
from neurotransfer.exchange.importing import import_weights
from neurotransfer.exchange.known_answers import check_weights_file
from neurotransfer.pretrain.weights import read_weights
from published import published

LAS = np.diag([-1.0, 1.0, 1.0, 1.0])
LIA = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
CROP = [16, 16, 32]
NAMES = {f"feature_extractor.conv_{at}.{part}": f"blocks.{at}.{name}"
         for at in range(2) for part, name in ((0, "conv"), (1, "norm"))} | {
    "feature_extractor.conv_2.0": "bottleneck", "feature_extractor.conv_2.1": "norm", "classifier.conv_3": "head",
}  # fmt: skip


@pytest.fixture
def case(tmp_path):
    """An imported network, images in the ways that they may lie there, and its own predictions of them as a table."""
    network = published(1, channels=[3, 4, 5])
    torch.save(network.state_dict(), tmp_path / "w.pt")
    lines = [f"epsilon: 1.0e-5\npooling: average\ncrop: {CROP}\ncrop_rule: pyment\naxes: LAS", "names:"]
    lines += [f"  {theirs}: {ours}" for theirs, ours in NAMES.items()]
    lines += ["targets: [{name: age, kind: continuous, mean: 40, sd: 0.01}]"]
    (tmp_path / "mapping.yaml").write_text("\n".join(lines))
    import_weights(tmp_path / "w.pt", "mapping", tmp_path / "w.safetensors", tmp_path / "mapping.yaml")
    generator = np.random.default_rng(0)
    images = {name: generator.integers(0, 80 * at, CROP).astype(np.float32) for at, name in enumerate("abc", 1)}
    crops = tmp_path / "crops"
    (crops / "a/mri").mkdir(parents=True)
    (crops / "c/mri").mkdir(parents=True)
    nibabel.save(nibabel.MGHImage(images["a"], LIA), crops / "a/mri/crop.mgz")
    nibabel.save(nibabel.Nifti1Image(in_las(images["b"]), LAS), crops / "b.nii.gz")
    mask = np.zeros((24, 24, 40), np.uint8)
    mask[0:13, 6:19, 8:27] = 1
    orig = generator.integers(0, 256, mask.shape).astype(np.uint8)
    nibabel.save(nibabel.MGHImage(orig, LIA), crops / "c/mri/orig.mgz")
    nibabel.save(nibabel.MGHImage(mask, LIA), crops / "c/mri/mask.mgz")
    images["c"] = cropped_brain(orig, mask > 0, CROP, "pyment").astype(np.float32)
    with torch.no_grad():
        ages = {
            name: float(network(torch.tensor(in_las(image))[None, None])[0, 0] * 0.01 + 40)
            for name, image in images.items()
        }
    assert np.ptp(list(ages.values())) > 0.1
    write_table(tmp_path / "expected.csv", "multi-2025", ages | {"absent": 50.0})
    return tmp_path, ages


def in_las(image):
    """An image in LIA order as its authors read it."""
    return np.ascontiguousarray(np.flip(image, 1).transpose(0, 2, 1))


def write_table(path, column, values, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["id", column], *values.items()])


def check(folder, *more, expected="expected.csv"):
    paths = [folder / "w.safetensors", "--crops", folder / "crops", "--expected", folder / expected]
    return main(["weights", "check", *map(str, paths), "--threads", "1", *more])


def test_a_file_that_predicts_what_was_published_passes_and_says_so(case, capsys):
    folder, _ = case
    before, facts = read_weights(folder / "w.safetensors")
    assert facts["known_answers"] == {"state": "unchecked"}
    assert check(folder, "--column", "multi-2025") == 0
    printed = capsys.readouterr().out
    assert "3 predictions of 3 images" in printed and "passed, and recorded in the file" in printed
    assert "1 image of the table is not in the folder, such as absent" in printed
    after, facts = read_weights(folder / "w.safetensors")
    record = facts["known_answers"]
    assert (record["state"], record["images"], record["tolerance"]) == ("passed", 3, 0.001)
    assert record["largest_difference"] < 1e-4
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_a_wrong_answer_does_not_pass_and_changes_nothing(case, capsys):
    folder, ages = case
    before = (folder / "w.safetensors").read_bytes()
    write_table(folder / "expected.tsv", "age", ages | {"b": ages["b"] + 0.002}, "\t")
    assert check(folder, expected="expected.tsv") == 1
    assert "largest difference 0.002, tolerance 0.001: not passed" in capsys.readouterr().out
    assert (folder / "w.safetensors").read_bytes() == before
    assert check(folder, "--tolerance", "0.01", expected="expected.tsv") == 0


def test_published_weights_name_the_column_of_their_published_predictions(case):
    """The column is in the metadata of a known kind; here it is missing, so it must be named."""
    folder, _ = case
    with pytest.raises(InputError, match=r"none of its columns multi-2025 is one of age; .*--column NAME"):
        check_weights_file(folder / "w.safetensors", folder / "crops", folder / "expected.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1.0, "x": 2.0}, "1 of the 2 images of .* are in it; a check needs 3"),
        ({"a": "old", "b": 1.0, "c": 1.0}, "line 2: the prediction of age is no number"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "p/a": 1.0}, "line 5: a is there twice"),
    ],
)
def test_tables_that_prove_nothing_are_refused(case, rows, message):
    folder, _ = case
    write_table(folder / "expected.csv", "age", rows)
    with pytest.raises(InputError, match=message):
        check_weights_file(folder / "w.safetensors", folder / "crops", folder / "expected.csv")


@pytest.mark.parametrize("broken", ["shape", "bytes"])
def test_an_image_of_another_size_or_a_damaged_one_is_refused_in_one_line(case, broken):
    folder, _ = case
    path = folder / "crops/b.nii.gz"
    if broken == "shape":
        nibabel.save(nibabel.Nifti1Image(np.zeros((16, 32, 20), np.float32), LAS), path)
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"b\.nii\.gz: it ") as refused:
        check_weights_file(folder / "w.safetensors", folder / "crops", folder / "expected.csv", column="multi-2025")
    assert "\n" not in str(refused.value)
