"""The model against the outputs of the peers' implementations, and against itself in other ways of calling it."""

import json

import numpy as np
import pytest
import torch

from hf_seqrl.models.trajectory_transformer.legacy import convert_original_checkpoint
from hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer import TrajectoryTransformerModel


@pytest.fixture(scope="module")
def hf_folder(shared_fixture):
    return shared_fixture("trajectory_transformer", "hf_tiny")


@pytest.fixture(scope="module")
def hf_model(hf_folder):
    return TrajectoryTransformerModel.from_pretrained(hf_folder)


@pytest.fixture(scope="module")
def hf_outputs(shared_fixture):
    with np.load(shared_fixture("trajectory_transformer", "hf_tiny.npz")) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def assert_close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


@torch.no_grad()
def test_logits_hidden_states_and_attentions_equal_those_of_transformers_4(hf_model, hf_outputs):
    output = hf_model(
        hf_outputs["trajectories"],
        targets=hf_outputs["targets"],
        attention_mask=torch.ones(3, 41),
        output_hidden_states=True,
        output_attentions=True,
    )
    assert_close(output.logits, hf_outputs["logits"])
    assert_close(output.loss, hf_outputs["loss_mask_ones"])
    assert_close(output.hidden_states[0], hf_outputs["hidden_states_first"])
    assert_close(output.hidden_states[-1], hf_outputs["hidden_states_last"])
    assert_close(output.attentions[0], hf_outputs["attn0"])
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2


@torch.no_grad()
def test_the_mask_weights_the_loss_and_leaves_the_logits_alone(hf_model, hf_outputs):
    output = hf_model(
        hf_outputs["trajectories"], targets=hf_outputs["targets"], attention_mask=hf_outputs["attention_mask"]
    )
    assert_close(output.logits, hf_outputs["logits_masked_call"])
    assert_close(output.loss, hf_outputs["loss_masked"])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 6, 7, 9, 25])
def test_a_sequence_may_end_within_a_transition(hf_model, hf_outputs, length):
    assert_close(hf_model(hf_outputs["trajectories"][:, :length]).logits, hf_outputs[f"logits_len{length}"])


@torch.no_grad()
def test_original_checkpoints_give_the_original_logits_and_losses(shared_fixture):
    with np.load(shared_fixture("trajectory_transformer", "jannerm_tiny.npz")) as arrays:
        expected = dict(arrays)
    sizes = json.loads(str(expected["config"]))
    model = convert_original_checkpoint(
        shared_fixture("trajectory_transformer", "jannerm_tiny_state_dict.pt"), observation_dim=3, n_head=2
    )
    assert {name: getattr(model.config, name) for name in sizes} == sizes
    idx, targets, mask = (torch.from_numpy(expected[name]) for name in ("idx", "targets", "mask"))
    output = model(idx, targets=targets, attention_mask=mask)
    assert_close(output.logits, torch.from_numpy(expected["logits"]))
    assert_close(output.loss, torch.from_numpy(expected["loss_masked"]))
    assert_close(model(idx, targets=targets).loss, torch.from_numpy(expected["loss_mask_ones"]))


@torch.no_grad()
def test_the_loss_may_be_taken_at_any_length_and_without_a_mask(hf_model, hf_outputs):
    trajectories, targets = hf_outputs["trajectories"], hf_outputs["targets"]
    assert_close(hf_model(trajectories[:, :13], targets=targets[:, :13]).loss, hf_outputs["loss_len_2T-1"])
    weights = torch.tensor([1, 1, 5, 5, 1, 1, 1.0]).repeat(6)  # of the targets: a transition from its second token on
    for length in (1, 6, 8, 20):
        output = hf_model(trajectories[:, :length], targets=targets[:, :length])
        entropy = -output.logits.log_softmax(-1).gather(-1, targets[:, :length, None])[..., 0]
        assert_close(output.loss, (entropy * weights[:length]).mean())


@torch.no_grad()
def test_loss_weights_come_from_the_config(hf_folder, hf_outputs):
    model = TrajectoryTransformerModel.from_pretrained(hf_folder, action_weight=1)
    loss = model(hf_outputs["trajectories"], None, hf_outputs["targets"], hf_outputs["attention_mask"]).loss
    assert_close(loss, hf_outputs["loss_unit_weights_masked"])


@torch.no_grad()
@pytest.mark.parametrize("prefix", [9, 14])
def test_a_cached_forward_gives_what_the_whole_sequence_gives(hf_model, hf_outputs, prefix):
    trajectories = hf_outputs["trajectories"]
    cache = hf_model(trajectories[:, :prefix]).cache
    assert_close(cache.layers[0].keys, hf_outputs[f"pkv_prefix{prefix}_layer0_key"])
    logits = hf_model(trajectories[:, prefix : prefix + 1], cache=cache).logits
    assert_close(logits[:, 0], hf_outputs[f"cache_prefix{prefix}_full"])


@torch.no_grad()
@pytest.mark.parametrize("split", range(1, 41))
def test_a_checkpoint_of_transformers_4_is_exact_wherever_the_cache_cuts_the_sequence(hf_model, hf_outputs, split):
    trajectories, targets = hf_outputs["trajectories"], hf_outputs["targets"]
    begin = hf_model(trajectories[:, :split], targets=targets[:, :split], use_cache=True)
    end = hf_model(trajectories[:, split:], targets=targets[:, split:], cache=begin.cache)
    logits = torch.cat([begin.logits, end.logits], dim=1)
    loss = (split * begin.loss + (41 - split) * end.loss) / 41  # the loss is a mean over all tokens
    torch.testing.assert_close(logits, hf_outputs["logits"], atol=2e-5, rtol=0)
    torch.testing.assert_close(loss, hf_outputs["loss_mask_ones"], atol=2e-5, rtol=0)


def test_both_formats_of_transformers_4_load_without_a_warning_about_masks(hf_folder, tmp_path, hf_outputs):
    for name in ("pytorch_model.bin", "model.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text((hf_folder / "config.json").read_text())
        (folder / name).write_bytes((hf_folder / name).read_bytes())
        model, report = TrajectoryTransformerModel.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        with torch.no_grad():
            assert_close(model(hf_outputs["trajectories"]).logits, hf_outputs["logits"])
