"""`hf-seqrl evaluate`: run episodes with an agent, or judge it by recorded ones; print and save what it achieves."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_seqrl.cli.agents import add_agent_options, load_agent
from hf_seqrl.cli.columns import add_column_options, column_arguments
from hf_seqrl.cli.outputs import refuse_existing
from hf_seqrl.evaluation.backends import BACKENDS, NOT_DRAWN

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_seqrl.data.task import Task
    from hf_seqrl.hub.agent import Agent


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    _check_combination(options)
    refuse_existing(options.output, options.plot, options.video, overwrite=options.overwrite)

    agent = load_agent(options, compile=options.compile)
    if options.offline is not None:
        _judge_by(options, agent)
    else:
        _roll_out(options, agent)
    if options.save:
        agent.save_pretrained(options.agent)
        print(f"wrote the results and the card in {options.agent}")
    return 0


def _roll_out(options: Namespace, agent: "Agent") -> None:
    from hf_seqrl.evaluation.rollout import rollout

    asked = "auto" if options.target_return == ["auto"] else options.target_return
    env_id = options.env or agent.env_id
    if env_id is None:
        raise ValueError(f"the agent {options.agent!r} does not name its environment: give one with --env.")
    result = rollout(
        agent,
        env_id,
        num_episodes=options.num_episodes,
        target_return=asked or agent.target_returns or None,
        num_envs=options.num_envs,
        seed=options.seed,
        backend=options.backend or "gymnasium",
        discount=options.discount,
        record_frames=1 if options.video else 0,
        progress=True,
    )
    agent.evaluation = result
    print(result.table())
    print(f"{result.lengths.sum()} steps in {result.seconds:.1f} s: {result.steps_per_second:.0f} steps/s")
    for path, write in (
        (options.output, result.save),
        (options.plot, result.plot),
        (options.video, result.save_video),
    ):
        if path:
            print(f"wrote {write(path)}")


def _judge_by(options: Namespace, agent: "Agent") -> None:
    """Without an environment, by recorded episodes."""
    from hf_seqrl.evaluation.offline import evaluate_offline
    from hf_seqrl.evaluation.offline_judgement import judge_offline

    if options.video or options.plot:
        raise ValueError("--plot and --video show episodes that are played, and --offline plays none: leave them out.")
    if options.target_return is not None and len(options.target_return) > 1:
        raise ValueError("--offline judges one target at a time: give a single --target_return.")
    if options.target_return == ["auto"]:
        raise ValueError("--offline judges a target that is a number: give one with --target_return.")
    dataset = recorded_episodes(options, agent.processor.task)
    evaluation = evaluate_offline(
        agent,
        dataset,
        methods=options.methods,
        target_return=options.target_return[0] if options.target_return else None,
        discount=options.discount,
        horizon=options.horizon,
        seed=options.seed,
    )
    agent.offline_evaluation = evaluation
    print(evaluation.report())
    if agent.family.action_losses is not None:
        print("\nHow well it predicts the recorded actions:")
        print(judge_offline(agent, dataset, seed=options.seed).table())
    if options.output:
        print(f"wrote {evaluation.save(options.output)}")


def recorded_episodes(options: Namespace, task: "Task") -> "Dataset":
    """The episodes that `--offline` names, read as an agent with this task reads them: its words keep their codes."""
    from hf_seqrl.data.loading import load_trajectories

    return load_trajectories(
        options.offline,
        action_space=task.action_space,
        observation_space=task.source_observation_space,
        categories=task.categories,
        trust_remote_code=options.trust_remote_code,
        **column_arguments(options),
    )


def _check_combination(options: Namespace) -> None:
    """Options that say nothing together."""
    for name in ("env", "compile", "backend"):
        if options.offline and getattr(options, name):
            raise ValueError(f"--{name} is for episodes in an environment: leave it out, or leave --offline out.")
    if options.video and options.backend == "envpool":
        raise ValueError(NOT_DRAWN)
    if not options.offline and (named := column_arguments(options)):
        raise ValueError(f"--{next(iter(named))} is for recorded episodes: name them with --offline.")
    if options.save and not Path(options.agent).is_dir():
        raise ValueError(f"--save keeps results in the folder of an agent, and {options.agent} is none: use --output.")
    if options.save and (options.acting_option or options.dtype or options.compile):
        raise ValueError(
            "--save reports how the agent acts by itself: leave out --acting_option, --dtype and --compile, or --save."
        )


def _target(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl evaluate",
        description="Evaluate an agent: play episodes and print its returns for each target return, or estimate from recorded "
        "episodes what it would achieve.",
    )
    parser.add_argument("agent", help="a folder or a Hub id")
    parser.add_argument("--env", help="gymnasium id (default: the one of the agent's training data)")
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes for each target (default: 20)")
    parser.add_argument(
        "--target_return",
        type=_target,
        nargs="+",
        metavar="RETURN",
        help="raw target returns, or auto: what the data support (default: those saved with the agent)",
    )
    parser.add_argument("--num_envs", type=int, default=16, help="parallel environments (default: 16)")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="library that makes the environments; EnvPool has many in C++, and seeds only the first --num_envs episodes "
        "(default: gymnasium)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first episode; episode i has seed + i (default: 0)"
    )
    parser.add_argument(
        "--discount",
        type=float,
        help="weight of a reward one step later: of the estimate with --offline (default: 1, for long episodes 0.99), "
        "else for one more column (default: none)",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the results in the agent's folder; its card shows both kinds together",
    )
    parser.add_argument("--output", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--plot", metavar="FILE", help="plot achieved return by target return (png, svg, pdf)")
    parser.add_argument("--video", metavar="FILE", help="record the first episode (.mp4, or .gif)")
    offline = parser.add_argument_group("without an environment")
    offline.add_argument(
        "--offline",
        metavar="DATA",
        help="estimate the return from these recorded episodes (anything that load_trajectories takes), and play none",
    )
    offline.add_argument(
        "--methods",
        nargs="+",
        choices=["fqe", "wdr", "dr", "wis", "pdis"],
        help="fitted Q evaluation, (weighted) doubly robust, (weighted) importance sampling (default: all that fit)",
    )
    offline.add_argument("--horizon", type=int, help="steps that count (default: the time limit of the task)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_agent_options(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile what is computed at a step (10 to 60 s, in the time of the first episodes); on a GPU, replay it as a CUDA graph",
    )
    add_column_options(parser)
    return parser
