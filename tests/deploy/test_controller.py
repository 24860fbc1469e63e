"""A controller of one stream acts as the agent does in a batch, whatever it is told when, and wherever it goes on."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete

from hf_seqrl import Agent, Controller, DecisionTransformerProcessor, TrainableDT, load_trajectories
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.deploy.controller import step_together
from hf_seqrl.evaluation.policies import noisy
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.registry import family_named

STEPS = 12
WORDS = ["half", "open", "shut"]


def _log(rows=40):
    """A table of a tank: numbers and words go in, a word and a number come out."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "run": np.repeat(np.arange(rows // 10), 10),
            "level": rng.normal(size=rows),
            "mode": rng.choice(["auto", "hand"], rows),
            "inflow": rng.normal(5.0, 2.0, rows),
            "valve": rng.choice(WORDS, rows),
            "speed": rng.uniform(0, 1, rows),
            "saved": rng.uniform(0, 2, rows),
        }
    )


def _agent(dataset, family="decision-transformer", acting_options=None, **options):
    torch.manual_seed(0)
    family = family_named(family)
    prepared = family.prepare(dataset, family.options_class(**options))
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    return Agent(prepared.model, prepared.processor, **(acting_options or {}))


SMALL = {"context_length": 4, "hidden_size": 16, "n_layer": 2, "past_actions": True}


@pytest.fixture(scope="module")
def tank():
    columns = {"episode": "run", "observation": ["level", "mode", "inflow"], "reward": "saved"}
    return load_trajectories(_log(), action=["valve", "speed"], **columns)


@pytest.fixture(scope="module")
def valve():
    columns = {"episode": "run", "observation": ["level", "mode", "inflow"], "reward": "saved"}
    return load_trajectories(_log(), action="valve", **columns)


@pytest.fixture(scope="module")
def valve_agent(valve):
    return _agent(valve, **SMALL)


@pytest.fixture
def stream():
    """Observations `(STEPS, 4)` by name, and rewards `(STEPS,)`."""
    table = _log(STEPS + 8).iloc[:STEPS]
    return table[["level", "mode", "inflow"]].to_dict("records"), table["saved"].to_numpy()


def _vectors(observations):
    return np.array([[o["level"], o["mode"] == "auto", o["mode"] == "hand", o["inflow"]] for o in observations])


def _lived(agent, observations, rewards, executed=None, target=15.0, seed=0):
    """The codes that the agent's actor chooses in a batch of one, told everything in time."""
    actor = agent.actor.twin()
    actor.reset(1, target if actor.is_conditioned else None, seed)
    codes = []
    for step, vector in enumerate(_vectors(observations)):
        codes.append(actor.act(vector[None])[0])
        told = None if executed is None or executed.get(step) is None else np.array([executed[step]])
        actor.observe(rewards[step : step + 1], np.zeros(1, bool), told)
    return np.array(codes)


def _begun(agent, target=15.0, **options):
    controller = Controller(agent, **options)
    controller.begin(target if controller.actor.is_conditioned else None, seed=0)
    return controller


def test_named_observations_go_in_and_words_come_out_as_in_a_batch(valve_agent, stream):
    controller, said = _begun(valve_agent), []
    for observation, reward in zip(*stream):
        said.append(controller.step(observation))
        controller.observe(reward=reward)
    assert said == [WORDS[code] for code in _lived(valve_agent, *stream)]
    assert len(set(said)) > 1


