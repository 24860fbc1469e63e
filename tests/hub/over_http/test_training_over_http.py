"""What a training run pushes while it goes on: an agent that says it is not finished, and no secret."""

import json

import pytest
from transformers import TrainingArguments

from hf_seqrl import Agent, DecisionTransformerGymDataCollator, TrajectoryWindows
from hf_seqrl.training.trainer import TrajectoryTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Cannot enable progress bars")

FILES = {
    "README.md",
    "config.json",
    "manifest.json",
    "model.safetensors",
    "processor_config.json",
    "training_run.json",
}


@pytest.fixture
def train(hub, tiny_agent, cartpole_dataset, tmp_path):
    """`train(hub_strategy)`: two updates with a push after each; the repository."""

    def run(strategy, **settings):
        arguments = TrainingArguments(
            str(tmp_path / "run"), max_steps=2, save_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
            disable_tqdm=True, remove_unused_columns=False, push_to_hub=True, hub_model_id="tester/growing",
            hub_strategy=strategy, hub_always_push=True, hub_token=hub.token, **settings,
        )  # fmt: skip
        trainer = TrajectoryTrainer(
            tiny_agent.model,
            arguments,
            DecisionTransformerGymDataCollator(cartpole_dataset, tiny_agent.processor),
            TrajectoryWindows(cartpole_dataset, tiny_agent.processor),
            processing_class=tiny_agent.processor,
        )
        trainer.train()
        return hub.repositories["model", "tester/growing"]

    return run


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_an_agent_that_is_pushed_while_it_trains_says_so(train, hub, tmp_path, strategy):
    repository = train(strategy)
    titles = [commit.title for commit in repository.commits]
    files = repository.at(next(c for c in repository.commits if c.title == "Training in progress, step 1").oid).files
    assert set(files) >= FILES
    assert b"**The training is not finished**" in files["README.md"].data
    assert json.loads(files["training_run.json"].data)["planned_updates"] == 2
    for name in FILES:
        (tmp_path / name).write_bytes(files[name].data)
    with pytest.warns(UserWarning, match="after 1 of 2 updates"):
        assert Agent.from_pretrained(tmp_path).env_id == "CartPole-v1"
    places = {
        "every_save": set(),
        "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-1", "checkpoint-2"},
    }
    assert {name.split("/")[0] for name in repository.files if "/" in name} == places[strategy]
    for place in places[strategy]:
        assert f"{place}/optimizer.pt" in repository.files
    assert any("checkpoint" in title for title in titles) is bool(places[strategy])
    pushed = {**repository.files, **hub.objects}
    assert not any(name.endswith("training_args.bin") for name in pushed)
    assert not any(hub.token.encode() in content for content in pushed.values())
    assert hub.token.encode() not in (tmp_path / "run" / "checkpoint-1" / "training_args.bin").read_bytes()


def test_nothing_is_pushed_before_the_end_where_that_is_asked_for(train):
    repository = train("end")
    assert not [commit.title for commit in repository.commits if "progress" in commit.title]
