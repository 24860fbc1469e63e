"""`hf-seqrl compare`: which method suits a data set."""

import re
import shlex
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from hf_seqrl.cli.columns import add_column_options, column_arguments
from hf_seqrl.data.durable import check_writable
from hf_seqrl.data.secrets import masked_arguments

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_writable(options.output_dir)

    from hf_seqrl.data.environment_ids import check_environment, trusted_env_id
    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.data.metadata import metadata_of
    from hf_seqrl.training.compare import compare, methods_for

    dataset = load_trajectories(options.data, trust_remote_code=options.trust_remote_code, **column_arguments(options))
    if options.list_methods:
        print("\n".join(methods_for(dataset)))
        return 0
    env_id = options.env or trusted_env_id(metadata_of(dataset).env_id, f"the data set {options.data!r}")
    if env_id is not None:
        check_environment(env_id)
    else:
        print("no environment is known (--env): agents are judged by held-out episodes alone")
    comparison = compare(
        dataset,
        options.output_dir,
        env_id=env_id,
        methods=options.methods,
        num_seeds=options.seeds,
        budget=options.budget,
        max_steps=options.max_steps,
        num_episodes=options.num_episodes,
        eval_seed=options.eval_seed,
        offline=True if options.offline else None,
        eval_fraction=options.eval_fraction,
        dataset_name=options.data,
        command=shlex.join(["hf-seqrl", "compare", *masked_arguments(arguments)]),
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{comparison.report()}\n")
    print(
        f"the recommended agent is in {options.output_dir}/agent, all figures in {options.output_dir}/comparison.json"
    )
    return 0


def seconds(text: str) -> float:
    """A time such as `90`, `90s`, `10m` or `1.5h`, in seconds.

    Example:
        >>> seconds("10m"), seconds("90")
        (600.0, 90.0)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip().lower())
    if match is None or not float(match[1]) > 0:
        raise ArgumentTypeError(f"{text!r} is no time: expected for example 90s, 10m or 1.5h.")
    return float(match[1]) * _UNITS[match[2]]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl compare",
        description="Train the methods that fit a data set under one budget, judge them alike, and recommend one. Agents are judged by "
        "episodes in the environment, or by episodes of the data that are held out. A comparison that was stopped goes on when "
        "the command is repeated.",
    )
    parser.add_argument("data", help="trajectories: a folder, file, Minari or Hub id")
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="receives the runs and the results")
    parser.add_argument("--env", metavar="ID", help="gymnasium id (default: that of the data set)")
    parser.add_argument("--methods", nargs="+", metavar="TITLE", help="only these (default: all that fit the data)")
    parser.add_argument("--list_methods", action="store_true", help="print the methods that fit the data, and stop")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="TIME",
        help="training time of all runs together, such as 10m or 1h (default: each method's own recipe)",
    )
    parser.add_argument("--max_steps", type=int, help="updates of each run (default: those of the recipes)")
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes to judge each run by (default: 20)")
    parser.add_argument("--eval_seed", type=int, default=1000, help="seed of the first episode (default: 1000)")
    parser.add_argument(
        "--offline", action="store_true", help="estimate by held-out episodes also where there is an environment"
    )
    parser.add_argument(
        "--eval_fraction",
        type=float,
        default=0.2,
        help="share of the episodes that is held out for that (default: 0.2)",
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let the files of the data name code that is run"
    )
    add_column_options(parser)
    return parser