def test_auto_asks_at_the_first_observation_for_what_the_data_support(tank, stream, tmp_path):
    """Here 10 times the level, which stands first in an observation."""
    agent = _agent(tank, **SMALL)
    agent.actor.return_estimator = lambda seen, timesteps: 10 * seen[:, 0]
    observations, rewards = stream
    target = 10 * observations[0]["level"]
    speeds = _lived(agent, observations, rewards, target=target)[:, 1].tolist()
    assert speeds != _lived(agent, observations, rewards, target=15.0)[:, 1].tolist()

    controller = Controller(agent)
    controller.begin("auto", seed=0)
    assert controller.target_return is controller.return_to_go is None
    said = []
    for observation, reward in zip(observations, rewards):
        controller.save(tmp_path / "state")
        controller = Controller(agent)  # also before the first observation
        controller.load(tmp_path / "state")
        said.append(controller.step(observation)["speed"])
        controller.observe(reward=reward)
        assert controller.target_return == pytest.approx(target)
    assert said == speeds and controller.return_to_go == pytest.approx(target - rewards.sum(), abs=1e-5)

    rows = _log(STEPS + 8).iloc[:6]
    controller.begin("auto", rows, reward="saved", seed=0)
    assert controller.return_to_go == pytest.approx(target - rewards[:6].sum(), abs=1e-5)
    controller.begin("auto", seed=0)
    controller.watch(observations[0])
    assert controller.return_to_go == pytest.approx(target)
    with pytest.raises(ValueError, match="target_return is 'best': expected a finite number, or 'auto'"):
        controller.begin("best")


def test_one_controller_of_several_fails_alone():
    """The agent refuses negative numbers; the others are answered."""

    def chosen(seen):
        if seen[0, 0] < 0:
            raise ValueError("too low")
        return seen[:, 0]

    controllers = [Controller(chosen) for _ in range(3)]
    for controller in controllers:
        controller.begin()
    first = step_together(controllers, [[1.0], [-1.0], [2.0]])
    assert (first[0], first[2]) == (1.0, 2.0) and isinstance(first[1], ValueError)
    assert [controller.timestep for controller in controllers] == [1, 0, 1]
    assert step_together(controllers, [[3.0], [4.0], [5.0]]) == [3.0, 4.0, 5.0]


def test_several_columns_of_actions_come_by_their_names(tank, stream):
    agent = _agent(tank, **SMALL)
    controller = _begun(agent)
    action = controller.step(stream[0][0])
    code, speed = _lived(agent, *(part[:1] for part in stream))[0]
    assert action == {"valve": WORDS[int(code)], "speed": speed}
    controller.observe(action={"valve": "open", "speed": 0.25}, reward=1.0)
    expected = _lived(agent, *(part[:2] for part in (stream[0], np.array([1.0, 0.0]))), executed={0: [1, 0.25]})
    assert controller.step(stream[0][1])["speed"] == expected[1][1]


def test_arrays_work_as_well_as_names(tiny_agent):
    rng = np.random.default_rng(0)
    controller = Controller(tiny_agent)
    controller.begin(50.0)
    tiny_agent.reset(1, 50.0)
    for _ in range(6):
        observation = rng.normal(size=4).astype(np.float32)
        action = controller.step(observation)
        assert action == tiny_agent.act(observation[None])[0] and isinstance(action, int)
        controller.observe(reward=1.0)
        tiny_agent.observe(np.ones(1), np.zeros(1, bool))
    assert controller.return_to_go == 44.0 == tiny_agent.returns_to_go[0]


def test_controllers_of_one_agent_do_not_disturb_each_other(valve_agent, stream):
    expected = [WORDS[code] for code in _lived(valve_agent, *stream)]
    one, other = _begun(valve_agent), _begun(valve_agent, target=9.0)
    said = []
    for observation, reward in zip(*stream):
        said.append(one.step(observation))
        other.step(stream[0][-1])
        one.observe(reward=reward)
    assert said == expected


@pytest.mark.parametrize("family", ["decision-transformer", "trajectory-seq2seq"])
def test_what_is_told_late_counts_as_if_it_had_been_known(valve, stream, family):
    options = SMALL if family == "decision-transformer" else {"context_length": 4, "hidden_size": 16}
    agent = _agent(valve, family, conditioning="return", **options)
    observations, rewards = stream
    controller = _begun(agent)
    for step in range(6):
        controller.step(observations[step])
    executed = {2: 1, 4: 0, 5: 2}
    for step in range(6):
        word = WORDS[executed[step]] if step in executed else None
        controller.observe(reward=rewards[step], action=word, step=step)
    assert controller.unknown_rewards == 0
    # an agent that was told everything in time, but chose the same first actions: the history decides
    codes = np.array([WORDS.index(s.action) if isinstance(s.action, str) else s.action for s in controller._steps])
    actor = agent.actor.twin()
    history = {"observations": _vectors(observations[:6]), "actions": codes, "rewards": rewards[:6]}
    actor.reset(1, 15.0, 0, [history])
    for step in range(6, STEPS):
        assert controller.step(observations[step]) == WORDS[actor.act(_vectors(observations)[step][None])[0]]
        controller.observe(reward=rewards[step])
        actor.observe(rewards[step : step + 1], np.zeros(1, bool))
    np.testing.assert_allclose(controller.return_to_go, 15.0 - rewards.sum(), rtol=1e-12)


