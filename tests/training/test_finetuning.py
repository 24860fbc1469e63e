"""Online fine-tuning: rounds that are written whole, the same after a kill, and that make a weak agent better."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import set_seed

from hf_seqrl import Agent, OnlineOptions, collect, finetune_online, rollout
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.models.registry import family_named
from hf_seqrl.training import finetuning
from hf_seqrl.training.run import Judgement

SMALL = {"rounds": 3, "episodes_per_round": 4, "updates_per_round": 6, "batch_size": 8, "num_envs": 4}
NOT_JUDGED = Judgement(num_episodes=0)


@pytest.fixture(scope="module")
def weak():
    """Random CartPole episodes, and `agent()`, a new agent that has hardly been trained."""
    dataset = collect("random", "CartPole-v1", num_episodes=30, seed=0)

    def agent(name="decision-transformer", **options):
        set_seed(0)
        family = family_named(name)
        sizes = {"hidden_size": 16} | (
            {"recipe": "paper", "context_length": 3, "n_layer": 1} if name == "decision-transformer" else {}
        )
        prepared = family.prepare(dataset, family.options_class(**sizes, **options))
        return Agent(prepared.model, prepared.processor)

    return dataset, agent


def tuned(agent, folder, dataset, **changes):
    options = OnlineOptions(**SMALL | changes)
    return finetune_online(
        agent, folder, dataset, options=options, judgement=NOT_JUDGED, resume=folder.exists(), use_cpu=True
    )


@pytest.mark.parametrize("family", ["decision-transformer", "cloning"])
def test_the_episodes_of_the_rounds_join_the_data(tmp_path, weak, family):
    dataset, agent = weak
    before = agent(family)
    weights = {name: value.clone() for name, value in before.model.state_dict().items()}
    after = tuned(before, tmp_path / "run", dataset)
    assert any(not torch.equal(value, weights[name]) for name, value in after.model.state_dict().items())
    assert after.run.updates == 18 and after.run.data["episodes"] == 30 + 3 * 4
    assert len(after.run.options["returns_of_the_rounds"]) == 3
    loaded = Agent.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(loaded.model.state_dict(), after.model.state_dict())
    assert not (tmp_path / "run" / "run_settings.json").exists()
    again = tuned(agent(family), tmp_path / "run", dataset)
    torch.testing.assert_close(again.model.state_dict(), after.model.state_dict())
    with pytest.raises(ValueError, match=r"is finished, and was started with rounds 3 \(now 4\)"):
        tuned(agent(family), tmp_path / "run", dataset, rounds=4)
    with pytest.raises(FileExistsError, match="holds a finished agent"):
        finetune_online(agent(family), tmp_path / "run", dataset, judgement=NOT_JUDGED, use_cpu=True)


def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, weak, monkeypatch):
    dataset, agent = weak
    whole = tuned(agent(), tmp_path / "whole", dataset).model.state_dict()
    widen, calls = finetuning._widen_returns, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:  # in the second round, after its episodes were collected
            raise KeyboardInterrupt
        return widen(*arguments)

    monkeypatch.setattr(finetuning, "_widen_returns", killed)
    with pytest.raises(KeyboardInterrupt):
        tuned(agent(), tmp_path / "parts", dataset)
    monkeypatch.setattr(finetuning, "_widen_returns", widen)
    assert [path.name for path in (tmp_path / "parts" / "rounds").glob("round-*")] == ["round-0000"]
    with pytest.raises(ValueError, match="learning_rate"):
        tuned(agent(), tmp_path / "parts", dataset, learning_rate=0.5)
    resumed = tuned(agent(), tmp_path / "parts", dataset).model.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_exploration_asks_for_more_than_the_best_so_far_and_the_processor_learns_what_was_achieved(tmp_path, weak):
    dataset, agent = weak
    returns = returns_of_episodes(TrajectoryColumns(dataset))
    after = tuned(agent(), tmp_path / "run", dataset)
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "rounds").glob("*/round.json"))]
    assert reports[0]["target_return"] == pytest.approx(returns.max() + 0.1 * np.ptp(returns))
    best = max(returns.max(), *(report["best_return"] for report in reports))
    assert after.target_returns[0] == best == after.processor.task.return_range[1]


def test_only_the_newest_episodes_are_kept_where_that_is_asked_for(tmp_path, weak):
    dataset, agent = weak
    joined = finetuning._joined([dataset, dataset.select([3, 4])], 5)
    assert joined["rewards"][:] == [*dataset["rewards"][-3:], *dataset["rewards"][3:5]]
    alone = tuned(agent(), tmp_path / "run", None)  # from its own episodes
    assert alone.run.data["episodes"] == 12


def test_what_cannot_be_fine_tuned_is_refused(tmp_path, weak):
    dataset, _agent = weak
    critic = family_named("critic")
    prepared = critic.prepare(dataset, critic.options_class(hidden_size=8))
    with pytest.raises(ValueError, match="cannot be fine-tuned online"):
        finetune_online(Agent(prepared.model, prepared.processor), tmp_path / "run")
    with pytest.raises(ValueError, match="noise is 2"):
        OnlineOptions(noise=2.0)


@pytest.mark.slow
def test_a_weak_agent_gets_better(tmp_path, weak):
    dataset, agent = weak
    start = agent()
    before = rollout(start, "CartPole-v1", num_episodes=20, seed=1000).returns.mean()
    options = {"rounds": 8, "episodes_per_round": 20, "updates_per_round": 150, "batch_size": 64}
    after = tuned(start, tmp_path / "run", dataset, **options)
    assert rollout(after, "CartPole-v1", num_episodes=20, seed=1000).returns.mean() > 1.2 * before
    shutil.rmtree(tmp_path / "run")
