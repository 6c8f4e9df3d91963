"""Published weights in a study, through the rule that takes them instead of pretraining."""

import json

import pytest
import torch
from neurotransfer.exchange.importing import import_weights
from published import published
from runs import REPOSITORY, copy_of, snakemake

CHANNELS = [4, 4, 4, 4, 4, 6]
KEYS = {
    "network": {"channels": CHANNELS[:-1], "bottleneck": CHANNELS[-1], "pooling": "average", "scaling": "mean"},
    "cache": {"crop": [160, 160, 192]},
    "preprocessing": {"voxel_size": 1.0},
}


@pytest.fixture
def study(tmp_path):
    """A study that gives an import of Peng et al.'s shape, with a certificate."""
    study = copy_of(REPOSITORY / ".test", tmp_path / "study")
    torch.save(published(40, channels=CHANNELS).state_dict(), tmp_path / "best.p")
    import_weights(tmp_path / "best.p", "peng-age", study / "peng.safetensors")
    certificate = study / "results/split/certificate.json"
    certificate.parent.mkdir(parents=True, exist_ok=True)
    certificate.write_text(json.dumps({"engines": {"test": [["fastsurfer", "2.5.0"]]}}))
    return study


def test_published_weights_are_adopted_by_the_keys_for_what_differs_and_the_log_says_what(study):
    accepted = {"accept_other_preprocessing": True, "accept_other_head": True}
    own = KEYS | {"pretrain": {"weights": str(study / "peng.safetensors"), **accepted}}
    (study / "own.yaml").write_text(json.dumps(own))
    overlays = [REPOSITORY / "config/demo.yaml", study / "config.yaml", study / "own.yaml"]
    target = "results/pretrain/given/weights.safetensors"
    done = snakemake(study, target, "--cores", "1", "--allowed-rules", "adopt", overlays=overlays)
    assert done.returncode == 0, done.stdout
    for difference in (
        'crop_rule: the weights were made with "centre of MNI152", this study has "bounding_box", which the',
        "the head of the weights predicts age; this study's targets are age, bmi, fluid_intelligence, handedness",
        "of fsl UK Biobank, linear to MNI152, these images are of fastsurfer 2.5.0, which the configuration accepts",
        "the participants in its training are unknown",
        "unchecked: nothing has shown that it predicts what was published",
    ):
        assert difference in done.stdout
    given = study / "results/pretrain/given/weights.safetensors"
    assert given.read_bytes() == (study / "peng.safetensors").read_bytes()
