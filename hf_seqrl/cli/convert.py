"""`hf-seqrl convert`: a checkpoint from before processors becomes a complete agent."""

from argparse import ArgumentParser
from collections.abc import Sequence

from hf_seqrl.cli.columns import add_column_options, column_arguments
from hf_seqrl.data.durable import check_writable


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_writable(options.folder)

    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.hub.agent import Agent

    trust = {"trust_remote_code": options.trust_remote_code}
    dataset = load_trajectories(options.dataset, **column_arguments(options), **trust) if options.dataset else None
    agent = Agent.from_pretrained(options.checkpoint, dataset=dataset, revision=options.revision, **trust)
    agent.save_pretrained(options.folder)
    print(
        f"{options.folder} holds a {agent.family.name} for {agent.env_id or 'an environment without an id'}: safetensors,"
    )
    print("processor and card. Evaluate it (hf-seqrl evaluate), or push it (hf-seqrl push).")
    if options.push is not None:
        print(f"{options.push} is at {agent.push_to_hub(options.push).repo_url}")
    return 0


def _parser() -> ArgumentParser:
    description = "Convert a checkpoint without a processor into a complete agent (safetensors, processor, card)."
    parser = ArgumentParser(prog="hf-seqrl convert", description=description)
    parser.add_argument(
        "checkpoint", help="for instance edbeeching/decision-transformer-gym-hopper-medium, or a folder"
    )
    parser.add_argument("folder", help="output folder of the agent")
    parser.add_argument("--dataset", help="the trajectories it was trained on, if its card has no statistics")
    parser.add_argument("--revision", help="branch, tag or commit of the checkpoint")
    parser.add_argument("--push", metavar="REPO_ID", help="also upload the agent to the Hub")
    parser.add_argument("--trust_remote_code", action="store_true", help="let the files name code that is run")
    add_column_options(parser)
    return parser
