"""What `hf-seqrl train` does once its options are read."""

from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from hf_seqrl.cli.options import RunOptions
from hf_seqrl.data.environment_ids import check_environment, trusted_env_id
from hf_seqrl.data.loading import load_trajectories
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.models.registry import ModelFamily
from hf_seqrl.training.run import Judgement, train_agent


def run_training(
    family: ModelFamily, run: RunOptions, options: Any, arguments: TrainingArguments, command: str
) -> int:
    """Load the data, train, and say what was achieved; returns the exit status."""
    dataset = load_data(family, run, options.env_id)
    env_id = options.env_id
    if env_id is None and dataset is not None:
        env_id = trusted_env_id(metadata_of(dataset).env_id, f"the data set {run.dataset!r}")
    if run.eval_episodes:
        _try_environment(env_id)
    agent = train_agent(
        family,
        dataset,
        options,
        arguments,
        judgement=Judgement(
            env_id,
            run.eval_episodes,
            run.eval_target_returns,
            num_envs=run.eval_num_envs,
            seed=run.eval_seed,
            replay=run.replay,
        ),
        resume=run.resume or run.resume_with_changes,
        allow_changes=run.resume_with_changes,
        dataset_name=run.dataset,
        command=command,
    )
    if arguments.process_index == 0:
        print(
            agent.evaluation.table()
            if agent.evaluation is not None
            else "not evaluated in an environment: there is none, no episodes were asked for, or the model does not act"
        )
        if agent.replay is not None and agent.replay.missing_because:
            print(f"no replay: {agent.replay.missing_because}")
        print(f"the agent is in {arguments.output_dir}; its card is {arguments.output_dir}/README.md")
    return 0


def load_data(family: ModelFamily, run: RunOptions, env_id: str | None) -> Dataset | None:
    if family.online:
        if run.dataset is not None:
            raise ValueError(f"a {family.name} learns from episodes of its own: leave --dataset out.")
        return None
    if run.dataset is None:
        raise ValueError(
            f"a {family.name} learns from trajectories: name them with --dataset, a folder, file or Hub id."
        )
    return load_trajectories(run.dataset, env_id=env_id, **run.columns.arguments())


def _try_environment(env_id: str | None) -> None:
    """Hours of training should not end in an environment that cannot be made."""
    if env_id is None:
        print("the data set does not name its environment (--env_id): the agent will not be evaluated")
        return
    try:
        check_environment(env_id)
    except ValueError as error:
        raise ValueError(f"{error} Or leave the evaluation out with --eval_episodes 0.") from error
