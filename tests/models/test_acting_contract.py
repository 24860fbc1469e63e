"""What every actor keeps to, whatever its family: one table, one test for each promise of `hf_seqrl.models.actor.Actor`.

To add a family, add a line to `FAMILIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Discrete

from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.windows import StepHistories
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.episode import EpisodeInProgress
from hf_seqrl.models.registry import Prepared, family_named

SPACES = {"box": Box(-1, 1, (3,), np.float32), "discrete": Discrete(3)}
STATE_DIM, STEPS, CONSTANT = 5, 9, 7.0
TARGETS = np.array([300.0, 200.0, 100.0, 0.0])


@dataclass(frozen=True)
class Row:
    """One family, small and untrained.

    Attributes:
        family: Its name after `hf-seqrl train`.
        options: Of the family, for a small model that is conditioned on returns if it can be.
        unconditioned: Options beside these for a model that is not conditioned; `None` where there is none.
        conditioned: Whether `options` make a model that is conditioned on a return.
        sampling: Options of its actor by which it samples; `None` where it cannot.
        deterministic: Options of its actor by which it does not, where that is not the default.
        remembers: Whether an action depends on earlier steps.
        reads_actions: Whether it depends on earlier actions.
        spaces: Action spaces that it takes.
        state_scale: The attribute of the processor by which states are divided; `None` where there is none.
    """

    family: str
    options: dict[str, Any] = field(default_factory=dict)
    unconditioned: dict[str, Any] | None = None
    conditioned: bool = True
    sampling: dict[str, Any] | None = None
    deterministic: dict[str, Any] = field(default_factory=dict)
    remembers: bool = True
    reads_actions: bool = True
    spaces: tuple[str, ...] = ("box", "discrete")
    state_scale: str | None = "state_std"


SMALL = {"context_length": 4, "hidden_size": 16, "n_layer": 2}
PAPER = SMALL | {"recipe": "paper"}  # reads past actions
PLANNER = {"horizon": 2, "beam_width": 4, "max_context_transitions": 3, "sequence_transitions": 3}
FAMILIES = [
    Row("decision-transformer", PAPER, {"conditioning": "none"}, sampling={"temperature": 1.0}),
    Row("decision-transformer", PAPER | {"sliding": True}),
    Row("decision-transformer", SMALL | {"recipe": "auto"}, reads_actions=False, spaces=("box",)),
    Row("decision-transformer", PAPER | {"backbone": "llama"}, spaces=("box",)),
    Row("decision-transformer", PAPER | {"backbone": "mamba"}, spaces=("box",)),
    Row(
        "trajectory-transformer",
        PLANNER | {"n_embd": 16, "n_layer": 2, "n_head": 2, "num_bins": 16},
        conditioned=False,
        sampling={"horizon": 1, "beam_width": 1, "n_expand": 1, "k_act": None, "cdf_act": None},
        deterministic={"k_act": 1, "n_expand": 1},
        state_scale=None,
    ),
    *(
        Row(
            "trajectory-seq2seq",
            {"backbone": backbone, "context_length": 4, "hidden_size": 32, "conditioning": "return"},
            unconditioned={"conditioning": "none"},
            sampling={"do_sample": True},
        )
        for backbone in ("gru", "transformer")
    ),
    Row(
        "cloning",
        {"hidden_size": 16, "conditioning": "return"},
        unconditioned={"conditioning": "none"},
        sampling={"deterministic": False},
        remembers=False,
        state_scale="observation_std",
    ),
]


def rows(condition: Callable[[Row], bool] = lambda row: True, spaces: tuple[str, ...] = ("box", "discrete")):
    """The table as parameters of a test: rows that meet the condition, each with its action spaces among `spaces`."""
    cases = [(row, space) for row in FAMILIES if condition(row) for space in row.spaces if space in spaces]
    names = [f"{row.family}-{FAMILIES.index(row)}-{space}" for row, space in cases]
    return pytest.mark.parametrize(("row", "space"), cases, ids=names)


samples = lambda row: row.sampling is not None  # noqa: E731
remembers = lambda row: row.remembers  # noqa: E731
reads_actions = lambda row: row.remembers and row.reads_actions  # noqa: E731
conditioned = lambda row: row.conditioned  # noqa: E731
can_be_unconditioned = lambda row: row.unconditioned is not None or not row.conditioned  # noqa: E731


@cache
def _data(space: str) -> Dataset:
    """Random episodes whose last state entry is constant."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"observations": [], "actions": [], "rewards": [], "terminations": [], "truncations": []}
    for length in (30, 12, 9, 20):
        states = rng.normal(size=(length, STATE_DIM)).astype(np.float32)
        states[:, -1] = CONSTANT
        drawn = rng.uniform(-1, 1, (length, 3)) if space == "box" else rng.integers(0, 3, length)
        rows["observations"].append(states.tolist())
        rows["actions"].append(drawn.tolist())
        rows["rewards"].append(rng.uniform(0, 20, length).tolist())
        rows["terminations"].append([False] * (length - 1) + [True])
        rows["truncations"].append([False] * length)
    observations = Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
    metadata = TrajectoryMetadata(observation_space=observations, action_space=SPACES[space], max_episode_steps=50)
    return with_metadata(Dataset.from_dict(rows), metadata)


