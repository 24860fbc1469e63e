"""`hf-seqrl push`: an agent goes to the Hub."""

from argparse import ArgumentParser
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)

    from hf_seqrl.hub.agent import Agent

    agent = Agent.from_pretrained(options.agent)
    if options.replay and agent.replay is None and agent.env_id is not None:
        replay = agent.record_replay()
        print(f"no replay: {replay.missing_because}" if replay.missing_because else "recorded a replay")
    commit = agent.push_to_hub(
        options.repo_id,
        private=options.private or None,
        revision=options.revision,
        include_code=options.include_code,
    )
    print(f"{options.repo_id} is at {commit.repo_url}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="hf-seqrl push", description="Put an agent on the Hub, card and results included.")
    parser.add_argument("agent", help="the folder of an agent")
    parser.add_argument("repo_id", help="for instance me/dt-hopper-medium; the repository is made where absent")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="the branch to commit to (default: main)")
    parser.add_argument(
        "--no_replay", dest="replay", action="store_false", help="do not play an episode for a replay (mp4 or GIF)"
    )
    parser.add_argument(
        "--include_code", action="store_true", help="put the model's code there too, for trust_remote_code=True"
    )
    return parser
