"""The masked loss against torch's own losses on what is present; encoding and decoding are inverse."""

import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer.pretrain.targets import (
    Target,
    as_metadata,
    decode,
    encode,
    first_biases,
    from_metadata,
    learn_targets,
    masked_loss,
)
from neurotransfer.study.targets import TARGETS

SETTINGS = {
    "age": {"kind": "continuous", "weight": 1.0, "loss": "squared"},
    "sex": {"kind": "binary", "weight": 2.0, "class_weights": False},
    "handedness": {"kind": "binary", "weight": 0.5, "class_weights": True},
    "bmi": {"kind": "continuous", "weight": 0.5, "loss": "absolute"},
}


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    values = {"age": generator.uniform(20, 80, 12), "sex": generator.integers(0, 2, 12).astype(float)}
    values["handedness"] = np.array([0.0] * 9 + [1.0] * 3)
    values["bmi"] = generator.normal(26, 4, 12)
    table = pd.DataFrame(values)
    table.loc[::3, "bmi"] = np.nan
    table.loc[1, "age"] = np.nan
    return table


def test_targets_stand_in_the_published_order(table):
    assert [target.name for target in learn_targets(dict(reversed(SETTINGS.items())), table)] == list(TARGETS[:4])


def test_the_loss_is_the_weighted_mean_of_torchs_losses_over_what_is_present(table):
    targets = learn_targets(SETTINGS, table)
    truth, outputs = encode(table, targets), torch.randn(12, 4)
    age, bmi = ~truth[:, 0].isnan(), ~truth[:, 3].isnan()
    expected = (
        torch.nn.functional.mse_loss(outputs[age, 0], truth[age, 0])
        + 2 * torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 1], truth[:, 1])
        + 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(
            outputs[:, 2], truth[:, 2], pos_weight=torch.tensor(3.0)
        )
        + 0.5 * torch.nn.functional.l1_loss(outputs[bmi, 3], truth[bmi, 3])
    )  # fmt: skip
    assert torch.allclose(masked_loss(outputs, truth, targets), expected / (1 + 2 + 0.5 + 0.5))


def test_a_target_that_a_batch_lacks_costs_nothing_and_breaks_nothing(table):
    targets = learn_targets(SETTINGS, table)
    truth = encode(table, targets)
    truth[:, 3] = float("nan")
    outputs = torch.randn(12, 4, requires_grad=True)
    masked_loss(outputs, truth, targets).backward()
    assert (outputs.grad[:, 3] == 0).all()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[:, 1].abs().sum() > 0


def test_losses_of_parts_add_up_to_that_of_the_batch_however_labels_are_spread(table):
    targets = learn_targets(SETTINGS, table)
    truth, outputs = encode(table, targets), torch.randn(12, 4)
    truth[:5, 1] = float("nan")
    known = (~torch.isnan(truth)).sum(0)
    parts = [masked_loss(outputs[part], truth[part], targets, known) for part in np.split(np.arange(12), [3, 4, 9])]
    assert torch.allclose(sum(parts), masked_loss(outputs, truth, targets))


def test_a_batch_without_any_label_has_loss_zero(table):
    targets = learn_targets(SETTINGS, table)
    outputs = torch.randn(5, 4, requires_grad=True)
    loss = masked_loss(outputs, torch.full((5, 4), float("nan")), targets)
    loss.backward()
    assert loss == 0
    assert (outputs.grad == 0).all()


def test_decoding_undoes_encoding(table):
    targets = learn_targets(SETTINGS, table)
    values = decode(encode(table, targets).numpy(), targets)
    assert np.allclose(values[:, 0], table["age"], equal_nan=True, atol=1e-4)
    assert np.allclose(values[:, 3], table["bmi"], equal_nan=True, atol=1e-4)
    assert from_metadata(as_metadata(targets)) == targets


def test_a_target_of_weight_zero_is_left_out(table):
    targets = learn_targets({**SETTINGS, "sex": {**SETTINGS["sex"], "weight": 0}}, table)
    outputs = torch.randn(12, 4)
    outputs[:, 1] = 1e4
    loss = masked_loss(outputs, encode(table, targets), targets)
    outputs[:, 1] = -1e4
    assert masked_loss(outputs, encode(table, targets), targets) == loss


def test_the_head_starts_where_a_constant_costs_least(table):
    """Binary targets' first biases minimise their loss among constants; continuous ones start at the mean."""
    targets = learn_targets(SETTINGS, table)
    truth, biases = encode(table, targets), first_biases(targets)
    for column in (1, 2):
        costs = []
        for shift in (-0.2, 0.0, 0.2):
            outputs = biases.expand(12, 4).clone()
            outputs[:, column] += shift
            costs.append(masked_loss(outputs, truth, targets).item())
        assert costs[1] == min(costs)
    assert decode(biases[None].numpy(), targets)[0, 0] == pytest.approx(table["age"].mean())


def test_a_head_of_bins_predicts_the_mean_of_their_centres():
    """Peng et al.'s age has 40 outputs, between targets that have one each."""
    sex = Target("sex", "binary", 1.0, "logistic", 0.0, 1.0, 1.0)
    age = Target("age", "continuous", 1.0, "squared", 0.0, 1.0, 1.0, (42, 1, 40))
    targets = from_metadata(as_metadata([sex, age, sex]))
    assert [target.outputs for target in targets] == [1, 40, 1]
    outputs = np.random.default_rng(0).normal(size=(5, 42))
    log_shares = torch.log_softmax(torch.tensor(outputs[:, 1:41]), 1)
    wanted = log_shares.exp().numpy() @ np.arange(42.5, 82)
    np.testing.assert_allclose(decode(outputs, targets)[:, 1], wanted)
    np.testing.assert_allclose(decode(outputs, targets)[:, 2], torch.sigmoid(torch.tensor(outputs[:, 41])))
    assert "bins" not in as_metadata([sex])[0]