def _prepared(row: Row, space: str, unconditioned: bool = False) -> Prepared:
    return _cached(FAMILIES.index(row), space, unconditioned and row.unconditioned is not None)


@cache
def _cached(index: int, space: str, unconditioned: bool) -> Prepared:
    row = FAMILIES[index]
    family = family_named(row.family)
    torch.manual_seed(0)
    options = row.options | (row.unconditioned or {} if unconditioned else {})
    prepared = family.prepare(_data(space), family.options_class(**options))
    with torch.no_grad():  # weights that are far from zero, so that everything that goes in matters
        for parameter in prepared.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return prepared


def _actor(row: Row, space: str, unconditioned: bool = False, **acting_options: Any) -> Actor:
    prepared = _prepared(row, space, unconditioned)
    options = row.deterministic | acting_options
    return family_named(row.family).make_actor(prepared.model, prepared.processor, **options)


def _begun(
    row: Row, space: str, num_envs: int = 4, seed: Any = 0, history: Any = None, **acting_options: Any
) -> Actor:
    actor = _actor(row, space, **acting_options)
    targets = TARGETS[:num_envs] if actor.is_conditioned else None
    actor.reset(num_envs, target_return=targets, seed=seed, history=history)
    return actor


@pytest.fixture
def play():
    """Observations `(4, STEPS, STATE_DIM)` and rewards `(4, STEPS)` that do not depend on the actions."""
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(4, STEPS, STATE_DIM)).astype(np.float32)
    observations[..., -1] = CONSTANT
    return observations, rng.uniform(0, 20, (4, STEPS))


def _acted(actor: Actor, observations: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """The actions `(episodes, steps, *action_shape)` of episodes side by side."""
    actions = []
    for step in range(observations.shape[1]):
        actions.append(actor.act(observations[:, step]))
        actor.observe(rewards[:, step], np.zeros(len(rewards), bool))
    return np.stack(actions, axis=1)


@rows()
def test_twins_act_together_as_each_alone(row, space, play):
    """Their episodes began at different times."""
    observations, rewards = play
    actor = _actor(row, space, **(row.sampling or {} if space == "discrete" else {}))
    alone, together = ([actor.twin() for _ in range(4)] for _ in range(2))
    for i in range(4):
        for twin in (alone[i], together[i]):
            twin.reset(1, TARGETS[i] if twin.is_conditioned else None, seed=i)
    for step in range(STEPS + 3):
        at = [i for i in range(4) if 0 <= step - i < STEPS]
        expected = [alone[i].act(observations[i, step - i][None])[0] for i in at]
        found = Actor.act_together([together[i] for i in at], [observations[i, step - i] for i in at])
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))
        for i in at:
            for twin in (alone[i], together[i]):
                twin.observe(rewards[i, step - i : step - i + 1], np.zeros(1, bool))


def _same(space: str, actions: np.ndarray, expected: np.ndarray) -> None:
    if space == "discrete":
        np.testing.assert_array_equal(actions, expected)
    else:
        np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)


@rows()
def test_actions_are_of_the_action_space(row, space, play):
    actions = _acted(_begun(row, space), *play)
    assert all(SPACES[space].contains(action) for episode in actions for action in episode)
    assert len(np.unique(actions)) > 1


@rows()
def test_side_by_side_equals_alone(row, space, play):
    together = _acted(_begun(row, space), *play)
    for episode in range(4):
        alone = _actor(row, space)
        alone.reset(1, target_return=TARGETS[episode] if row.conditioned else None, seed=episode)
        _same(space, _acted(alone, *(part[episode : episode + 1] for part in play))[0], together[episode])


