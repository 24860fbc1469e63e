"""The runner of exported agents, on a graph whose actions can be computed by hand."""

import io
import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from hf_seqrl.deploy import runner as module  # noqa: E402
from hf_seqrl.deploy.runner import Runner  # noqa: E402

DESCRIPTION = {
    "kind": "acting",
    "graph": "step.onnx",
    "digest": "of this graph",
    "conditioned": True,
    "target_returns": [100.0, 10.0],
    "high_return": 70.0,
    "discount": 0.5,
    "missing_values": "error",
    "observation": {"shape": [3], "source": None, "names": ["level", "mode=auto", "mode=hand"]},
    "action": {"shape": [], "dtype": "int64", "lowest": [0], "highest": [2], "names": ["valve"]},
}
WORDS = {"mode": ["auto", "hand"], "valve": ["shut", "half", "open"]}


@pytest.fixture
def write(tmp_path):
    """`write(**changes)`: a folder whose graph keeps `sum = 2 sum + level + 10 last_action + return_to_go` and acts by
    `sum + 1000 timestep`, modulo 3."""

    def build(**changes):
        text = """<ir_version: 8, opset_import: ["": 18]>
        step (double[1,3] observation, double[1,1] last_action, double[1] return_to_go, int64[1] timestep, float[1] memory_sum)
          => (double[1,1] action, float[1] next_memory_sum)
        <double[1] two = {2}, double[1] ten = {10}, double[1] thousand = {1000}, double[1,1] three = {3}, int64[2] square = {1, 1},
         int64[1] first = {0}, int64[1] second = {1}, int64[1] axis = {1}, int64[1] flat = {1}>
        { sum = Cast <to: int = 11> (memory_sum)
          doubled = Mul(sum, two)
          level2 = Slice(observation, first, second, axis)
          level = Reshape(level2, flat)
          last1 = Reshape(last_action, flat)
          last = Mul(last1, ten)
          a = Add(doubled, level)
          b = Add(a, last)
          c = Add(b, return_to_go)
          time = Cast <to: int = 11> (timestep)
          late = Mul(time, thousand)
          d = Add(c, late)
          e = Reshape(d, square)
          action = Mod <fmod: int = 1> (e, three)
          next_memory_sum = Cast <to: int = 1> (c) }"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / "step.onnx")
        description = json.loads(json.dumps(DESCRIPTION)) | changes
        for part in ("observation", "action"):
            description[part].setdefault("categories", WORDS)
        (tmp_path / "agent.json").write_text(json.dumps(description))
        return tmp_path

    return build


def by_hand(levels, executed, rewards, target, discount=0.5):
    """The sums of an episode; `executed` are codes."""
    total, last, actions = 0.0, 0.0, []
    for timestep, level in enumerate(levels):
        total = 2 * total + level + 10 * last + target
        actions.append(int((total + 1000 * timestep) % 3))
        last = actions[-1] if executed[timestep] is None else executed[timestep]
        target = (target - rewards[timestep]) / discount
    return actions


def named(level):
    return {"level": level, "mode": "hand"}


def test_memory_return_and_executed_actions_are_those_of_the_episode(write):
    runner = Runner(write())
    levels, executed, rewards = [1.0, 5.0, 2.0, 9.0], [None, 2, None, None], [3.0, 7.0, 0.0, 1.0]
    for _ in range(2):  # a second episode forgets the first
        runner.begin(target_return=40)
        said = []
        for level, code, reward in zip(levels, executed, rewards):
            said.append(runner.step(named(level)))
            runner.observe(reward=reward)
            runner.observe(action=None if code is None else WORDS["valve"][code])
        assert said == [WORDS["valve"][code] for code in by_hand(levels, executed, rewards, 40)]
    assert runner.timestep == 3
    assert runner.return_to_go == ((((40 - 3) * 2 - 7) * 2 - 0) * 2 - 1) * 2


def test_without_word_of_it_the_reward_is_0_and_the_chosen_action_was_executed(write):
    runner = Runner(write())
    runner.begin()
    said = [runner.step([level, 0, 1]) for level in (1, 2, 3)]
    assert said == [WORDS["valve"][code] for code in by_hand([1, 2, 3], [None] * 3, [0] * 3, 100)]


def test_auto_asks_for_the_high_return_of_the_data_where_no_critic_knows_better(write):
    runner = Runner(write())
    runner.begin("auto")
    said = [runner.step([level, 0, 1]) for level in (1, 2, 3)]
    assert said == [WORDS["valve"][code] for code in by_hand([1, 2, 3], [None] * 3, [0] * 3, 70)]
    for target in ("auto", "best"):
        with pytest.raises(ValueError, match=f"target_return is '{target}': expected the return to reach"):
            Runner(write(high_return=None)).begin(target)


def test_a_saved_episode_goes_on_in_another_runner(write, tmp_path):
    runner, other = Runner(write()), Runner(write())
    runner.begin(7)
    runner.step(named(1.0))
    runner.observe(reward=2.0, action="open")
    runner.save(tmp_path / "state.npz")
    other.load(tmp_path / "state.npz")
    assert [other.step(named(level)) for level in (2.0, 8.0)] == [runner.step(named(level)) for level in (2.0, 8.0)]
    assert other.return_to_go == runner.return_to_go
    description = json.loads((tmp_path / "agent.json").read_text()) | {"digest": "of another"}
    (tmp_path / "agent.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="state of another agent"):
        Runner(tmp_path).load(tmp_path / "state.npz")


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1.0, 0.0], r"shape \(2,\): expected \(3,\)"),
        ([1.0, 0.0, float("nan")], r"nan at entry \[2\]"),
        ({"level": 1.0}, "has no mode=auto, mode=hand"),
        ({"level": 1.0, "mode": "off"}, "mode is 'off': expected one of 'auto', 'hand'"),
    ],
)
def test_a_wrong_observation_is_named_and_changes_nothing(write, observation, message):
    runner, other = Runner(write()), Runner(write())
    for one in (runner, other):
        one.begin(5)
        one.step(named(1.0))
        one.observe(reward=1.0)
    with pytest.raises(ValueError, match=message):
        runner.step(observation)
    assert runner.step(named(3.0)) == other.step(named(3.0))


@pytest.mark.parametrize(("action", "message"), [("ajar", "valve is 'ajar'"), (["open", "shut"], "expected 1 values")])
def test_a_wrong_executed_action_is_refused(write, action, message):
    runner = Runner(write())
    with pytest.raises(RuntimeError, match="begin"):
        runner.step(named(1.0))
    runner.begin()
    with pytest.raises(RuntimeError, match="before step"):
        runner.observe(action="open")
    runner.step(named(1.0))
    with pytest.raises(ValueError, match=message):
        runner.observe(action=action)
    with pytest.raises(ValueError, match="reward is nan"):
        runner.observe(reward=float("nan"))


def test_targets_are_for_conditioned_agents(write):
    with pytest.raises(ValueError, match="takes none"):
        Runner(write(conditioned=False)).begin(3.0)
    with pytest.raises(ValueError, match="target_return is None"):
        Runner(write(target_returns=[])).begin()


def test_missing_values_may_be_the_last_ones(write):
    runner, other = Runner(write(missing_values="last")), Runner(write())
    for one in (runner, other):
        one.begin()
        one.step([4.0, 0, 1])
    assert runner.step([None, 0, 1]) == other.step([4.0, 0, 1])


def test_composite_observations_are_flattened_as_gymnasium_does(write):
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
    from gymnasium.spaces.utils import flatten

    from hf_seqrl.data.spaces import space_to_dict

    parts = Tuple((MultiDiscrete([2, 3]), MultiBinary(2)))
    space = Dict(parts=parts, mode=Discrete(3), position=Box(-1, 1, (2, 2)))
    space.seed(0)
    for _ in range(5):
        value = space.sample()
        np.testing.assert_array_equal(module._flat(space_to_dict(space), value), flatten(space, value))
    with pytest.raises(ValueError, match="expected one of the choices"):
        module._flat(space_to_dict(Discrete(3)), 3)


def test_lines_in_lines_out(write, monkeypatch, capsys, tmp_path):
    lines = [
        named(1.0),
        {"observation": [2.0, 0, 1], "reward": 3.0, "action": "open"},
        [0.0, 0.0],
        {"reward": 4.0},
        {"observation": named(5.0)},
        {"target_return": 7.0, "observation": named(1.0)},
    ]
    folder, state = write(), tmp_path / "state.npz"
    text = "\n".join(map(json.dumps, lines)) + "\n\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert module.run_lines(Runner(folder), 40.0, str(state)) == 1  # one was refused
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    words = WORDS["valve"]
    first = [words[code] for code in by_hand([1, 2, 5], [2, None, None], [3, 4, 0], 40)]
    again = words[by_hand([1], [None], [0], 7)[0]]
    assert answers == [first[0], first[1], {"error": "ValueError: the observation has shape (2,): expected (3,)."}, None,
                       first[2], again]  # fmt: skip

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(named(2.0)) + "\n"))
    assert module.run_lines(Runner(folder), state=str(state)) == 0  # goes on from the file
    assert json.loads(capsys.readouterr().out) == words[by_hand([1, 2], [None] * 2, [0] * 2, 7)[1]]
