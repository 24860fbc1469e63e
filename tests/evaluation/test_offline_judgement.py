"""Judging by held-out actions: against the stock model step by step, against figures done by hand, and what it tells."""

import gymnasium
import numpy as np
import pytest
import torch
from transformers import DecisionTransformerModel, Trainer, TrainingArguments

from hf_seqrl import (
    Agent,
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    OfflineJudgement,
    PolicyGradientModel,
    PolicyGradientProcessor,
    TrainableDT,
    TrajectorySeq2SeqModel,
    TrajectorySeq2SeqProcessor,
    TrajectoryTransformerModel,
    TrajectoryTransformerProcessor,
    TrajectoryWindows,
    judge_offline,
    load_trajectories,
)
from hf_seqrl.data.spaces import space_to_dict

BOX = gymnasium.spaces.Box(-1, 1, (2,))


def _episodes(continuous=False, lengths=(6, 1, 4), seed=0):
    rng = np.random.default_rng(seed)
    return load_trajectories(
        [
            {
                "observations": rng.normal(size=(n, 3)),
                "actions": rng.uniform(-1, 1, (n, 2)) if continuous else rng.integers(0, 3, n),
                "rewards": rng.normal(size=n),
                "terminations": np.arange(n) == n - 1,
            }
            for n in lengths
        ],
        action_space=BOX if continuous else gymnasium.spaces.Discrete(3),
    )


def _decision_transformer(dataset, **options):
    torch.manual_seed(0)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=3, **options)
    return Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=2, n_head=2)), processor)


def _stock_loss(folder, processor, episode, step, shift):
    """The loss of one step by transformers' own model, from the raw episode."""
    first = max(step - 2, 0)
    now = slice(first, step + 1)
    states = (np.asarray(episode["observations"])[now] - processor.state_mean) / processor.state_std
    raw = np.asarray(episode["actions"])
    actions = np.eye(3)[raw] if raw.ndim == 1 else raw
    to_go = (np.cumsum(np.asarray(episode["rewards"])[::-1])[::-1] + shift)[now] / processor.return_scale
    batch = {"states": states, "actions": actions[now], "returns_to_go": to_go[:, None]}
    batch = {name: torch.tensor(values, dtype=torch.float32)[None] for name, values in batch.items()}
    batch["actions"][0, -1] = 0  # what is to be predicted cannot be seen
    model = DecisionTransformerModel.from_pretrained(folder)
    mask = torch.ones(1, step + 1 - first)
    timesteps = torch.arange(first, step + 1)[None]
    predicted = model(**batch, timesteps=timesteps, attention_mask=mask, rewards=None).action_preds[0, -1].detach()
    if raw.ndim == 1:
        return -predicted.log_softmax(-1)[raw[step]].item()
    return float(np.square(predicted.numpy() - raw[step]).mean())


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_losses_are_those_of_the_stock_model_at_the_end_of_each_history(continuous, tmp_path):
    dataset = _episodes(continuous)
    agent = _decision_transformer(dataset)
    agent.model.save_pretrained(tmp_path)
    judgement = judge_offline(agent, dataset, return_shifts=[2.5], num_steps=None, batch_size=4)
    places = [(episode, step) for episode, length in enumerate((6, 1, 4)) for step in range(length)]
    for row, shift in enumerate((0.0, 2.5)):
        expected = [_stock_loss(tmp_path, agent.processor, dataset[e], t, shift) for e, t in places]
        np.testing.assert_allclose(judgement.losses[row], expected, rtol=1e-4)
    assert judgement.episodes.tolist() == [episode for episode, _ in places]
    returns = [sum(rewards) for rewards in dataset["rewards"]]
    np.testing.assert_allclose(judgement.episode_returns, [returns[e] for e, _ in places], rtol=1e-6)
    assert judgement.unit == ("squared error" if continuous else "nats")


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_losses_of_an_encoder_decoder_are_those_of_the_action_alone(continuous):
    dataset = _episodes(continuous)
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, context_length=3, conditioning="return")
    torch.manual_seed(0)
    model = TrajectorySeq2SeqModel(processor.model_config(hidden_size=16, num_attention_heads=2)).eval()
    agent = Agent(model, processor)
    losses = judge_offline(agent, dataset, num_steps=None).losses[2]
    agent.reset(1, target_return=sum(dataset[0]["rewards"]))
    agent.act(np.asarray(dataset[0]["observations"][:1], np.float32))  # the history now holds the first state
    source = agent.actor.collator.source(
        agent.actor.states[:, :1], agent.actor.actions[:, :1], agent.actor.lengths, agent.actor.returns_to_go
    )
    step = model(encoder_outputs=model.encode(**source), use_cache=True)
    action = dataset[0]["actions"][0]
    if continuous:
        expected = np.square(step.value_preds[0, -1, :2].detach().numpy() - action).mean()
    else:
        expected = -step.logits[0, -1].log_softmax(-1)[action].item()
    assert losses[0] == pytest.approx(float(expected), rel=1e-4)


def test_an_agent_that_reads_no_return_pays_nothing_for_a_wrong_one():
    dataset = _episodes()
    judgement = judge_offline(_decision_transformer(dataset, conditioning="none"), dataset, num_steps=None)
    assert len(judgement.return_shifts) == 5
    assert {row["difference"] for row in judgement.by_return_shift()} == {0.0}


