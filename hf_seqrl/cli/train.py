"""`hf-seqrl train`: from trajectories to an agent with its card."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_seqrl.data.durable import check_writable
from hf_seqrl.data.secrets import masked_arguments
from hf_seqrl.models.registry import family_names

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from hf_seqrl.cli.options import RunOptions
    from hf_seqrl.data.stream import TrajectoryStream
    from hf_seqrl.models.registry import ModelFamily

_USAGE = """usage: hf-seqrl train FAMILY --dataset DATA --output_dir FOLDER [options]
       hf-seqrl train run.yaml [options]

Train a model on trajectories and save an agent with its card. An interrupted run goes on with --resume.

families: {families}

`hf-seqrl train FAMILY --help` lists the options of a family. A YAML file holds `family: NAME` and lines of
`option: value`; options that are typed count more than those in the file.
"""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE.format(families=", ".join(family_names())))
        return 0
    name, *rest = arguments
    file = name if name.endswith((".yaml", ".yml")) else None
    if file is not None:
        name = _family_in(file)
    written = files("hf_seqrl.cli") / "help" / f"train-{name}.txt"
    if {"-h", "--help"} & set(rest) and "--help_all" not in rest and written.is_file():
        print(written.read_text(encoding="utf-8"))
        return 0
    family = _family_named(name)

    from hf_seqrl.cli.options import help_text, parse

    if {"-h", "--help", "--help_all"} & set(rest):
        print(help_text(family, everything="--help_all" in rest))
        return 0
    run, options, training_arguments = parse(family, rest, file)
    command = shlex.join(["hf-seqrl", "train", *masked_arguments(arguments)])
    return run_training(family, run, options, training_arguments, command)


def run_training(
    family: "ModelFamily", run: "RunOptions", options: Any, arguments: "TrainingArguments", command: str
) -> int:
    """Load the data, train, and say what was achieved; returns the exit status."""
    from hf_seqrl.data.metadata import metadata_of
    from hf_seqrl.training.run import Judgement, train_agent

    check_writable(arguments.output_dir)
    dataset: Dataset | TrajectoryStream | None
    _refuse_without_stream(run)
    if run.streaming:
        dataset = open_stream(family, run, options.env_id, arguments)
        known = dataset.metadata.env_id
    else:
        dataset = load_data(family, run, options.env_id)
        known = None if dataset is None else metadata_of(dataset).env_id
    env_id = options.env_id or known
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
        resident=run.resident,
        left_to_data=run.left_to_data,
        dataset_name=run.dataset,
        command=command,
    )
    if arguments.process_index == 0:
        print(
            agent.evaluation.table()
            if agent.evaluation is not None
            else "not evaluated in an environment: there is none, no episodes were asked for, or the model does not act"
        )
        if agent.evaluation is not None and agent.evaluation.target_effect():
            print(agent.evaluation.target_effect())
        if agent.replay is not None and agent.replay.missing_because:
            print(f"no replay: {agent.replay.missing_because}")
        print(f"the agent is in {arguments.output_dir}; its card is {arguments.output_dir}/README.md")
    return 0


def open_stream(
    family: "ModelFamily", run: "RunOptions", env_id: str | None, arguments: "TrainingArguments"
) -> "TrajectoryStream":
    """The trajectories that were named, as a stream.

    Raises:
        ValueError: there are none, or no number of updates is given.
    """
    source = _named_data(family, run)
    if source is None:
        raise ValueError(f"a {family.name} learns from episodes of its own: leave --streaming out.")
    if arguments.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: a stream has no length, so its epochs cannot be counted.")
    from hf_seqrl.data.stream import TrajectoryStream

    return TrajectoryStream(
        source,
        buffer_episodes=run.stream_buffer_episodes,
        sample_episodes=run.stream_sample_episodes,
        windows_per_episode=run.stream_windows_per_episode,
        seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
        env_id=env_id,
        trust_remote_code=run.trust_remote_code,
        **run.columns.arguments(),
    )


def _refuse_without_stream(run: "RunOptions") -> None:
    for option in fields(run):
        if option.name.startswith("stream_") and not run.streaming and getattr(run, option.name) != option.default:
            raise ValueError(f"--{option.name} is about a stream: give --streaming, too, or leave it out.")


def _named_data(family: "ModelFamily", run: "RunOptions") -> str | None:
    if family.online:
        if run.dataset is not None:
            raise ValueError(f"a {family.name} learns from episodes of its own: leave --dataset out.")
        return None
    if run.dataset is None:
        raise ValueError(
            f"a {family.name} learns from trajectories: name them with --dataset, a folder, file or Hub id."
        )
    return run.dataset


def load_data(family: "ModelFamily", run: "RunOptions", env_id: str | None) -> "Dataset | None":
    """The trajectories that were named; `None` for a family that learns from episodes of its own."""
    source = _named_data(family, run)
    if source is None:
        return None
    from hf_seqrl.data.loading import load_trajectories

    return load_trajectories(source, env_id=env_id, trust_remote_code=run.trust_remote_code, **run.columns.arguments())


def _try_environment(env_id: str | None) -> None:
    """Hours of training should not end in an environment that cannot be made."""
    if env_id is None:
        print("the data set does not name its environment (--env_id): the agent will not be evaluated")
        return
    from hf_seqrl.data.environment_ids import check_environment

    try:
        check_environment(env_id)
    except ValueError as error:
        raise ValueError(f"{error} Or leave the evaluation out with --eval_episodes 0.") from error


def refuse_incomplete(arguments: Sequence[str]) -> None:
    """Stop before the libraries are loaded where something is missing without which nothing can be trained.

    Raises:
        ValueError: the family is unknown, or no output folder is given.
    """
    if not arguments or "--help_all" in arguments:
        return
    name, *rest = arguments
    options = {argument.partition("=")[0].replace("-", "_") for argument in rest}
    if name.endswith((".yaml", ".yml")):
        _refuse_unknown(_family_in(name))
        options |= {f"__{option}" for option in _options_in(name)}
    else:
        _refuse_unknown(name)
    if "__output_dir" not in options:
        raise ValueError("there is no folder for the agent: name one with --output_dir.")


def _options_in(file: str) -> dict[str, Any]:
    values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _family_in(file: str) -> str:
    values = _options_in(file)
    if "family" not in values:
        raise ValueError(
            f"{file} does not say what to train: add a line `family: {family_names()[0]}` or another one."
        )
    return values["family"]


def _refuse_unknown(name: str) -> None:
    if name not in family_names():
        raise ValueError(f"no model family {name!r}: expected one of {', '.join(family_names())}, or a .yaml file.")


def _family_named(name: str) -> "ModelFamily":
    _refuse_unknown(name)
    print(f"hf-seqrl: loading {name} ...", file=sys.stderr)

    from hf_seqrl.models.registry import family_named

    return family_named(name)
