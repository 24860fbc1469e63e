"""Training on a stream: the weights of map-style training in the same order, of a run that was not stopped, of other workers."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import Trainer, set_seed

from hf_seqrl import Agent, TrajectoryStream, TrajectoryTrainer
from hf_seqrl.cli.main import main
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.writing import dataset_from_steps
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.run import Judgement, train_agent
from hf_seqrl.training.streaming import StreamLoader, prepare_stream

NO_EPISODES = Judgement(num_episodes=0)
SMALL = {"context_length": 3, "hidden_size": 8, "n_layer": 1}
FAMILIES = {
    "decision-transformer": {**SMALL, "recipe": "paper", "dropout": 0.0},
    "decision-transformer, weighted": {**SMALL, "return_temperature": 0.5, "uniform_share": 0.1, "average_decay": 0.5},
    "decision-transformer, best": {**SMALL, "conditioning": "none", "best_fraction": 0.5, "average_decay": 0.0},
    "trajectory-transformer": {
        **{"sequence_transitions": 2, "n_embd": 8, "n_layer": 1, "n_head": 1, "num_bins": 8, "dropout": 0.0},
    },
    "trajectory-seq2seq": {"context_length": 3, "hidden_size": 8, "eval_fraction": 0.2},
    "cloning": {"hidden_size": 8, "weighting": "none"},
    "critic": {"hidden_size": 8},
}


@pytest.fixture(scope="module")
def dataset():
    """Twenty episodes, the longer the better; the reward of every step is its number in the data set."""
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *rng.integers(2, 9, 20)])
    steps = int(offsets[-1])
    ends = np.isin(np.arange(steps), offsets[1:] - 1)
    columns = {
        "observations": rng.normal(size=(steps, 2)).astype(np.float32),
        "actions": rng.integers(0, 2, steps),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminations": ends,
        "truncations": np.zeros(steps, bool),
    }
    return dataset_from_steps(columns, offsets)


def options_of(name):
    family = family_named(name.split(",")[0])
    return family, family.options_class(**FAMILIES[name])


def columns_of(windows):
    return windows.columns if hasattr(windows, "columns") else windows.transitions.columns


def steps_of(item):
    """The number in the whole data set of the step that a window of a stream belongs to."""
    index = np.asarray([item.index])
    draw = getattr(item.windows, "draw", None)
    return int(columns_of(item.windows).rewards.take(index if draw is None else draw.steps(index))[0])


class InThatOrder(TrajectoryTrainer):
    """Map-style training in a given order."""

    order = ()

    def _get_train_sampler(self, train_dataset=None):
        return list(self.order)


def trained(trainer_class, prepared, training_arguments):
    optimizer = prepared.make_optimizer(training_arguments) if prepared.make_optimizer else None
    trainer = trainer_class(
        prepared.model,
        training_arguments,
        prepared.data_collator,
        prepared.train_dataset,
        processing_class=prepared.processor,
        optimizers=(optimizer, None),
        **{"callbacks": prepared.trainer_arguments.get("callbacks", [])},
    )
    trainer.train()
    return prepared.model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stream_trains_the_weights_of_map_style_training_in_the_same_order(
    dataset, arguments, same_weights, tmp_path, name
):
    family, options = options_of(name)
    training_arguments = arguments(max_steps=6, save_strategy="no")
    stream = TrajectoryStream(dataset, buffer_episodes=6, windows_per_episode=2, seed=3)  # several blocks and epochs
    set_seed(3)
    streamed = prepare_stream(family, stream, options)
    set_seed(3)
    mapped = family.prepare(dataset, options)
    assert same_weights(streamed.model, mapped.model)
    steps = [steps_of(item) for item in islice(streamed.train_dataset, 6 * 8)]
    first_item = getattr(mapped.train_dataset, "draw", None)
    if first_item is not None:  # unweighted windows in the order in which the stream drew them
        mapped.train_dataset.draw = None
    rows = columns_of(mapped.train_dataset).rewards.take(np.arange(columns_of(mapped.train_dataset).num_steps))
    item_of = {int(row): item for item, row in enumerate(rows)}
    InThatOrder.order = [item_of[step] for step in steps]
    assert len(set(steps)) > 20
    models = [
        trained(TrajectoryTrainer, streamed, training_arguments),
        trained(InThatOrder, mapped, arguments(tmp_path / "mapped", max_steps=6, save_strategy="no")),
    ]
    assert same_weights(*models)
    if name == "critic":
        return
    set_seed(3)
    plain = prepare_stream(family, stream, options)
    assert same_weights(
        trained(Trainer, plain, arguments(tmp_path / "plain", max_steps=6, save_strategy="no")), models[0]
    )


def test_weights_by_return_hold_for_a_stream_as_for_the_data_set(dataset):
    family, options = options_of("decision-transformer, weighted")
    stream = TrajectoryStream(dataset, buffer_episodes=5, windows_per_episode=None)
    windows = prepare_stream(family, stream, options).train_dataset
    columns = TrajectoryColumns.of(dataset)
    weights = windows.like.draw.weights[columns.episode_of(np.arange(columns.num_steps))]
    counts = np.zeros(columns.num_steps)
    for item in windows:
        if item.position["epoch"] == 1:
            break
        counts[steps_of(item)] += 1
    by_episode = [np.add.reduceat(values, columns.episode_offsets[:-1]) for values in (counts, weights)]
    assert np.abs(by_episode[0] - by_episode[1]).max() < 2  # items are whole
    assert abs(counts.sum() - columns.num_steps) <= 4  # one rounding a block


def test_only_the_best_episodes_come_and_none_that_is_held_out(dataset):
    family, _ = options_of("cloning")
    options = family.options_class(hidden_size=8, best_fraction=0.4, eval_fraction=0.25)
    stream = TrajectoryStream(dataset, buffer_episodes=5)
    prepared = prepare_stream(family, stream, options)
    held_out = set(prepared.eval_dataset.columns.rewards.take(np.arange(len(prepared.eval_dataset))).astype(int))
    best = prepared.train_dataset.like
    wanted = set(best.columns.rewards.take(np.arange(len(best))).astype(int))
    seen = set()
    for item in prepared.train_dataset:
        if item.position["epoch"] == 1:
            break
        seen.add(steps_of(item))
    assert seen == wanted and not seen & held_out


def batches_of(windows, num_workers, count):
    loader = StreamLoader(
        windows, lambda items: [steps_of(item) for item in items], batch_size=4, num_workers=num_workers
    )
    return list(islice(loader, count))


def windows_of(dataset, process_index=0, num_processes=1):
    family, options = options_of("cloning")
    stream = TrajectoryStream(dataset, buffer_episodes=4, windows_per_episode=3)
    windows = prepare_stream(family, stream, options).train_dataset
    windows.process_index, windows.num_processes = process_index, num_processes
    return windows


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_with_the_batches_that_were_next(dataset, num_workers):
    whole = batches_of(windows_of(dataset), num_workers, 30)
    begun = windows_of(dataset)
    assert batches_of(begun, num_workers, 13) == whole[:13]
    rest = windows_of(dataset)
    rest.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert batches_of(rest, num_workers, 9) == whole[13:22]
    again = windows_of(dataset)
    again.load_state_dict(rest.state_dict())
    assert batches_of(again, num_workers, 8) == whole[22:]
    again.load_state_dict({**rest.state_dict(), "num_workers": 5})
    with pytest.raises(ValueError, match=r"num_workers=5 and is to go on with"):
        batches_of(again, num_workers, 1)


def test_processes_and_workers_share_an_epoch_without_overlap(dataset):
    seen = []
    for process in (0, 1):
        windows = windows_of(dataset, process, 2)
        windows.stream.windows_per_episode = None
        for worker in (0, 1):
            mine = []
            for item in windows._windows(worker, 2, None):
                if item.position["epoch"] == 1:
                    break
                mine.append(steps_of(item))
            assert mine
            seen += mine
    assert sorted(seen) == list(range(TrajectoryColumns.of(dataset).num_steps))


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("decision-transformer", {**SMALL, "recipe": "paper"}),  # with dropout
        ("cloning", {"hidden_size": 8, "average_decay": 0.5, "weighting": "return", "eval_fraction": 0.2}),
    ],
)
def test_a_stopped_run_on_a_stream_ends_like_one_that_was_not(
    dataset, arguments, same_weights, tmp_path, monkeypatch, name, options
):
    family = family_named(name)

    def run(folder, **settings):
        resume = settings.pop("resume", False)
        stream = TrajectoryStream(dataset, buffer_episodes=6, windows_per_episode=2)
        training = arguments(tmp_path / folder, max_steps=7, **settings)
        return train_agent(
            family, stream, family.options_class(**options), training, judgement=NO_EPISODES, resume=resume
        )

    whole = run("whole")
    calls, step = [], TrajectoryTrainer.training_step

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryTrainer, "training_step", dying)
        with pytest.raises(Killed):
            run("run")
    assert json.loads((tmp_path / "run/checkpoint-4/stream_position_0.json").read_text())["positions"]["0"]["place"]
    with pytest.raises(ValueError, match="learning_rate"):
        run("run", resume=True, learning_rate=0.5)
    resumed = run("run", resume=True)
    assert resumed.run.updates == 7 and same_weights(resumed.model, whole.model)
    assert resumed.run.data["sampled"] and "stream" in (tmp_path / "run/README.md").read_text()
    assert same_weights(Agent.from_pretrained(tmp_path / "run").model, whole.model)


def test_a_checkpoint_without_a_position_is_refused(dataset, arguments, tmp_path):
    family, options = options_of("cloning")
    prepared = prepare_stream(family, TrajectoryStream(dataset), options)
    trainer = TrajectoryTrainer(prepared.model, arguments(), prepared.data_collator, prepared.train_dataset)
    with pytest.raises(FileNotFoundError, match="does not say where the stream was"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def test_what_a_stream_cannot_do_is_said_in_one_sentence(dataset, arguments):
    family, options = options_of("cloning")
    stream = TrajectoryStream(dataset)
    with pytest.raises(ValueError, match="a stream has no length"):
        train_agent(family, stream, options, arguments(max_steps=-1), judgement=NO_EPISODES)
    windows = prepare_stream(family, stream, options)
    with pytest.raises(ValueError, match="a stream reads them while it trains: leave one out"):
        TrajectoryTrainer(windows.model, arguments(), windows.data_collator, windows.train_dataset, resident=True)
    prepared = family.prepare(dataset, options)
    listed = replace(family, prepare=lambda data, options: replace(prepared, train_dataset=[1, 2]))
    with pytest.raises(ValueError, match="its items are a list"):
        prepare_stream(listed, stream, options)
    weighted = replace(
        prepared, train_dataset=type(prepared.train_dataset)(dataset, prepared.processor, episode_weights=np.ones(20))
    )
    listed = replace(family, prepare=lambda data, options: weighted)
    with pytest.raises(ValueError, match="give a ReturnWeights"):
        next(iter(prepare_stream(listed, stream, options).train_dataset))


def test_the_critic_s_weights_keep_their_scale_in_a_stream(dataset):
    from hf_seqrl import CriticModel, CriticProcessor, TrajectoryWindows
    from hf_seqrl.models.critic.advantages import AdvantageScale, advantage_weights, step_advantages

    torch.manual_seed(0)
    processor = CriticProcessor.from_dataset(dataset)
    critic = CriticModel(processor.model_config(hidden_size=8)).eval()
    advantages = step_advantages(critic, processor, dataset)
    scale = AdvantageScale.of(advantages, beta=1.0)

    def weights(episodes):
        return scale.weights(step_advantages(critic, processor, episodes))

    assert np.array_equal(weights(dataset), advantage_weights(advantages, 1.0))
    windows = TrajectoryWindows(dataset, context_length=1, step_weights=weights)
    part = windows.over(dataset.select([3, 4]))
    first, end = windows.columns.episode_offsets[[3, 5]]
    np.testing.assert_allclose(part.step_weights, windows.step_weights[first:end], rtol=1e-5)


def test_the_command_trains_on_a_stream(dataset, tmp_path, capsys):
    for number in range(3):
        dataset.shard(3, number, contiguous=True).to_parquet(str(tmp_path / f"data-{number}.parquet"))
    train = [
        "train",
        "cloning",
        "--dataset",
        str(tmp_path),
        "--hidden_size",
        "8",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    refused = {
        ("--streaming", "--num_train_epochs", "1"): "--streaming needs --max_steps",
        ("--stream_buffer_episodes", "5"): "--stream_buffer_episodes is about a stream: give --streaming",
        ("--streaming", "--episode", "run"): "cannot be followed in a stream",
    }
    for options, message in refused.items():
        assert main([*train, *options]) == 1
        assert message in capsys.readouterr().err
    assert (
        main([*train, "--streaming", "--stream_buffer_episodes", "5", "--max_steps", "3", "--disable_tqdm", "True"])
        == 0
    )
    assert "of a sample of 20 episodes" in capsys.readouterr().out
    assert Agent.from_pretrained(tmp_path / "run").run.data["sampled"]