def test_a_reward_that_is_never_told_counts_as_zero(valve_agent, stream):
    controller = _begun(valve_agent)
    said = [controller.step(observation) for observation in stream[0]]
    assert said == [WORDS[code] for code in _lived(valve_agent, stream[0], np.zeros(STEPS))]
    assert controller.return_to_go == 15.0 and controller.unknown_rewards == STEPS


def test_what_was_executed_counts_not_what_was_chosen(tank, stream):
    agent = _agent(tank, **SMALL)
    controller, speeds, executed = _begun(agent), [], {1: [2, 0.9], 3: [0, 0.1], 4: [1, 0.5]}
    for step, (observation, reward) in enumerate(zip(*stream)):
        speeds.append(controller.step(observation)["speed"])
        controller.observe(reward=reward)
        if step in executed:
            code, speed = executed[step]
            controller.observe(action={"valve": WORDS[code], "speed": speed})
    assert speeds == _lived(agent, *stream, executed)[:, 1].tolist()
    assert speeds != _lived(agent, *stream)[:, 1].tolist()


def test_an_operator_drives_and_the_agent_takes_over(valve_agent, stream):
    observations, rewards = stream
    controller = _begun(valve_agent)
    for step in range(5):
        controller.watch(observations[step])
        assert controller.last_action is None
        with pytest.raises(RuntimeError, match="somebody else chose"):
            controller.step(observations[step])
        controller.observe(rewards[step], WORDS[step % 3])
    table = [o | {"valve": WORDS[i % 3], "saved": rewards[i]} for i, o in enumerate(observations[:5])]
    handed, framed = Controller(valve_agent), Controller(valve_agent)
    handed.begin(15.0, history=table, reward="saved", seed=0)
    framed.begin(15.0, history=pd.DataFrame(table), reward="saved", seed=0)
    arrays = Controller(valve_agent)
    history = {"observations": observations[:5], "actions": [WORDS[i % 3] for i in range(5)], "rewards": rewards[:5]}
    arrays.begin(15.0, history=history, seed=0)
    for step in range(5, STEPS):
        actions = {one.step(observations[step]) for one in (controller, handed, framed, arrays)}
        assert len(actions) == 1 and controller.timestep == handed.timestep == step + 1


# A restart