@rows(samples, ("discrete",))
def test_an_int_seed_gives_every_episode_a_stream_of_its_own(row, space, play):
    observations = np.repeat(play[0][:1], 8, axis=0)
    rewards = np.zeros((8, STEPS))
    actor = _actor(row, space, **row.sampling)
    assert not actor.deterministic
    drawn = []
    for seed in (0, np.arange(8), 100):
        actor.reset(8, target_return=100.0 if row.conditioned else None, seed=seed)
        drawn.append(_acted(actor, observations, rewards))
    assert len({episode.tobytes() for episode in drawn[0]}) == 8
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@rows(samples, ("discrete",))
def test_sampled_episodes_do_not_depend_on_who_runs_beside_them(row, space, play):
    together = _acted(_begun(row, space, **row.sampling), *play)
    alone = _actor(row, space, **row.sampling)
    alone.reset(1, target_return=TARGETS[2] if row.conditioned else None, seed=2)
    np.testing.assert_array_equal(_acted(alone, play[0][2:3], play[1][2:3])[0], together[2])


@rows(can_be_unconditioned)
def test_an_agent_that_is_not_conditioned_refuses_a_target(row, space):
    actor = _actor(row, space, unconditioned=True)
    with pytest.raises(ValueError, match="not conditioned on a return"):
        actor.reset(1, target_return=123.0)
    actor.reset(1)
    with pytest.raises(ValueError, match="not conditioned on a return"):
        actor.returns_to_go  # noqa: B018


@rows(conditioned)
def test_no_known_target_is_a_clear_error(row, space):
    actor = _actor(row, space)
    actor.target_returns = []
    with pytest.raises(ValueError, match="no target_returns: give the return to reach"):
        actor.reset(1)


@rows(conditioned)
def test_the_next_episode_begins_with_the_full_target(row, space, play):
    actor = _actor(row, space)
    actor.reset(2, target_return=100.0)
    actor.act(play[0][:2, 0])
    actor.observe(np.array([30.0, 30.0]), np.array([False, True]))
    np.testing.assert_allclose(actor.returns_to_go, [70.0 / actor.discount, 100.0])


@rows(conditioned, ("box",))
def test_the_target_matters(row, space, play):
    actor, taken = _actor(row, space), []
    for target in (300.0, -100.0):
        actor.reset(4, target_return=target)
        taken.append(_acted(actor, *play))
    assert np.abs(taken[0] - taken[1]).max() > 1e-4


@rows(lambda row: row.state_scale is not None)
def test_a_constant_state_entry_is_divided_by_one(row, space):
    scale = getattr(_prepared(row, space).processor, row.state_scale)
    assert scale[-1] == 1.0 and (np.abs(np.asarray(scale[:-1]) - 1) < 0.5).all()


@rows()
def test_a_restarted_episode_forgets_the_one_before_it(row, space, play):
    fresh = _acted(_begun(row, space), *play)
    actor = _begun(row, space)
    _acted(actor, play[0][:, ::-1], play[1][:, ::-1])
    actor.restart(np.arange(4), target_return=TARGETS if row.conditioned else None, seed=0)
    _same(space, _acted(actor, *play), fresh)


@rows()
def test_an_ended_episode_is_followed_by_a_new_one(row, space, play):
    fresh = _acted(_begun(row, space), *play)
    actor = _begun(row, space)
    actor.act(play[0][:, 5])
    actor.observe(play[1][:, 5], np.array([True, False, True, False]))
    following = _acted(actor, *play)
    _same(space, following[[0, 2]], fresh[[0, 2]])
    assert actor.timesteps.tolist() == [STEPS, STEPS + 1, STEPS, STEPS + 1]


@rows()
def test_selected_environments_go_on_in_the_given_order(row, space, play):
    whole = _acted(_begun(row, space), *play)
    actor = _begun(row, space)
    _acted(actor, *(part[:, :4] for part in play))
    actor.select(np.array([3, 1]))
    assert actor.num_envs == 2
    _same(space, _acted(actor, *(part[[3, 1], 4:] for part in play)), whole[[3, 1], 4:])


