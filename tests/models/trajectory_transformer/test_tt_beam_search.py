"""Plans against the original's outputs and against a planner that encodes every window anew."""

import itertools

import numpy as np
import pytest
import reference_planner
import torch

from hf_seqrl import (
    BeamPlanner,
    TrajectoryDiscretizer,
    TrajectoryDiscretizerConfig,
    TrajectoryTransformerConfig,
    TrajectoryTransformerModel,
)
from hf_seqrl.models.trajectory_transformer import beam_search
from hf_seqrl.models.trajectory_transformer.legacy import convert_original_checkpoint

T, OBSERVATION = 7, 3
SMALL = {"horizon": 3, "beam_width": 4, "n_expand": 2}
GREEDY = {"k_act": 1, "cdf_act": None}


def random_model(seed=0, num_bins=9, transitions=8):
    torch.manual_seed(seed)
    config = TrajectoryTransformerConfig(
        vocab_size=num_bins,
        observation_dim=3,
        action_dim=2,
        transition_dim=T,
        block_size=transitions * T - 1,
        n_layer=2,
        n_head=2,
        n_embd=16,
    )
    model = TrajectoryTransformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # positions and biases are zero at first
    return model


def random_discretizer(num_bins=9):
    transitions = np.random.default_rng(0).normal(size=(500, T)).astype(np.float32)
    return TrajectoryDiscretizer.fit(transitions, observation_dim=3, action_dim=2, num_bins=num_bins)


def history(transitions, seed=0, num_bins=9):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_bins, (transitions * T + OBSERVATION,), generator=generator)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def discretizer():
    return random_discretizer()


