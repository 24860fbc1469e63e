"""The discretizer and the model as graphs: exported, compiled, mapped over, on the meta device, and both as one."""

import numpy as np
import pytest
import torch
from torch.export import Dim, export
from torch.utils import _pytree as pytree

from hf_seqrl import TrajectoryDiscretizer, TrajectoryTransformerConfig, TrajectoryTransformerModel

T, BINS, TRANSITIONS = 5, 11, 6


@pytest.fixture(scope="module")
def discretizer():
    transitions = np.random.default_rng(0).normal(size=(400, T)).astype(np.float32)
    return TrajectoryDiscretizer.fit(
        transitions, observation_dim=2, action_dim=1, num_bins=BINS, discrete={2: [0, 1, 2]}
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"observation_dim": 2, "action_dim": 1, "transition_dim": T, "block_size": TRANSITIONS * T - 1}
    config = TrajectoryTransformerConfig(vocab_size=BINS, n_layer=2, n_head=2, n_embd=16, **sizes)
    model = TrajectoryTransformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def transitions(batch, time, seed=1):
    return 2 * torch.randn(batch, time, T, generator=torch.Generator().manual_seed(seed))


class TokenizedModel(torch.nn.Module):
    """Raw transitions `(batch, time, T)` to scores of the token that follows each but the last."""

    def __init__(self, discretizer, model):
        super().__init__()
        self.discretizer, self.model = discretizer, model

    def forward(self, transitions):
        return self.model(self.discretizer(transitions).flatten(1)[:, :-1], use_cache=False).logits


def test_forward_gives_the_tokens_of_encode_and_the_stop_token_for_nan(discretizer):
    raw = transitions(3, 4)
    assert torch.equal(discretizer(raw), discretizer.encode(raw))
    raw[1, 2, 3] = torch.nan
    tokens = discretizer(raw)
    assert (tokens == BINS).nonzero().tolist() == [[1, 2, 3]]
    assert torch.equal(discretizer.decode(tokens).isnan(), raw.isnan())


def test_the_discretizer_exports_and_compiles_for_any_batch(discretizer):
    exported = export(discretizer, (transitions(3, 4),), dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},)).module()
    compiled = torch.compile(discretizer, fullgraph=True, backend="eager", dynamic=True)
    for batch, time in ((2, 3), (7, 9)):
        raw = transitions(batch, time, seed=batch)
        assert torch.equal(exported(raw), discretizer.encode(raw))
        assert torch.equal(compiled(raw), discretizer.encode(raw))


def test_the_discretizer_is_mapped_over(discretizer):
    raw = transitions(3, 4)
    assert torch.equal(torch.vmap(discretizer)(raw), discretizer.encode(raw))
    tokens = discretizer.encode(raw)
    torch.testing.assert_close(torch.vmap(discretizer.decode)(tokens), discretizer.decode(tokens))


def test_the_discretizer_runs_on_meta_and_is_filled_when_it_leaves_it():
    from hf_seqrl import TrajectoryDiscretizerConfig

    with torch.device("meta"):
        discretizer = TrajectoryDiscretizer(TrajectoryDiscretizerConfig(num_bins=4, observation_dim=2, action_dim=1))
        tokens = discretizer(torch.empty(3, T))
    assert tokens.device.type == "meta" and tokens.shape == (3, T)
    discretizer.to_empty(device="cpu").init_weights()
    assert discretizer.edges[0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0] and discretizer.possible.all()
    assert discretizer.values[-1].tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_bins_that_a_checkpoint_lacks_are_filled(discretizer, tmp_path):
    state = {name: buffer for name, buffer in discretizer.state_dict().items() if name != "values"}
    discretizer.save_pretrained(tmp_path, state_dict=state)
    loaded = TrajectoryDiscretizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.edges, discretizer.edges) and torch.equal(loaded.possible, discretizer.possible)
    assert loaded.values.isfinite().all() and (loaded.values[0].diff() > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("strict", [False, True])
def test_the_model_exports_for_any_length_also_below_a_transition(model, strict):
    tokens = torch.randint(BINS + 1, (3, 29), generator=torch.Generator().manual_seed(0))
    shapes = {"trajectories": {0: Dim("batch", max=64), 1: Dim("time", max=29)}, "use_cache": None}
    arguments = {"trajectories": tokens[:, :7].contiguous(), "use_cache": False}
    exported = export(model, (), arguments, dynamic_shapes=shapes, strict=strict).module()
    for batch, time in ((1, 2), (3, 4), (2, 5), (3, 28), (3, 29)):
        part = tokens[:batch, :time].contiguous()
        expected = model(part, use_cache=False).logits
        given = exported(trajectories=part, use_cache=False).logits
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokenizer_and_model_export_as_one_graph(discretizer, model):
    both = TokenizedModel(discretizer, model)
    shapes = ({0: Dim("batch", max=64), 1: Dim("time", max=TRANSITIONS)},)
    exported = export(both, (transitions(3, 4),), dynamic_shapes=shapes)
    assert not any("subgraph" in str(node.target) for node in exported.graph.nodes)
    for batch, time in ((1, 1), (2, TRANSITIONS)):
        raw = transitions(batch, time, seed=batch)
        tokens = discretizer.encode(raw).flatten(1)[:, :-1]
        torch.testing.assert_close(exported.module()(raw), model(tokens).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_outputs_go_through_pytree(model):
    output = model(torch.zeros(1, 5, dtype=torch.long), use_cache=False, output_hidden_states=True)
    leaves, spec = pytree.tree_flatten(output)
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(output) and torch.equal(again.logits, output.logits)
    assert len(again.hidden_states) == 3