CASES = {
    "window": ("decision-transformer", SMALL, {}),
    "cache": ("decision-transformer", SMALL | {"sliding": True}, {}),
    "sampled": ("decision-transformer", SMALL, {"temperature": 1.0}),
    "cloning": ("cloning", {"hidden_size": 16, "conditioning": "return"}, {"deterministic": False}),
    "seq2seq": ("trajectory-seq2seq", {"context_length": 4, "hidden_size": 16}, {"do_sample": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_another_process_goes_on_with_the_same_actions(case, valve, stream, tmp_path):
    family, options, acting_options = CASES[case]
    agent = _agent(valve, family, acting_options, **options)
    observations, rewards = (part * 3 for part in (stream[0], list(stream[1])))
    controller = _begun(agent, keep_steps=2)
    for step, observation in enumerate(observations):
        other = Controller(agent, keep_steps=2)
        other.load(controller.save(tmp_path / "state.safetensors"))  # before it is told what became of the step
        if step:
            for one in (controller, other):
                one.observe(rewards[step - 1], WORDS[0] if step % 4 == 0 else None)
        assert other.step(observation) == controller.step(observation)
        assert (other.timestep, other.return_to_go) == (controller.timestep, controller.return_to_go)
        controller = other if step % 2 else controller
    # the actions are those of one life, so nothing got lost on the way
    executed = {step - 1: 0 for step in range(1, len(observations)) if step % 4 == 0}
    codes = _lived(agent, observations, np.array(rewards), executed)
    assert controller.last_action == WORDS[codes[-1]]


def test_a_late_correction_survives_a_restart(valve_agent, stream, tmp_path):
    controller = _begun(valve_agent)
    for step in range(6):
        controller.step(stream[0][step])
    controller.observe(reward=9.0, step=1)
    other = Controller(valve_agent)
    other.load(controller.save(tmp_path / "state"))
    for step in range(6, STEPS):
        assert controller.step(stream[0][step]) == other.step(stream[0][step])
    assert controller.return_to_go == other.return_to_go == 6.0


def test_a_sensor_that_fails_is_bridged_also_after_a_restart(valve, stream, tmp_path):
    agent = _agent(valve, "cloning", {"missing_values": "last"}, hidden_size=16)
    controller = _begun(agent)
    controller.step(stream[0][0])
    broken = stream[0][1] | {"level": None}
    other = Controller(agent)
    other.load(controller.save(tmp_path / "state"))
    filled = _begun(agent)
    filled.step(stream[0][0])
    assert controller.step(broken) == other.step(broken) == filled.step(broken | {"level": stream[0][0]["level"]})


def test_an_endless_stream_takes_constant_memory(valve_agent, stream):
    controller, sizes = _begun(valve_agent, keep_steps=8), []
    for step in range(60):
        controller.step(stream[0][step % STEPS])
        controller.observe(reward=0.1)
        sizes.append(len(controller.state_bytes()))
    assert len(controller._steps) == 9 and max(sizes[20:]) < 1.05 * sizes[20]
    assert controller.timestep == 60 and controller.return_to_go == pytest.approx(15.0 - 6.0)
    with pytest.raises(ValueError, match="step is 3: expected one of those that are kept, 51 to 59"):
        controller.observe(reward=1.0, step=3)


@pytest.mark.parametrize("damage", ["other spaces", "no state", "cut"])
def test_a_state_that_does_not_fit_is_refused(damage, valve_agent, tiny_agent, tmp_path):
    controller, path = _begun(valve_agent), tmp_path / "state"
    controller.save(path)
    agent, message = valve_agent, "no state of a controller, or is damaged"
    if damage == "other spaces":
        agent, message = tiny_agent, "saved by an agent with other spaces"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    else:
        from safetensors.numpy import save_file

        save_file(
            {"a": np.zeros(1)},
            path,
            metadata={"controller": json.dumps({"format": 1, "spaces": controller._spaces()})},
        )
    other = Controller(agent)
    with pytest.raises(ValueError, match=message):
        other.load(path)
    with pytest.raises(RuntimeError, match="no episode has begun"):
        other.step({})


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": float("nan")}, "level of the observation is nan: expected a finite number"),
        ({"level": None}, "level of the observation is nan"),
        ({"level": "high"}, "level is 'high': expected a number"),
        ({"mode": "automatic"}, "mode is 'automatic': expected one of 'auto', 'hand'"),
        ({"inflow": ...}, "the observation has no inflow"),
    ],
)
def test_a_wrong_observation_is_answered_with_a_sentence_and_changes_nothing(valve_agent, stream, change, message):
    controller = _begun(valve_agent)
    controller.step(stream[0][0])
    controller.observe(stream[1][0])
    wrong = {name: value for name, value in (stream[0][1] | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        controller.step(wrong)
    assert controller.step(stream[0][1]) == WORDS[_lived(valve_agent, *stream)[1]] and controller.timestep == 2


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"action": "ajar"}, "valve is 'ajar': expected one of 'half', 'open', 'shut'"),
        ({"action": np.array(7)}, "the executed action is 7: expected an action of Discrete"),
        ({"action": ["open", "shut"]}, "has 2 values: expected valve"),
        ({"action": {"vlave": "open"}}, "the executed action has no valve"),
        ({"reward": float("inf")}, "the reward is inf: expected a finite number"),
        ({"reward": "much"}, "the reward is 'much'"),
        ({"reward": 1.0, "step": 4}, "step is 4: expected one of those that are kept, 0 to 0"),
    ],
)
def test_what_cannot_have_happened_is_refused(valve_agent, stream, told, message):
    controller = _begun(valve_agent)
    controller.step(stream[0][0])
    with pytest.raises(ValueError, match=message):
        controller.observe(**told)
    assert controller.unknown_rewards == 1


