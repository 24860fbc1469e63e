"""`hf-seqrl push`: upload an agent or a data set to the Hub."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)

    from hf_seqrl.hub.checkpoint import CONFIG_NAME

    path = Path(options.source)
    is_agent = (path / CONFIG_NAME).exists() or not path.exists()
    if options.benchmark and not is_agent:
        raise ValueError(
            f"--benchmark is for the results of an agent, and {options.source} is a data set: leave it out."
        )
    commit = _push_agent(options) if is_agent else _push_data(options)
    print(f"{options.repo_id} is at {commit.repo_url}")
    return 0


def _push_agent(options: Namespace) -> "CommitInfo":
    from hf_seqrl.hub.agent import Agent

    agent = Agent.from_pretrained(options.source, trust_remote_code=options.trust_remote_code)
    if options.replay and agent.replay is None and agent.env_id is not None:
        replay = agent.record_replay()
        print(f"no replay: {replay.missing_because}" if replay.missing_because else "recorded a replay")
    return agent.push_to_hub(
        options.repo_id,
        private=options.private or None,
        revision=options.revision,
        include_code=options.include_code,
        benchmark=options.benchmark,
    )


def _push_data(options: Namespace) -> "CommitInfo":
    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.hub.checkpoint import refuse_link_out
    from hf_seqrl.hub.trajectories import push_trajectories

    for path in Path(options.source).rglob("*"):  # what somebody else's folder points to would become public
        if path.is_symlink():
            refuse_link_out(options.source, path)
    return push_trajectories(
        load_trajectories(options.source, trust_remote_code=options.trust_remote_code),
        options.repo_id,
        license=options.license,
        private=options.private or None,
        revision=options.revision,
    )


def _parser() -> ArgumentParser:
    description = "Upload an agent with its card and results, or a data set of trajectories, to the Hub."
    parser = ArgumentParser(prog="hf-seqrl push", description=description)
    parser.add_argument("source", help="the folder of an agent, or the file or folder of a data set")
    parser.add_argument("repo_id", help="for instance me/dt-hopper-medium; the repository is created if needed")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="the branch to commit to (default: main)")
    parser.add_argument(
        "--no_replay",
        dest="replay",
        action="store_false",
        help="do not record a video (mp4 or GIF) of an episode",
    )
    parser.add_argument(
        "--include_code", action="store_true", help="also upload the model's code, for trust_remote_code=True"
    )
    parser.add_argument(
        "--benchmark",
        metavar="OWNER/DATASET:TASK",
        help="report the agent's mean return to the leaderboard of this benchmark data set on the Hub",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="let the files name code that is run")
    parser.add_argument("--license", help="license of a data set, for instance mit")
    return parser