@pytest.fixture
def actions_by_context(monkeypatch):
    """Actions that differ between candidates, as draws do, but depend on the candidate's tokens and place alone."""

    def pick(scores, tokens, place):
        order = scores.argsort(-1, descending=True)
        rank = (tokens[:, -9:].sum(1) + place) % 4
        return order.gather(1, rank[:, None])[:, 0]

    state = {}
    observe = beam_search.BeamPlanner._scores

    def remember_tokens(self, beams):
        state["beams"] = beams
        return observe(self, beams)

    def choose(scores, generators, k=None, cdf=None):
        tokens = state["beams"].tokens
        if k == 1:
            return scores.argmax(-1)
        return pick(scores, tokens.repeat_interleave(len(scores) // len(tokens), 0), torch.arange(len(scores)))

    monkeypatch.setattr(beam_search.BeamPlanner, "_scores", remember_tokens)
    monkeypatch.setattr(beam_search, "choose_tokens", choose)
    return lambda scores, tokens: pick(scores, tokens, torch.arange(len(scores)))


@pytest.mark.parametrize(
    ("context", "options"),
    [
        ("None", {"crop": False, "max_context_transitions": 2}),
        ("5", {"max_context_transitions": 5}),
        ("3", {"max_context_transitions": 3}),
    ],
)
def test_greedy_plans_equal_the_original(shared_fixture, context, options):
    peer = np.load(shared_fixture("trajectory_transformer", "jannerm_beam_plan.npz"))
    checkpoint = shared_fixture("trajectory_transformer", "jannerm_tiny_state_dict.pt")
    model = convert_original_checkpoint(checkpoint, observation_dim=3, n_head=2)
    discretizer = TrajectoryDiscretizer(TrajectoryDiscretizerConfig(num_bins=20, observation_dim=3, action_dim=2))
    discretizer.edges.copy_(torch.from_numpy(peer["discretizer_thresholds"].T))
    discretizer.values.copy_((discretizer.edges[:, 1:] + discretizer.edges[:, :-1]) / 2)
    planner = BeamPlanner(model, discretizer, horizon=3, beam_width=8, n_expand=2, **GREEDY, **options)
    plan = planner.plan([torch.from_numpy(peer["prefix"][0])])
    assert np.array_equal(plan.tokens[0], peer[f"greedy_ctx{context}_best"])


@pytest.mark.parametrize("transitions", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("options", [{"max_context_transitions": 3}, {"crop": False, "max_context_transitions": 5}])
def test_plans_equal_those_of_a_planner_that_encodes_everything_anew(
    model, discretizer, actions_by_context, transitions, options
):
    tokens = history(transitions)
    planner = BeamPlanner(model, discretizer, **SMALL, **options)
    kept = min(transitions, options["max_context_transitions"])
    window = 8 if "crop" in options else 3
    best, score, _ = reference_planner.plan(
        model, discretizer, tokens[(transitions - kept) * T :], window, actions_by_context, **SMALL
    )
    plan = planner.plan([tokens])
    assert torch.equal(plan.tokens[0], best)
    torch.testing.assert_close(plan.scores[0], score, rtol=1e-4, atol=1e-4)


def test_a_long_plan_slides_past_its_own_beginning(model, discretizer, actions_by_context):
    sizes = {"horizon": 7, "beam_width": 3, "n_expand": 2}
    planner = BeamPlanner(model, discretizer, max_context_transitions=2, **sizes)
    best, _, _ = reference_planner.plan(model, discretizer, history(1), 2, actions_by_context, **sizes)
    assert torch.equal(planner.plan([history(1)]).tokens[0], best)


@pytest.mark.parametrize(
    "options", [{}, {"crop": False}, {"objective": "likelihood"}, {"environments_at_once": 1}, {"k_act": 1}]
)
def test_environments_do_not_influence_each_other(model, discretizer, options):
    planner = BeamPlanner(model, discretizer, **SMALL, max_context_transitions=4, cdf_obs=0.2, k_obs=None, **options)
    histories = [history(n, seed=i) for i, n in enumerate((0, 4, 2, 4, 1, 6))]
    together = planner.plan(histories, seeds=range(10, 16))
    for index, own in enumerate(histories):
        alone = planner.plan([own], seeds=[10 + index])
        assert torch.equal(alone.tokens[0], together.tokens[index])
        assert torch.equal(alone.scores[0], together.scores[index])  # to the last bit


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(model, discretizer):
    planner = BeamPlanner(model, discretizer, **SMALL, cdf_act=None)
    plans = [planner.plan([history(2)], seeds=[seed]).tokens for seed in (3, 3, 4)]
    assert torch.equal(plans[0], plans[1]) and not torch.equal(plans[0], plans[2])


def test_value_tokens_of_the_history_do_not_matter(model, discretizer):
    planner = BeamPlanner(model, discretizer, **SMALL)
    other = history(3)
    other[T - 1 :: T] = (other[T - 1 :: T] + 4) % 9
    plans = [planner.plan([tokens], seeds=[0]) for tokens in (history(3), other)]
    assert torch.equal(plans[0].tokens, plans[1].tokens) and torch.equal(plans[0].scores, plans[1].scores)


def test_neither_the_stop_token_nor_bins_without_values_are_planned(model):
    transitions = np.random.default_rng(0).normal(size=(500, T)).astype(np.float32)
    discretizer = TrajectoryDiscretizer.fit(
        transitions, observation_dim=3, action_dim=2, num_bins=9, discrete={0: [0, 1], 3: [0, 1, 2]}
    )
    stopping = random_model()
    with torch.no_grad():
        stopping.head.weight[:, -1] = 0
        stopping.ln_f.bias.fill_(1.0)
        stopping.head.weight[:, -1] += 5.0  # the stop token is by far the likeliest everywhere
    for objective in ("return", "likelihood"):
        planner = BeamPlanner(stopping, discretizer, **SMALL, k_obs=None, cdf_act=None, objective=objective)
        tokens = planner.plan([history(1).clamp_max(1)], seeds=[0]).tokens[0]
        assert tokens.max() < 9 and tokens[:, 0].max() < 2 and tokens[:, 3].max() < 3


def test_more_beams_do_not_lower_the_return_that_is_planned(model, discretizer):
    wide, narrow = (
        np.mean(
            [
                BeamPlanner(model, discretizer, horizon=3, beam_width=width, cdf_act=None)
                .plan([history(2)], seeds=[seed])
                .scores.item()
                for seed in range(5)
            ]
        )
        for width in (64, 2)
    )
    assert wide > narrow


def test_a_percentile_takes_the_place_of_the_mean(model, discretizer):
    plan = BeamPlanner(model, discretizer, horizon=1, beam_width=1, n_expand=1, estimate=0.5, **GREEDY).plan(
        [history(1)]
    )
    tokens = torch.cat([history(1), plan.tokens[0, 0, OBSERVATION:]])[None]
    logits = model(tokens, use_cache=False).logits[0, :, :-1].softmax(-1)
    medians = [(row.cumsum(0) >= 0.5).int().argmax() for row in (logits[-3], logits[-2])]
    expected = discretizer.values[-2, medians[0]] + 0.99 * discretizer.values[-1, medians[1]]
    torch.testing.assert_close(plan.scores[0], expected)


def test_wide_likelihood_search_finds_the_most_likely_continuation():
    model, discretizer = random_model(num_bins=3), random_discretizer(num_bins=3)
    tokens = history(1, num_bins=3)
    planner = BeamPlanner(model, discretizer, horizon=1, beam_width=81, objective="likelihood")
    plan = planner.plan([tokens])
    candidates = [torch.cat([tokens, torch.tensor(rest)]) for rest in itertools.product(range(3), repeat=4)]
    likelihoods = torch.stack([reference_planner.log_likelihood(model, c, len(tokens)) for c in candidates])
    assert torch.equal(plan.tokens[0, 0], candidates[likelihoods.argmax()][T:])
    torch.testing.assert_close(plan.scores[0], likelihoods.max())


def test_the_likelihood_of_a_long_plan_is_the_models(model, discretizer):
    planner = BeamPlanner(
        model, discretizer, horizon=4, beam_width=6, objective="likelihood", crop=False, max_context_transitions=2
    )
    plan = planner.plan([history(2)])
    tokens = torch.cat([history(2)[:-OBSERVATION], plan.tokens[0].flatten()])
    expected = reference_planner.log_likelihood(model, tokens, len(history(2)))
    torch.testing.assert_close(plan.scores[0], expected, rtol=1e-4, atol=1e-4)


def test_a_value_function_judges_the_states_that_plans_lead_to(model, discretizer):
    seen = []

    def value_function(states):
        seen.append(states)
        return 1_000 * states[:, 0]

    planner = BeamPlanner(model, discretizer, value_function, **SMALL, k_obs=None, cdf_act=None)
    plan = planner.plan([history(2)], seeds=[0])
    assert len(seen) == 3 and seen[0].shape == (8, 3)
    # the rewards are small: what counts is the state after the last action
    assert plan.scores[0] == pytest.approx(0.99**3 * 1_000 * seen[-1][:, 0].max().item(), abs=30)
    assert np.isin(seen[0].numpy()[:, 0], discretizer.values[0].numpy()).all()
    assert plan.tokens.shape == (1, 3, T)


def test_the_search_can_be_watched(model, discretizer):
    planner, seen = BeamPlanner(model, discretizer, **SMALL), []
    plan = planner.plan([history(2)], seeds=[3], watch=lambda tokens, totals: seen.append((tokens, totals)))
    assert [tuple(tokens.shape) for tokens, _ in seen] == [(1, 4, steps, T) for steps in (1, 2, 3)]
    kept = [{tuple(row.flatten().tolist()) for row in tokens[0]} for tokens, _ in seen]
    for longer, shorter in zip(kept[1:], kept):
        assert {row[:-T] for row in longer} <= shorter  # plans grow from plans that were kept
    assert all((totals[0].diff() <= 0).all() for _, totals in seen)
    assert torch.equal(seen[-1][0][0, 0], plan.tokens[0]) and seen[-1][1][0, 0] == plan.scores[0]


@pytest.mark.parametrize("transitions", [1, 6])
def test_a_goal_stays_at_the_front_of_the_window(model, discretizer, transitions):
    planner = BeamPlanner(model, discretizer, horizon=1, beam_width=1, n_expand=1, max_context_transitions=4, **GREEDY)
    goal = planner.goal_transition(torch.tensor([[0.1, -0.2, 0.3]]))
    assert goal[0, OBSERVATION:].tolist() == [9] * 4
    plan = planner.plan([history(transitions)], goals=goal)
    visible = history(transitions)[max(0, transitions - 2) * T :]  # the window holds goal, two transitions, the plan
    tokens = torch.cat([goal[0], visible])[None]
    expected, _ = reference_planner.extend(model, tokens, 4, 8, lambda scores, tokens: scores.argmax(-1))
    assert torch.equal(plan.tokens[0, 0], expected[0, -T:])
    other = planner.plan([history(transitions)], goals=planner.goal_transition(torch.tensor([[-2.0, 2.0, 1.0]])))
    assert not torch.equal(plan.scores, other.scores)


def test_bfloat16_plans_are_close(model, discretizer):
    plans = [
        BeamPlanner(model, discretizer, dtype=dtype, **SMALL, **GREEDY).plan([history(2)])
        for dtype in (None, torch.bfloat16)
    ]
    torch.testing.assert_close(plans[0].scores, plans[1].scores, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"estimate": "median"}, "estimate is 'median'"),
        ({"objective": "reward"}, "objective is 'reward'"),
        ({"cdf_act": 1.0}, "cdf_act is 1.0"),
        ({"horizon": 2, "plan_every": 3}, "plan_every is 3"),
        ({"crop": False, "horizon": 6}, "block_size=55"),
    ],
)
def test_impossible_options_are_refused(model, discretizer, options, message):
    with pytest.raises(ValueError, match=message):
        BeamPlanner(model, discretizer, **options)


def test_a_discretizer_of_another_task_is_refused(model):
    with pytest.raises(ValueError, match="trained together"):
        BeamPlanner(model, random_discretizer(num_bins=8))


def test_a_history_that_does_not_end_in_an_observation_is_refused(model, discretizer):
    with pytest.raises(ValueError, match="A history has 9 tokens"):
        BeamPlanner(model, discretizer).plan([torch.zeros(9, dtype=torch.long)])
