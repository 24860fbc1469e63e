"""`hf-seqrl collect`: run policies and save their episodes as a data set."""

import shlex
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_seqrl.cli.outputs import refuse_existing
from hf_seqrl.data.secrets import masked_arguments
from hf_seqrl.evaluation.backends import BACKENDS

_DESCRIPTION = """Run episodes with one or more policies and save them as a data set.

A policy is `random`, the name of a scripted controller (balance_cartpole, climb_mountain, swing_up_pendulum), or an
agent (a folder or a Hub id), followed by any of
  ,share=0.3        its share of the data (default: equal shares)
  ,epsilon=0..0.5   the probability of a random action, drawn once per episode from this range
  ,sigma=0.1        the standard deviation of Gaussian noise on continuous actions; a range as above

for instance
  hf-seqrl collect CartPole-v1 --policy random,share=0.2 balance_cartpole,epsilon=0..0.6 --num_episodes 500 \\
      --output data/cartpole
"""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    refuse_existing(options.output, overwrite=options.overwrite, mark="dataset_dict.json")

    from hf_seqrl.data.metadata import metadata_of, with_metadata
    from hf_seqrl.data.writing import save_trajectories
    from hf_seqrl.evaluation.collect import collect

    dataset = collect(
        [parse_policy(text) for text in options.policy],
        options.env,
        num_episodes=options.num_episodes if options.num_steps is None else None,
        num_steps=options.num_steps,
        num_envs=options.num_envs,
        seed=options.seed,
        backend=options.backend,
        target_return=options.target_return,
        progress=True,
    )
    metadata = metadata_of(dataset)
    provenance = {"command": shlex.join(["hf-seqrl", "collect", *masked_arguments(arguments)]), **metadata.provenance}
    dataset = with_metadata(dataset, metadata.updated(provenance=provenance))
    save_trajectories(dataset, options.output, overwrite=options.overwrite)
    print(f"wrote {dataset.num_rows} episodes to {options.output}; `hf-seqrl info {options.output}` describes them")
    return 0


def parse_policy(text: str) -> tuple[float, Any]:
    """The share and the policy that a word of the command line stands for.

    Example:
        >>> share, policy = parse_policy("random,share=0.2,epsilon=0..0.5")
        >>> share, policy.epsilon
        (0.2, (0.0, 0.5))
    """
    from hf_seqrl.evaluation.policies import noisy

    name, *settings = text.split(",")
    levels = dict(_setting(setting, text) for setting in settings)
    share = levels.pop("share", 1.0)
    policy = _policy_named(name)
    return share, noisy(policy, **levels) if levels else policy


def _setting(setting: str, text: str) -> tuple[str, Any]:
    name, _, value = setting.partition("=")
    bounds = value.split("..")
    try:
        numbers = tuple(float(bound) for bound in bounds)
    except ValueError:
        numbers = ()
    if name not in ("share", "epsilon", "sigma") or len(numbers) not in ((1,) if name == "share" else (1, 2)):
        raise ValueError(
            f"{setting!r} in the policy {text!r}: expected share=NUMBER, epsilon=NUMBER or sigma=NUMBER, the last two "
            "also as LOW..HIGH."
        )
    return name, numbers[0] if len(numbers) == 1 else numbers


def _policy_named(name: str) -> Any:
    from hf_seqrl.evaluation.policies import CONTROLLERS

    if name == "random":
        return name
    if name in CONTROLLERS and not Path(name).exists():
        return CONTROLLERS[name]

    from hf_seqrl.hub.agent import Agent

    return Agent.from_pretrained(name)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl collect", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("env", help="gymnasium id")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="output folder of the data set")
    parser.add_argument("--policy", nargs="+", default=["random"], metavar="POLICY", help="default: random")
    parser.add_argument("--num_episodes", type=int, default=100, help="total number of episodes (default: 100)")
    parser.add_argument(
        "--num_steps", type=int, help="instead of --num_episodes: minimum number of steps, in whole episodes"
    )
    parser.add_argument("--num_envs", type=int, default=16, help="parallel environments (default: 16)")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="gymnasium",
        help="library that makes the environments; EnvPool has many in C++, and seeds only the first --num_envs episodes "
        "of each policy (default: gymnasium)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first episode; episode i has seed + i (default: 0)"
    )
    parser.add_argument("--target_return", type=float, help="raw target return of agents")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing data set")
    return parser