@rows()
def test_a_history_equals_having_lived_it(row, space, play):
    lived = _begun(row, space)
    lengths = [6, 0, 3, 6]
    taken = _acted(_begun(row, space), *play)
    history = [
        {"observations": play[0][i, :n], "actions": taken[i, :n], "rewards": play[1][i, :n]}
        for i, n in enumerate(lengths)
    ]
    handed = _begun(row, space, history=history)
    assert handed.timesteps.tolist() == lengths
    rest = [tuple(part[i, n : n + 3] for part in play) for i, n in enumerate(lengths)]
    observations, rewards = (np.stack(parts) for parts in zip(*rest))
    continued = _acted(handed, observations, rewards)
    expected = _acted(lived, *play)
    for episode, length in enumerate(lengths):
        _same(space, continued[episode], expected[episode, length : length + 3])


@rows(remembers, ("box",))
def test_a_history_matters(row, space, play):
    history = [{"observations": play[0][i, :4], "actions": np.zeros((4, 3)), "rewards": np.zeros(4)} for i in range(4)]
    with_history, without = _begun(row, space, history=history), _begun(row, space)
    assert (with_history.act(play[0][:, 8]) != without.act(play[0][:, 8])).any()


@rows(reads_actions, ("box",))
def test_the_actions_that_were_executed_are_remembered_not_those_that_were_chosen(row, space, play):
    lived, other = _begun(row, space), _begun(row, space)
    lived.act(play[0][:, 0])
    other.act(play[0][:, 0])
    executed = np.full((4, 3), 0.75, np.float32)
    lived.observe(play[1][:, 0], np.zeros(4, bool), actions=executed)
    other.observe(play[1][:, 0], np.zeros(4, bool))
    history = [
        {"observations": play[0][i, :1], "actions": executed[i : i + 1], "rewards": play[1][i, :1]} for i in range(4)
    ]
    handed = _begun(row, space, history=history)
    actions = lived.act(play[0][:, 1])
    assert (actions != other.act(play[0][:, 1])).any()
    _same(space, actions, handed.act(play[0][:, 1]))


@rows()
def test_an_observation_that_is_not_finite_is_refused(row, space, play):
    actor = _begun(row, space)
    wrong = play[0][:, 0].copy()
    wrong[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"observation of environment 2 is nan at step 0, entry \[1\]"):
        actor.act(wrong)


@rows()
def test_observations_of_another_shape_are_refused(row, space):
    with pytest.raises(ValueError, match=r"expected \(4, 5\)"):
        _begun(row, space).act(np.zeros((4, 6), np.float32))


@rows()
def test_calls_out_of_order_say_so(row, space, play):
    with pytest.raises(RuntimeError, match="act was called before reset"):
        _actor(row, space).act(play[0][:, 0])
    with pytest.raises(RuntimeError, match="observe was called before act"):
        _begun(row, space).observe(np.zeros(4), np.zeros(4, bool))


def _left_and_resumed(row: Row, space: str, play: tuple, at: int, pending: bool, **acting_options: Any) -> None:
    """An episode that another actor goes on with at step `at`, knowing the last `memory` steps alone."""
    first = _actor(row, space, **acting_options)
    observations, rewards = (part[1:2] for part in play)
    target = 200.0 if first.is_conditioned else None
    first.reset(1, target_return=target, seed=5)
    returns_to_go, actions = [target or 0.0], []
    for step in range(at):
        actions.append(first.act(observations[:, step])[0])
        first.observe(rewards[:, step], np.zeros(1, bool))
        returns_to_go.append((returns_to_go[-1] - rewards[0, step]) / first.discount)
    chosen = first.act(observations[:, at])[0] if pending else None
    start = 0 if first.memory is None else max(0, at - first.memory)
    episode = EpisodeInProgress(
        observations[0, start:at],
        np.array(actions[start:]).reshape(at - start, *SPACES[space].shape),
        rewards[0, start:at],
        target,
        5,
        start,
        returns_to_go[start],
        observed=observations[0, at] if pending else None,
        chosen=chosen,
        own_state=first.own_state(),
    )
    second = first.twin()
    second.resume(episode)
    assert second.timesteps.tolist() == first.timesteps.tolist() == [at]
    if pending:
        executed = chosen[None] if space == "discrete" else chosen[None] * 0.5
        for actor in (first, second):
            actor.observe(rewards[:, at], np.zeros(1, bool), executed)
    rest = [part[:, at + pending :] for part in (observations, rewards)]
    np.testing.assert_array_equal(_acted(second, *rest), _acted(first, *rest))


@rows()
@pytest.mark.parametrize("pending", [False, True])
def test_an_episode_goes_on_to_the_last_bit_where_another_actor_left_it(row, space, play, pending):
    long = (np.concatenate([play[0]] * 2, axis=1), np.concatenate([play[1]] * 2, axis=1) / 10)
    _left_and_resumed(row, space, long, at=13, pending=pending)
    _left_and_resumed(row, space, long, at=2, pending=pending)


