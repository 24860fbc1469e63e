"""The cache's two names, `cache` and (before transformers 5.24) `past_key_values`, mean the same with every transformers 5."""

import copy
import warnings

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_seqrl import (
    Agent,
    TrajectorySeq2SeqConfig,
    TrajectorySeq2SeqModel,
    TrajectoryTransformerConfig,
    TrajectoryTransformerModel,
    collect,
    rollout,
)
from hf_seqrl.models.caching import cache_keyword, cache_of, chosen_cache
from hf_seqrl.models.trajectory_seq2seq.training import TrajectorySeq2SeqOptions, prepare


def trajectory_transformer():
    sizes = {"transition_dim": 6, "observation_dim": 3, "action_dim": 1, "n_embd": 16, "n_layer": 1, "n_head": 1}
    return TrajectoryTransformerModel(TrajectoryTransformerConfig(**sizes)).eval()


def transformer_steps():
    """A model, its input for a prefix, and its input for what follows."""
    tokens = torch.arange(12)[None]
    return trajectory_transformer(), {"trajectories": tokens[:, :7]}, {"trajectories": tokens[:, 7:]}


def seq2seq_steps(backbone):
    model = TrajectorySeq2SeqModel(TrajectorySeq2SeqConfig(backbone=backbone, hidden_size=16)).eval()
    encoded = model.encode(torch.tensor([[0, 2, 1]]), torch.tensor([[1, 1]]))
    steps = [
        {"encoder_outputs": encoded, "decoder_input_ids": ids} for ids in (torch.tensor([[5, 0]]), torch.tensor([[1]]))
    ]
    return model, *steps


@pytest.fixture(params=["trajectory_transformer", "gru", "transformer"])
def steps(request):
    torch.manual_seed(0)
    return transformer_steps() if request.param == "trajectory_transformer" else seq2seq_steps(request.param)


@torch.no_grad()
def test_a_forward_pass_takes_the_cache_under_either_keyword(steps):
    model, first, second = steps
    cache = model(**first, use_cache=True).cache
    new = model(**second, cache=copy.deepcopy(cache)).logits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old = model(**second, past_key_values=copy.deepcopy(cache)).logits
    told = any("`past_key_values` is deprecated" in str(one.message) for one in caught)
    assert told == (cache_keyword() == "cache")  # not where transformers itself passes the old name
    torch.testing.assert_close(old, new, rtol=0, atol=0)
    assert not torch.equal(model(**second, use_cache=False).logits, new)  # the cache matters


@torch.no_grad()
def test_an_output_shows_the_cache_under_either_name(steps):
    model, first, _ = steps
    output = model(**first, use_cache=True)
    assert output.cache is not None
    for seen in (output.past_key_values, output["past_key_values"], output["cache"], output.get("past_key_values")):
        assert seen is output.cache
    assert "past_key_values" in output and "cache" in output
    assert list(output)[:2] == ["logits", "cache"] and output[1] is output.cache


@torch.no_grad()
def test_an_output_without_a_cache_has_it_under_no_name(steps):
    model, first, _ = steps
    output = model(**first, use_cache=False)
    assert output.cache is None and output.past_key_values is None and output.get("past_key_values") is None
    assert "past_key_values" not in output and "cache" not in output
    with pytest.raises(KeyError):
        output["past_key_values"]


@torch.no_grad()
def test_both_keywords_at_once_are_refused(steps):
    model, first, second = steps
    cache = model(**first, use_cache=True).cache
    with pytest.raises(ValueError, match="pass cache alone"):
        model(**second, cache=cache, past_key_values=cache)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_the_cache_is_chosen_by_presence_and_not_by_truth():
    empty = []
    assert chosen_cache(empty, None) is empty and chosen_cache(None, empty) is empty
    assert chosen_cache(None, None) is None


@torch.no_grad()
def test_the_cache_of_an_output_of_transformers_own_is_found():
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=5, n_positions=8)).eval()
    assert cache_of(model(torch.tensor([[0, 1, 2]]), use_cache=True)).get_seq_length() == 3


def test_an_encoder_decoder_acts():
    ready = prepare(collect("random", "CartPole-v1", num_episodes=5, seed=0), TrajectorySeq2SeqOptions())
    returns = rollout(Agent(ready.model, ready.processor), "CartPole-v1", 2).returns
    assert len(returns) == 2 and min(returns) >= 8  # no policy drops the pole sooner


def test_a_forward_pass_gives_logits():
    assert trajectory_transformer()(torch.zeros(1, 12, dtype=torch.long)).logits.shape == (1, 12, 101)