def test_an_agent_that_learned_what_belongs_to_which_return_pays_for_a_wrong_one(tmp_path):
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, 200)  # of an episode's every step; the return is 5 times the action
    dataset = load_trajectories(
        [
            {
                "observations": rng.normal(size=(5, 1)),
                "actions": np.full(5, action),
                "rewards": np.full(5, float(action)),
                "terminations": np.arange(5) == 4,
            }
            for action in actions
        ],
        action_space=gymnasium.spaces.Discrete(2),
    )
    parts = dataset.train_test_split(0.25, seed=0)
    agent = _decision_transformer(parts["train"])
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=150,
        learning_rate=1e-2,
        per_device_train_batch_size=64,
        save_strategy="no",
        use_cpu=True,
    )
    collator = DecisionTransformerGymDataCollator(parts["train"], agent.processor)
    Trainer(agent.model, arguments, collator, TrajectoryWindows(parts["train"], agent.processor)).train()
    judgement = judge_offline(agent, parts["test"], return_shifts=[-5.0, 5.0], num_steps=None)
    low, own, high = judgement.by_return_shift()
    assert own["loss"] < 0.1 < judgement.uninformed_loss
    assert low["interval"][0] > 0 and high["interval"][0] > 0 and own["difference"] == 0


def _by_hand():
    return OfflineJudgement(
        losses=np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0, 5.0]]),
        return_shifts=np.array([0.0, 10.0]),
        episodes=np.array([0, 0, 1, 2]),
        episode_returns=np.array([-7.0, -7.0, 0.0, 9.0]),
        uninformed_loss=6.5,
        unit="nats",
    )


def test_quantiles_hold_the_episodes_from_the_worst_to_the_best():
    rows = _by_hand().by_return_quantile(3)
    assert [(row["lowest_return"], row["num_episodes"], row["num_steps"], row["loss"]) for row in rows] == [
        (-7.0, 1, 2, 1.5),
        (0.0, 1, 1, 3.0),
        (9.0, 1, 1, 4.0),
    ]
    assert rows[0]["interval"] is None  # one episode says nothing about others


def test_shifts_are_compared_at_the_same_steps():
    own, higher = _by_hand().by_return_shift()
    assert (own["loss"], own["difference"]) == (2.5, 0.0)
    assert (higher["loss"], higher["difference"]) == (3.5, 1.0)
    assert higher["interval"] == pytest.approx((0.5, 2.0))  # the least and the most that one episode alone shows


def test_steps_of_an_episode_are_no_more_evidence_than_one():
    losses = np.random.default_rng(0).normal(size=(1, 50))
    once = {"return_shifts": np.zeros(1), "uninformed_loss": 1.0, "unit": "nats"}
    few = OfflineJudgement(losses, episodes=np.arange(50), episode_returns=np.zeros(50), **once)
    many = OfflineJudgement(
        np.repeat(losses, 20, axis=1), episodes=np.repeat(np.arange(50), 20), episode_returns=np.zeros(1000), **once
    )
    assert many.by_return_quantile(1)[0]["interval"] == pytest.approx(few.by_return_quantile(1)[0]["interval"])


def test_a_guess_that_looks_at_nothing():
    episode = {"observations": np.zeros((4, 1)), "actions": [0, 0, 0, 1], "rewards": np.ones(4)}
    dataset = load_trajectories([{**episode, "terminations": np.arange(4) == 3}])
    agent = _decision_transformer(dataset)
    shares = np.array([0.75, 0.25])
    assert judge_offline(agent, dataset).uninformed_loss == pytest.approx(-(shares * np.log(shares)).sum())
    continuous = _episodes(continuous=True)
    expected = np.concatenate([np.asarray(one) for one in continuous["actions"]]).var(axis=0).mean()
    judged = judge_offline(_decision_transformer(continuous), continuous)
    assert judged.uninformed_loss == pytest.approx(expected, rel=1e-5)


def test_drawn_steps_follow_from_the_seed():
    dataset = _episodes(lengths=(30, 30))
    agent = _decision_transformer(dataset)
    first, again, other = (judge_offline(agent, dataset, num_steps=10, seed=seed) for seed in (1, 1, 2))
    assert first.losses.shape == (5, 10)
    np.testing.assert_array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses, other.losses)


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_losses_of_a_policy_network_are_those_of_what_it_does(continuous):
    dataset = _episodes(continuous)
    observations, actions = (np.concatenate(dataset[name][:]) for name in ("observations", "actions"))
    spaces = {"observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (3,)), "action_space": BOX}
    if not continuous:
        spaces["action_space"] = gymnasium.spaces.Discrete(3)
    processor = PolicyGradientProcessor(**{name: space_to_dict(space) for name, space in spaces.items()})
    torch.manual_seed(0)
    agent = Agent(PolicyGradientModel(processor.model_config(hidden_size=8)), processor)
    torch.nn.init.normal_(agent.model.policy[-1].weight)
    losses = judge_offline(agent, dataset, num_steps=None).losses[2]
    if continuous:
        agent.reset(len(actions))
        expected = np.square(agent.act(observations.astype(np.float32)) - actions).mean(axis=1)
    else:
        scores = agent.model.policy(torch.tensor(observations, dtype=torch.float32)).softmax(-1).detach().numpy()
        expected = -np.log(scores[np.arange(len(actions)), actions])
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_a_family_that_plans_says_that_it_predicts_no_actions():
    dataset = _episodes()
    processor = TrajectoryTransformerProcessor.from_dataset(dataset, num_bins=5, sequence_transitions=2)
    model = TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=1, n_embd=8))
    with pytest.raises(ValueError, match="trajectory-transformer does not predict actions"):
        judge_offline(Agent(model, processor), dataset)


def test_both_views_are_told_and_drawn(tmp_path):
    judgement = _by_hand()
    table = judgement.table(3)
    assert "-7 .. -7" in table and "own return +10" in table and "looks at nothing: 6.5" in table
    assert judgement.plot(tmp_path / "judgement.png", 3).stat().st_size > 5000
