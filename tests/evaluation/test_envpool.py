"""EnvPool as a backend, by a stand-in with its surface; `test_envpool_installed` asks EnvPool itself."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from envpool_stand_in import Pool, as_a_rollout, episodes_by_hand, stand_in
from scripted_episodes import RememberingActor, ScriptedEpisodes, length_of, return_of

from hf_seqrl import RolloutResult, load_trajectories, metadata_of
from hf_seqrl.cli.main import main
from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.rollout import rollout


@pytest.fixture(autouse=True)
def envpool(monkeypatch):
    module = stand_in()
    monkeypatch.setitem(sys.modules, "envpool", module)
    monkeypatch.setattr("hf_seqrl.evaluation.collect.version", lambda name: f"the version of {name}")
    return module


def zeros(observations):
    return np.zeros(len(observations), np.int64)


def follow_the_pole(observations):
    return (observations[:, 2] > 0).astype(np.int64)


def in_envpool(policy=zeros, env="Scripted-v0", **options):
    return rollout(policy, env, backend="envpool", **options)


def test_only_the_first_episode_of_a_lane_has_a_seed(envpool):
    result = in_envpool(num_episodes=8, num_envs=3, seed=20)
    assert result.seeds.tolist() == [20, 21, 22, -1, -1, -1, -1, -1]
    assert result.summary()["seeds"] is None
    np.testing.assert_allclose(result.returns[:3], [return_of(seed) for seed in (20, 21, 22)])
    assert [pool.seeds for pool in envpool.made] == [[20, 21, 22]]


def test_with_a_lane_for_each_episode_all_have_seeds():
    actor = RememberingActor(targets=[9.0])
    result = in_envpool(actor, num_episodes=4, num_envs=100, target_return=[9, 8])
    assert result.seeds.tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(result.returns, [return_of(seed) for seed in range(4)] * 2)
    assert result.lengths.tolist() == [length_of(seed) for seed in range(4)] * 2
    assert result.terminated.tolist() == [True, False, True, False] * 2
    assert sum(actor.batch_sizes) == result.lengths.sum()


def test_returns_and_lengths_are_those_of_a_loop_by_hand():
    by_hand = as_a_rollout(episodes_by_hand(Pool("CartPole-v1", 3, seed=7), follow_the_pole, 11), 11)
    result = in_envpool(follow_the_pole, "CartPole-v1", num_episodes=11, num_envs=3, seed=7)
    assert [*zip(result.returns, result.lengths, result.terminated)] == by_hand
    assert len(set(result.lengths)) > 5


def test_environments_without_an_episode_are_not_stepped(envpool):
    result = in_envpool(num_episodes=20, num_envs=6)
    assert envpool.made[0].stepped == result.lengths.sum()


def test_the_result_names_the_backend(tmp_path):
    result = in_envpool(num_episodes=2)
    assert (result.backend, result.env_id, result.environment) == ("envpool", "Scripted-v0", "Scripted-v0 of EnvPool")
    assert RolloutResult.load(result.save(tmp_path / "result.json")).backend == "envpool"
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["summary"]["backend"] == "envpool"
    del content["backend"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert RolloutResult.load(tmp_path / "result.json").backend == "gymnasium"
    assert rollout(zeros, ScriptedEpisodes, num_episodes=1).backend == "gymnasium"


def test_a_limit_truncates():
    result = in_envpool(num_episodes=6, num_envs=6, max_episode_steps=3)
    assert result.lengths.tolist() == [1, 2, 3, 3, 3, 3]
    assert result.terminated.tolist() == [True, False, False, False, False, False]


def test_without_a_limit_of_its_own_an_environment_gets_the_agents(caplog):
    actor = RememberingActor(Task(max_episode_steps=5))
    actor._choose, actor._remember = zeros, lambda actions, rewards: None
    result = in_envpool(actor, "Endless-v0", num_episodes=2)
    assert result.lengths.tolist() == [5, 5] and result.truncated.all()
    assert "EnvPool's Endless-v0 has no time limit: its episodes are truncated after 5 steps" in caplog.text
    assert in_envpool(actor, "Endless-v0", num_episodes=2, max_episode_steps=7).lengths.tolist() == [7, 7]
    assert in_envpool(num_episodes=7, num_envs=7).lengths.max() == 7  # one with a limit keeps it


def test_an_episode_that_does_not_end_asks_for_a_limit(monkeypatch, envpool):
    monkeypatch.setattr("hf_seqrl.evaluation.episode_loop.MOST_STEPS", 50)
    with pytest.raises(ValueError, match=r"gone on for 50 steps.*max_episode_steps"):
        in_envpool(env="Endless-v0", num_episodes=1)
    assert all(pool.closed_by_maker for pool in envpool.made) and envpool.made


def test_options_are_passed_on(envpool):
    in_envpool(num_episodes=2, env_kwargs={"reward_scale": 0.5, "num_threads": 7})
    assert envpool.made[0].num_threads == 7 and envpool.made[0].scale == 0.5
    in_envpool(num_episodes=1)
    assert envpool.made[1].num_threads == 1  # no more than environments
    in_envpool(num_episodes=2, env_kwargs={"num_threads": np.int64(2)})
    assert type(envpool.made[2].num_threads) is int and envpool.made[2].num_threads == 2


def test_observations_are_flattened():
    result = in_envpool("random", "InParts-v0", num_episodes=4, num_envs=4)
    np.testing.assert_allclose(result.returns, [return_of(seed) for seed in range(4)])
    dataset = collect("random", "InParts-v0", num_episodes=3, num_envs=3, seed=3, backend="envpool")
    assert dataset["observations"][1] == [[4.0, float(time)] for time in range(length_of(4))]
    assert metadata_of(dataset).observation_names == ("script", "time")
    numbers = collect("random", "FrozenLake-v1", num_episodes=2, backend="envpool")
    assert all(sum(row) == 1 and len(row) == 16 for row in numbers["observations"][0])


def test_bounds_that_are_none_are_infinite():
    dataset = collect("random", "Endless-v0", num_episodes=1, max_episode_steps=3, backend="envpool")
    assert metadata_of(dataset).observations == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert metadata_of(dataset).max_episode_steps == 3


def test_collected_data_say_where_they_are_from(envpool):
    policies = {"one": zeros, "other": "random"}
    dataset = collect(policies, "Scripted-v0", num_episodes=6, num_envs=3, seed=30, backend="envpool")
    assert [row[0][0] for row in dataset["observations"]] == [30, 31, 32, 33, 34, 35]
    provenance = metadata_of(dataset).provenance
    assert provenance["backend"] == "envpool" and provenance["num_envs"] == 3
    assert provenance["versions"]["envpool"] == "the version of envpool"
    assert [part["seeds"] for part in provenance["policies"]] == [[30, 32], [33, 35]]
    assert [pool.closed_by_maker for pool in envpool.made] == [True, True]
    later = collect(zeros, "Scripted-v0", num_episodes=6, num_envs=2, backend="envpool")
    assert metadata_of(later).provenance["policies"][0]["seeds"] is None
    of_gymnasium = metadata_of(collect(zeros, ScriptedEpisodes, num_episodes=1)).provenance
    assert of_gymnasium["backend"] == "gymnasium" and "envpool" not in of_gymnasium["versions"]


def test_a_pool_of_the_caller_has_no_known_seeds(envpool):
    pool = envpool.make("Scripted-v0", env_type="gymnasium", num_envs=3, seed=5)
    result = rollout(zeros, pool, num_episodes=5, seed=5)
    assert result.seeds.tolist() == [-1] * 5
    assert (result.backend, result.env_id, pool.closed_by_maker) == ("envpool", None, False)
    assert result.environment == "an environment of EnvPool"
    np.testing.assert_allclose(result.returns[:3], [return_of(seed) for seed in (5, 6, 7)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "CartPole-v0"}, r"no environment 'CartPole-v0': did you mean 'CartPole-v1'.*backend=\"gymnasium\""),
        ({"env": "hf_seqrl/BicycleGrid-v0"}, r"no environment 'hf_seqrl/BicycleGrid-v0': use backend=\"gymnasium\""),
        ({"env": "Chess-v0"}, "for 2 players, expected a single one"),
        ({"env": ScriptedEpisodes}, "makes the environments of an id, and env is of type type:"),
        ({"env": ScriptedEpisodes()}, "makes the environments of an id, and env is of type ScriptedEpisodes:"),
        ({"env": gym.spec("CartPole-v1")}, "makes the environments of an id, and env is of type EnvSpec:"),
        (
            {"env": Pool("Scripted-v0", 2)},
            r"env is of type Pool: .* or leave backend out \(a pool .* taken as it is\)",
        ),
        ({"record_frames": 1}, r"not drawn here: .* use backend=\"gymnasium\""),
        ({"env_kwargs": {"gravity": 3}}, r"does not make Scripted-v0 with {'gravity': 3} .*'gravity'.*make_spec"),
        ({"env_kwargs": {"seed": 3, "batch_size": 2}}, "env_kwargs hold batch_size, seed, which"),
        ({"env_kwargs": {"num_threads": -3}}, "num_threads is -3: expected a whole number of at least 1"),
        ({"env_kwargs": {"num_threads": True}}, "num_threads is True: expected a whole number of at least 1"),
        ({"env_kwargs": {"num_threads": 2.0}}, r"num_threads is 2\.0: expected a whole number of at least 1"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0: expected at least 1"),
        ({"seed": -1}, "the seeds are -1 to 8, EnvPool takes 0 to 2147483647"),
        ({"seed": 2**31}, "the seeds are 2147483648 to 2147483657, EnvPool takes"),
    ],
)
def test_what_envpool_cannot_do_is_refused(envpool, options, message):
    with pytest.raises(ValueError, match=message):
        in_envpool(**options)
    assert envpool.made == []


def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="backend is 'brax': expected 'gymnasium' or 'envpool'"):
        rollout(zeros, "CartPole-v1", backend="brax")


def test_without_envpool_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    for play in (rollout, collect):
        with pytest.raises(ImportError, match=r'needs EnvPool.*pip install "hf-seqrl\[envpool\] @'):
            play(zeros, "CartPole-v1", num_episodes=1, backend="envpool")


def test_no_module_is_imported_for_an_id(tmp_path, monkeypatch):
    (tmp_path / "brings_environments.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="names a module to import, brings_environments, and EnvPool imports none"):
        in_envpool(env="brings_environments:Scripted-v0")


@pytest.fixture
def agent_folder(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "agent")
    return str(tmp_path / "agent")


def test_the_command_evaluates(agent_folder, tmp_path, capsys, envpool):
    figures = tmp_path / "figures.json"
    command = ["evaluate", agent_folder, "--num_episodes", "3", "--backend", "envpool", "--save"]
    assert main([*command, "--output", str(figures)]) == 0
    assert "mean return" in capsys.readouterr().out
    assert json.loads(figures.read_text())["backend"] == "envpool" and len(envpool.made) == 1
    card = (tmp_path / "agent" / "README.md").read_text()
    assert "3 episodes for each target return in CartPole-v1 of EnvPool, seeds 0-2." in card
    assert json.loads((tmp_path / "agent" / "results.json").read_text())["environment"] == "CartPole-v1 of EnvPool"


def test_the_command_collects(tmp_path, envpool):
    data = tmp_path / "data"
    command = ["collect", "CartPole-v1", "--num_episodes", "3", "--output", str(data), "--backend", "envpool"]
    assert main(command) == 0
    assert [pool.seeds for pool in envpool.made] == [[0, 1, 2]]
    assert metadata_of(load_trajectories(data)).provenance["backend"] == "envpool"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--video", "film.mp4"], "not drawn here: leave frames and videos (--video) out"),
        (["--offline", "data"], "--backend is for episodes in an environment"),
    ],
)
def test_the_command_refuses_before_it_loads_the_agent(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "no-such-agent", "--backend", "envpool", *options]) == 1
    assert message in capsys.readouterr().err