def test_other_wrong_calls_say_what_to_do(valve_agent, stream, tiny_agent):
    controller = Controller(valve_agent)
    with pytest.raises(RuntimeError, match="call begin"):
        controller.step(stream[0][0])
    with pytest.raises(RuntimeError, match="call begin"):
        controller.state_bytes()
    with pytest.raises(RuntimeError, match="observe was called before step"):
        controller.observe(reward=1.0)
    with pytest.raises(ValueError, match="row 1 of the history: valve is 'ajar'"):
        controller.begin(
            1.0, [stream[0][0] | {"valve": "open", "reward": 0.0}, stream[0][1] | {"valve": "ajar", "reward": 0}]
        )
    with pytest.raises(ValueError, match="row 0 of the history: there is no column 'reward'"):
        controller.begin(1.0, [stream[0][0] | {"valve": "open"}])
    with pytest.raises(ValueError, match=r"seed is 1\.5"):
        controller.begin(1.0, seed=1.5)
    with pytest.raises(ValueError, match="keep_steps is 0"):
        Controller(valve_agent, keep_steps=0)
    with pytest.raises(ValueError, match="random actions need an action space"):
        Controller(noisy("random"))
    by_array = _begun(tiny_agent)
    with pytest.raises(ValueError, match=r"has shape \(1, 4\): expected \(4,\)"):
        by_array.step(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="the observations have no names"):
        by_array.step({"x": 1.0})


def test_dictionaries_of_an_environment_go_in_and_out():
    space = Dict({"position": Box(-1, 1, (2,), np.float32), "gear": Discrete(3)})
    actions = Dict({"brake": Discrete(2), "wheel": Box(-1, 1, (1,), np.float32)})
    rng = np.random.default_rng(0)
    rows = {
        "observations": [rng.normal(size=(6, 5)).tolist()],
        "actions": [np.column_stack([rng.integers(0, 2, 6), rng.uniform(-1, 1, 6)]).tolist()],
        "rewards": [[1.0] * 6],
        "terminations": [[False] * 6],
        "truncations": [[False] * 5 + [True]],
    }
    from hf_seqrl.data.composite_spaces import flat_space

    metadata = TrajectoryMetadata(
        observation_space=flat_space(space), source_observation_space=space, action_space=actions
    )
    agent = _agent(with_metadata(Dataset.from_dict(rows), metadata), **SMALL)
    controller = Controller(agent)
    controller.begin(6.0)
    action = controller.step({"position": np.array([0.5, -0.5]), "gear": 2})
    assert actions.contains({"brake": np.int64(action["brake"]), "wheel": action["wheel"].astype(np.float32)})
    controller.observe(action={"brake": 1, "wheel": np.array([0.25])}, reward=1.0)
    controller.step({"position": np.array([0.5, -0.5]), "gear": 0})
    assert controller.return_to_go == 6.0 - 1.0


def test_an_actor_from_outside_is_replayed_as_a_whole(tmp_path):
    class Counting(Actor):
        """Answers with the number of observations that it has seen in this episode."""

        def _allocate(self, num_envs):
            self.seen = np.zeros(num_envs)

        def _begin(self, env_indices):
            self.seen[env_indices] = 0

        def _choose(self, observations):
            self.seen += 1
            return self.seen.copy()

        def _remember(self, actions, rewards): ...

        def _keep(self, env_indices): ...

    controller = Controller(Counting(), keep_steps=1)
    controller.begin()
    assert [controller.step([0.0]) for _ in range(5)] == [1, 2, 3, 4, 5]
    other = Controller(Counting())
    other.load(controller.save(tmp_path / "state"))
    assert other.step([0.0]) == 6
    other.observe(reward=1.0, step=2)
    assert other.step([0.0]) == 7


def test_a_processor_alone_makes_no_names(cartpole_dataset):
    processor = DecisionTransformerProcessor.from_dataset(cartpole_dataset, context_length=2)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    controller = Controller(agent)
    with pytest.raises(ValueError, match="give the history as arrays"):
        controller.begin(10.0, history=[{"reward": 1.0}])
