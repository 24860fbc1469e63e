"""Off-policy evaluation against values by enumeration and by dynamic programming."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from hf_seqrl import (
    Agent,
    DecisionTransformerProcessor,
    OfflineEvaluation,
    TrainableDT,
    ValueEstimate,
    evaluate_offline,
    load_trajectories,
    save_trajectories,
    stochastic,
)
from hf_seqrl.cli.main import main
from hf_seqrl.evaluation.importance_sampling import bootstrap_counts, importance_weights, weighted_values
from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, policy_on_log
from hf_seqrl.evaluation.tabular_q import TabularQ, state_codes

STATES, ACTIONS, HORIZON, DISCOUNT = 3, 2, 3, 0.9
_RNG = np.random.default_rng(0)
TRANSITIONS = _RNG.dirichlet(np.ones(STATES + 1), (STATES, ACTIONS))  # the last successor ends the episode
REWARDS = _RNG.normal(size=(STATES, ACTIONS))
FIRST = _RNG.dirichlet(np.ones(STATES))
BEHAVIOR, TARGET = _RNG.dirichlet(np.ones(ACTIONS), (2, STATES))


def true_values(policy, transitions=TRANSITIONS, rewards=REWARDS, horizon=HORIZON, discount=DISCOUNT):
    """Q by steps to go `(horizon, states, actions)`, and V `(horizon, states)`."""
    q_values, values, following = [], [], np.zeros(transitions.shape[2])
    for _ in range(horizon):
        q_values.append(rewards + discount * transitions @ following)
        values.append((policy * q_values[-1]).sum(axis=1))
        following = np.append(values[-1], 0.0)
    return np.array(q_values), np.array(values)


def every_episode():
    """All episodes of at most `HORIZON` steps, and the probability of each under `BEHAVIOR`."""
    episodes, shares = [], []

    def extend(steps, state, share):
        for action, following in itertools.product(range(ACTIONS), range(STATES + 1)):
            now = [*steps, (state, action, following == STATES)]
            likely = share * BEHAVIOR[state, action] * TRANSITIONS[state, action, following]
            if following == STATES or len(now) == HORIZON:
                episodes.append(now)
                shares.append(likely)
            else:
                extend(now, following, likely)

    for state in range(STATES):
        extend([], state, FIRST[state])
    return episodes, np.array(shares)


def as_dataset(episodes, rewards=REWARDS, limit=HORIZON):
    columns = {
        "observations": [[[float(state)] for state, _, _ in episode] for episode in episodes],
        "actions": [[action for _, action, _ in episode] for episode in episodes],
        "rewards": [[float(rewards[state, action]) for state, action, _ in episode] for episode in episodes],
        "terminations": [[ended for _, _, ended in episode] for episode in episodes],
    }
    return load_trajectories(columns, action_space=Discrete(ACTIONS), max_episode_steps=limit)


def policy_of(table):
    return stochastic(lambda observations: table[observations[:, 0].astype(int)])


@pytest.fixture(scope="module")
def enumerated():
    """The log of all episodes, their probabilities, the evaluated policy on them, and the true propensities."""
    episodes, shares = every_episode()
    log = LoggedEpisodes.of(as_dataset(episodes))
    states = log.observations[:, 0].astype(int)
    return log, shares[None], policy_on_log(policy_of(TARGET), log), BEHAVIOR[states, log.codes], states


def estimates(enumerated, method, propensities=None, noise=0.0):
    log, shares, policy, true_propensities, states = enumerated
    weights = importance_weights(log, policy, true_propensities if propensities is None else propensities)
    q_values, values = true_values(TARGET)
    to_go = HORIZON - log.timesteps - 1
    wrong = noise * np.random.default_rng(1).normal(size=q_values.shape)  # a wrong Q, and the V that belongs to it
    q_values, values = q_values + wrong, values + (wrong * TARGET).sum(-1)
    steps = q_values[to_go, states, log.codes], values[to_go, states]
    return weighted_values(method, log, weights, DISCOUNT, shares, *(steps if "dr" in method else ()))[0]


def test_the_expectation_of_importance_sampling_is_the_true_value(enumerated):
    truth = FIRST @ true_values(TARGET)[1][-1]
    assert abs(truth - FIRST @ true_values(BEHAVIOR)[1][-1]) > 0.1
    assert estimates(enumerated, "pdis") == pytest.approx(truth, abs=1e-6)
    assert estimates(enumerated, "wis") == pytest.approx(truth, abs=1e-6)  # the mean of the weights is 1


@pytest.mark.parametrize("method", ["dr", "wdr"])
def test_doubly_robust_estimates_are_exact_with_either_the_true_values_or_the_true_propensities(enumerated, method):
    truth = FIRST @ true_values(TARGET)[1][-1]
    assert estimates(enumerated, method, noise=3.0) == pytest.approx(truth, abs=1e-6)
    wrong = np.full(enumerated[0].num_steps, 0.4)
    if method == "dr":
        assert estimates(enumerated, method, wrong) == pytest.approx(truth, abs=1e-6)
    assert abs(estimates(enumerated, method, wrong, noise=3.0) - truth) > 0.05


def drawn_episodes(number, policy=BEHAVIOR, seed=0, limit=HORIZON):
    generator, episodes = np.random.default_rng(seed), []
    for _ in range(number):
        state, steps = generator.choice(STATES, p=FIRST), []
        for _ in range(limit):
            action = generator.choice(ACTIONS, p=policy[state])
            following = generator.choice(STATES + 1, p=TRANSITIONS[state, action])
            steps.append((state, action, following == STATES))
            state = following
            if following == STATES:
                break
        episodes.append(steps)
    return episodes


def test_the_table_is_dynamic_programming_in_the_observed_frequencies():
    episodes = drawn_episodes(300, limit=6)
    log = LoggedEpisodes.of(as_dataset(episodes, limit=6))
    observed = np.zeros((STATES, ACTIONS, STATES + 1))
    for episode in episodes:
        for (state, action, ended), following in zip(episode, [*episode[1:], None]):
            if ended or following is not None:  # what follows a step at the horizon is not known
                observed[state, action, STATES if ended else following[0]] += 1
    frequencies = observed / observed.sum(-1, keepdims=True)
    first = np.bincount([episode[0][0] for episode in episodes], minlength=STATES) / len(episodes)
    truth = first @ true_values(TARGET, frequencies, horizon=6)[1][-1]
    table = TabularQ(log, state_codes(log), policy_on_log(policy_of(TARGET), log), DISCOUNT, prior_visits=0.0)
    values = table.evaluate(bootstrap_counts(log.num_episodes, 3, seed=0)).values
    assert values[0] == pytest.approx(truth, abs=1e-6)
    assert 0 < np.abs(values[1:] - truth).max() < 1


def test_what_rare_actions_hide_is_added_to_the_interval():
    """Two states that follow each other at random; in each, action 0 earns 1 more than action 1, and is taken once in 40 times."""
    number = 400
    generator = np.random.default_rng(0)
    states = generator.integers(0, 2, (number, 4))
    actions = (generator.random((number, 4)) > 0.025).astype(int)
    columns = {
        "observations": states[..., None].astype(np.float32),
        "actions": actions,
        "rewards": 1.0 - actions + generator.normal(size=(number, 4)),
        "terminations": np.zeros((number, 4), bool),
    }
    dataset = load_trajectories(columns, action_space=Discrete(2), max_episode_steps=4)
    log = LoggedEpisodes.of(dataset)

    def leaning(table):
        return TabularQ(log, state_codes(log), policy_on_log(policy_of(table), log), 1.0, 1.0).leaning(0.95)

    data, rare, often = (np.tile(row, (2, 1)) for row in ([0.025, 0.975], [1.0, 0.0], [0.0, 1.0]))
    visits = np.bincount(states.ravel()[actions.ravel() == 0])
    deviation = np.sqrt(0.5)  # between two actions that differ by 1
    expected = 4 * np.mean(1 / (visits + 1)) * deviation
    assert leaning(data) <= leaning(often) < 0.1 * expected and 0.7 * expected < leaning(rare) < 1.3 * expected
    evaluation = evaluate_offline(policy_of(rare), dataset, methods=["fqe"], num_bootstrap=50)
    assert any("wider by" in note for note in evaluation["fqe"].notes)


def test_everything_together_holds_the_truth_and_says_what_is_better():
    dataset = as_dataset(drawn_episodes(1500))
    greedy = np.eye(ACTIONS)[true_values(TARGET)[0][-1].argmax(axis=1)]
    better = 0.5 * BEHAVIOR + 0.5 * greedy
    evaluation = evaluate_offline(policy_of(better), dataset, discount=DISCOUNT, num_bootstrap=300)
    truth = FIRST @ true_values(better)[1][-1]
    assert [one.method for one in evaluation.estimates] == ["fqe", "wdr", "dr", "wis", "pdis"]
    for one in evaluation.estimates:
        low, high = one.interval
        assert low < one.lower_bound < one.value < one.upper_bound < high
        assert low - 0.3 * (high - low) < truth < high + 0.3 * (high - low)
    assert evaluation.verdict == "better" and evaluation.behavior.value < truth
    assert evaluation.overlap.behavior_source == "frequencies"
    assert evaluation.overlap.calibration_error < 0.05
    worse = evaluate_offline(policy_of(0.5 * BEHAVIOR + 0.5 * (1 - greedy)), dataset, discount=DISCOUNT)
    assert worse.verdict == "worse" and "It is worse than the policy that recorded the data" in worse.report()


def test_recorded_propensities_are_used():
    dataset = as_dataset(drawn_episodes(50))
    even = [[0.5] * len(episode) for episode in dataset["actions"]]
    log = LoggedEpisodes.of(dataset.add_column("propensities", even))
    evaluation = evaluate_offline(policy_of(TARGET), log.dataset, methods=["pdis"], discount=DISCOUNT)
    weights = importance_weights(log, policy_on_log(policy_of(TARGET), log), np.full(log.num_steps, 0.5))
    expected = weighted_values("pdis", log, weights, DISCOUNT, np.ones((1, 50)))[0]
    assert evaluation["pdis"].value == pytest.approx(expected)
    with pytest.raises(ValueError, match="'propensities' of episode 0 has 1 entries: expected"):
        evaluate_offline(policy_of(TARGET), dataset.add_column("propensities", [[0.5]] * 50))


def a_process(length, number, limit):
    """A reward of 1 a step in a process that never terminates, recorded in pieces."""
    columns = {
        "observations": np.zeros((number, length, 1)),
        "actions": np.tile(np.arange(length) % 2, (number, 1)),
        "rewards": np.ones((number, length)),
        "terminations": np.zeros((number, length), bool),
    }
    return load_trajectories(columns, action_space=Discrete(2), max_episode_steps=limit)


def test_a_truncation_is_no_termination():
    same = policy_of(np.array([[0.6, 0.4]]))  # as in the data
    evaluation = evaluate_offline(same, a_process(5, 30, limit=20), discount=1.0)
    assert evaluation["fqe"].value == pytest.approx(20)  # and not 5
    assert evaluation["dr"].value == pytest.approx(20)
    assert evaluation.behavior.value is None and evaluation.verdict == "undecided"
    assert "cut before the horizon of 20 steps" in evaluation["wis"].refused
    at_the_limit = evaluate_offline(same, a_process(5, 30, limit=5), discount=1.0)
    assert [one.value for one in at_the_limit.estimates] == pytest.approx([5] * 5)
    assert at_the_limit.behavior.value == pytest.approx(5)


def test_episodes_that_were_cut_take_part_until_their_cut():
    episodes = [
        [(0, 0, False), (1, 0, False), (1, 0, True)],
        [(0, 0, False)],
        [(0, 0, False), (1, 0, False), (1, 0, True)],
    ]
    rewards = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    log = LoggedEpisodes.of(as_dataset(episodes, rewards, limit=9))
    weights = importance_weights(log, policy_on_log(policy_of(np.eye(2)[[0, 0, 0]]), log), np.ones(log.num_steps))
    assert weighted_values("pdis", log, weights, 1.0, np.ones((1, 3)))[0] == pytest.approx(2 + 1 + 1)


def test_what_the_data_do_not_know_is_refused():
    one_action = np.eye(ACTIONS)[[0] * STATES]
    dataset = as_dataset(drawn_episodes(200, policy=one_action))
    evaluation = evaluate_offline(policy_of(1 - one_action), dataset, discount=DISCOUNT)
    assert evaluation.best is None and evaluation.value is None and evaluation.verdict == "undecided"
    assert "100 % of its actions are hardly known" in evaluation["fqe"].refused
    allowed = evaluate_offline(policy_of(1 - one_action), dataset, discount=DISCOUNT, max_unsupported=1.0)
    assert allowed["fqe"].value is not None and "0.0 effective episodes" in allowed["wis"].refused
    assert evaluation.overlap.by_step[0].overlap == 0 and evaluation.overlap.unsupported == 1
    assert "These data cannot tell" in evaluation.report()


def test_weights_whose_mean_is_far_from_one_are_refused():
    dataset = as_dataset(drawn_episodes(200))
    doubled = [[1.0] * len(episode) for episode in dataset["actions"]]  # instead of about one half
    evaluation = evaluate_offline(policy_of(BEHAVIOR), dataset.add_column("propensities", doubled), discount=DISCOUNT)
    assert evaluation.overlap.mean_weight < 0.5
    assert "instead of 1" in evaluation["pdis"].refused and evaluation["fqe"].value is not None


def test_reflected_intervals_undo_a_bias_that_the_bootstrap_repeats():
    values = np.concatenate([[5.0], np.linspace(2, 5, 101)])  # the bootstrap is too low by 1.5 in the mean
    estimate = ValueEstimate.from_resamples("fqe", values, np.zeros(102), 0.9, reflected=True)
    assert estimate.interval == pytest.approx((5.15, 7.85)) and estimate.lower_bound == pytest.approx(5.3)
    assert estimate.advantage_interval == estimate.interval
    plain = ValueEstimate.from_resamples("wis", values, np.zeros(102), 0.9)
    assert plain.interval == pytest.approx((2.15, 4.85)) and plain.upper_bound == pytest.approx(4.7)


def test_methods_that_do_not_fit_are_refused():
    dataset = as_dataset(drawn_episodes(20))
    with pytest.raises(ValueError, match=r"method 'magic': expected one of fqe, wdr"):
        evaluate_offline(policy_of(TARGET), dataset, methods=["magic"])
    with pytest.raises(ValueError, match="an episode of the data has 3 steps: expected a horizon of at least as many"):
        evaluate_offline(policy_of(TARGET), dataset, horizon=2)


def test_an_agent_with_a_memory_is_fed_the_log_as_when_it_acts():
    generator = np.random.default_rng(0)
    episodes = [
        {
            "observations": generator.normal(size=(n, 2)),
            "actions": generator.integers(0, 3, n),
            "rewards": generator.normal(size=n),
            "terminations": np.arange(n) == n - 1,
        }
        for n in (7, 2, 5)
    ]
    dataset = load_trajectories(episodes, action_space=Discrete(3))
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=3)
    torch.manual_seed(0)
    model = TrainableDT(processor.model_config(hidden_size=16, n_layer=2, n_head=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    agent = Agent(model, processor, temperature=0.1)
    on_log = policy_on_log(agent, LoggedEpisodes.of(dataset), target_return=2.0, seed=5)
    alone = []
    for index, episode in enumerate(episodes):
        agent.reset(1, 2.0, 5 + index)
        for step in range(len(episode["rewards"])):
            agent.act(episode["observations"][step : step + 1].astype(np.float32))
            alone.append(agent.actor.action_probabilities()[0])
            agent.observe(episode["rewards"][step : step + 1], np.array([False]), episode["actions"][step : step + 1])
    np.testing.assert_allclose(on_log.probabilities, alone, atol=1e-6)
    assert on_log.probabilities.std(axis=0).max() > 0.01 and on_log.target_return == 2.0


def test_networks_estimate_continuous_actions_and_everything_comes_back_from_the_file(tmp_path):
    """The reward is the negative squared distance of the action from half the observation, which is drawn anew at each step."""
    generator = np.random.default_rng(0)
    observations = generator.uniform(-1, 1, (150, 4, 1))
    actions = np.clip(observations / 2 + 0.4 * generator.normal(size=observations.shape), -1, 1)
    columns = {
        "observations": observations,
        "actions": actions,
        "rewards": -((actions - observations / 2) ** 2)[..., 0],
        "terminations": np.broadcast_to(np.arange(4) == 3, (150, 4)),
    }
    dataset = load_trajectories(columns, action_space=Box(-1, 1, (1,)))
    evaluation = evaluate_offline(lambda seen: seen / 2, dataset, critic_steps=250, num_critics=4)
    (estimate,) = evaluation.estimates
    assert estimate.method == "fqe" and evaluation.discount == 1.0
    assert estimate.value == pytest.approx(0, abs=0.2) and estimate.verdict == "better"
    assert evaluation.behavior.value == pytest.approx(-4 * 0.16, abs=0.15)
    assert evaluation.overlap.by_step[0].distance > 0.5 and evaluation.overlap.unsupported < 0.15
    loaded = OfflineEvaluation.load(evaluation.save(tmp_path / "evaluation.json"))
    assert loaded == evaluation and loaded.report() == evaluation.report()
    far = evaluate_offline(lambda seen: -np.sign(seen), dataset, critic_steps=1, num_critics=4)
    assert far.overlap.unsupported > 0.5 and far["fqe"].refused


def test_the_command_line_prints_the_report_and_writes_the_figures(tmp_path, capsys):
    dataset = as_dataset(drawn_episodes(60))
    save_trajectories(dataset, tmp_path / "data")
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=2)
    model = TrainableDT(processor.model_config(hidden_size=8, n_layer=1, n_head=1))
    Agent(model, processor).save_pretrained(tmp_path / "agent")
    command = ["evaluate", str(tmp_path / "agent"), "--offline", str(tmp_path / "data"), "--target_return", "1.5"]
    command += ["--acting_option", "temperature=1.0", "--discount", "0.9", "--output", str(tmp_path / "figures.json")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    evaluation = OfflineEvaluation.load(tmp_path / "figures.json")
    assert evaluation.report() in printed and "How well it predicts the recorded actions" in printed
    assert evaluation.target_return == 1.5 and evaluation.discount == 0.9 and evaluation["fqe"].value is not None
    assert main([*command[:4], "--discount", "0.9", "--save"]) == 0
    capsys.readouterr()
    kept = Agent.from_pretrained(tmp_path / "agent").offline_evaluation
    assert kept.discount == 0.9 and "Estimated without an environment" in (tmp_path / "agent/README.md").read_text()
    assert main([*command[:-2], "--save"]) == 1 and "leave out --acting_option" in capsys.readouterr().err
    assert main([*command[:-2], "--plot", str(tmp_path / "plot.png")]) == 1
    assert "--offline plays none" in capsys.readouterr().err
