"""What a pretraining job reads and says of its weights, from the tables of a small study."""

import planted
import pytest
import torch
from neurotransfer.errors import InputError
from neurotransfer.pretrain import job
from neurotransfer.pretrain.targets import learn_targets


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    return folder, planted.plant(folder)


def test_training_rows_follow_the_split_and_refuse_a_participant_on_two_sides(study):
    table = study[1]
    split = table[["image_id"]].assign(role=["train"] * 30 + ["validation"] * 8 + ["test"] * 10)
    train, validation = job.training_rows(table, split)
    assert (len(train), len(validation)) == (30, 8)
    assert not set(train["image_id"]) & set(validation["image_id"])
    with pytest.raises(InputError, match="1 participant is on two sides"):
        job.training_rows(table.assign(participant_id=table["participant_id"].replace("x_31", "x_01")), split)
    with pytest.raises(InputError, match="no image is for validation"):
        job.training_rows(table, split.replace("validation", "train"))


def test_weights_say_what_they_were_made_with_and_from_whom(study, tmp_path):
    tables, network = planted.sides(study[1]), planted.NETWORK | {"scaling": "mean"}
    trained = planted.pretrained(*study, tmp_path, torch.device("cpu"), epochs=2)
    preprocessing = {"engine": "builtin", "voxel_size": 1.0, "grid": [12, 12, 12], "threads": 3}
    facts = job.metadata_of(
        trained, tables, learn_targets(planted.TARGETS, tables[0]), network=network, crop=[12, 12, 12],
        preprocessing=preprocessing, key=b"k" * 32, crop_rule="pyment",
    )  # fmt: skip
    assert (facts["network"], facts["scaling"], facts["crop_rule"]) == (planted.NETWORK, "mean", "pyment")
    assert facts["preprocessing"] == {"engine": "builtin", "voxel_size": 1.0, "grid": [12, 12, 12]}
    assert facts["training"]["participants"] == 36
    assert facts["training"]["validation_loss"] == trained.history["validation_loss"].min()
    assert facts["targets"][0]["mean"] == pytest.approx(tables[0]["age"].mean())
    assert len(facts["participants"]["digests"]) == 48
    assert facts["images_made_by"] == [["builtin", "1"]]
    assert job.participants_of(tables)["role"].value_counts().to_dict() == {"train": 36, "validation": 12}