@rows(samples, ("discrete",))
def test_a_sampled_episode_goes_on_with_its_own_random_stream(row, space, play):
    _left_and_resumed(row, space, play, at=6, pending=True, **row.sampling)


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_planner_goes_on_with_the_plan_it_has_made(play, at):
    planner = next(row for row in FAMILIES if row.family == "trajectory-transformer")
    _left_and_resumed(planner, "box", play, at=at, pending=at == 6, plan_every=2)


@rows()
def test_twins_share_weights_and_no_history(row, space, play):
    actor = _begun(row, space)
    expected = _acted(_begun(row, space), *play)
    twin = actor.twin()
    twin.reset(2, target_return=TARGETS[:2] if row.conditioned else None, seed=0)
    for step in range(STEPS):
        np.testing.assert_array_equal(actor.act(play[0][:, step]), expected[:, step])
        _same(space, twin.act(play[0][:2, step]), expected[:2, step])
        actor.observe(play[1][:, step], np.zeros(4, bool))
        twin.observe(play[1][:2, step], np.zeros(2, bool))


@rows()
def test_watching_somebody_equals_their_history(row, space, play):
    watching = _begun(row, space)
    taken = np.stack([np.stack([SPACES[space].sample() for _ in range(3)]) for _ in range(4)])
    for step in range(3):
        watching.watch(play[0][:, step])
        with pytest.raises(RuntimeError, match="tell observe the actions"):
            watching.observe(play[1][:, step], np.zeros(4, bool))
        watching.observe(play[1][:, step], np.zeros(4, bool), taken[:, step])
    history = [{"observations": play[0][i, :3], "actions": taken[i], "rewards": play[1][i, :3]} for i in range(4)]
    handed = _begun(row, space, history=history)
    np.testing.assert_array_equal(watching.act(play[0][:, 3]), handed.act(play[0][:, 3]))


@rows(samples, spaces=("discrete",))
def test_actions_are_drawn_with_the_probabilities_that_are_named(row, space):
    """A planner that samples draws from a search, whose probabilities nobody knows."""
    actor = _actor(row, space, **row.sampling)
    actor.reset(2000, target_return=100.0 if actor.is_conditioned else None, seed=0)
    if row.family == "trajectory-transformer":
        actor.reset(2, seed=0)
        actor.act(np.zeros((2, STATE_DIM), np.float32))
        assert actor.action_probabilities() is None
        return
    actions = actor.act(np.ones((2000, STATE_DIM), np.float32))
    probabilities = actor.action_probabilities()
    np.testing.assert_allclose(probabilities, np.broadcast_to(probabilities[:1], (2000, 3)), atol=1e-6)
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 2000, probabilities[0], atol=0.04)


@rows(spaces=("discrete",))
def test_a_deterministic_actor_puts_all_probability_on_its_action(row, space):
    actor = _begun(row, space)
    with pytest.raises(RuntimeError, match="action_probabilities was called before act"):
        actor.action_probabilities()
    actions = actor.act(np.ones((4, STATE_DIM), np.float32))
    np.testing.assert_array_equal(actor.action_probabilities(), np.eye(3)[actions])


@rows(lambda row: row.family == "decision-transformer", ("box",))
def test_how_far_recorded_actions_are_off_is_measured_from_what_the_actor_chooses(row, space):
    prepared, dataset, family = _prepared(row, space), _data(space), family_named(row.family)
    losses = family.action_losses(
        prepared.model, prepared.processor, StepHistories(dataset, prepared.processor).gather(range(4))
    )
    episode = {name: np.array(dataset[name][0], np.float32) for name in ("observations", "actions", "rewards")}
    actor = _actor(row, space)
    actor.reset(1, target_return=episode["rewards"].sum(dtype=np.float64))
    for step in range(4):  # later, sliding attention has a longer memory when it acts
        chosen = actor.act(episode["observations"][step][None])[0]
        recorded = episode["actions"][step]
        unscaled = prepared.processor.encode_actions(np.stack([chosen, recorded]))
        if (np.abs(chosen) < 1).all():  # else it was clipped
            assert losses[step] == pytest.approx(np.square(unscaled[0] - unscaled[1]).mean(), rel=1e-3, abs=1e-5)
        actor.observe(episode["rewards"][step : step + 1], np.zeros(1, bool), recorded[None])
    assert (losses > 0).all()
