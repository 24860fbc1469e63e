"""`hf-seqrl export`: write an agent as a folder that runs without torch and transformers."""

from argparse import ArgumentParser
from collections.abc import Sequence

from hf_seqrl.cli.outputs import refuse_existing


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    refuse_existing(options.folder, overwrite=options.overwrite, mark="agent.json")

    from hf_seqrl.deploy.export import export_agent
    from hf_seqrl.hub.agent import Agent

    agent = Agent.from_pretrained(
        options.agent, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    folder = export_agent(
        agent,
        options.folder,
        quantize=options.quantize,
        program=options.program,
        browser=options.browser or options.browser_runtime is not None,
        browser_runtime=options.browser_runtime,
        env_id=options.env,
        num_episodes=options.num_episodes,
        overwrite=options.overwrite,
    )
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"wrote {folder}: try it with  hf-seqrl act {folder} < observations.jsonl")
    return 0


def _parser() -> ArgumentParser:
    description = (
        "Write an agent as an ONNX graph of one step with a runner that needs NumPy and onnxruntime alone, compare it with the "
        "original over whole episodes, and print the card."
    )
    parser = ArgumentParser(prog="hf-seqrl export", description=description)
    parser.add_argument("agent", help="a folder or a Hub id")
    parser.add_argument("folder", help="where to write it")
    parser.add_argument(
        "--quantize", action="store_true", help="use int8 matrix products; the card says what it costs in return"
    )
    parser.add_argument("--program", action="store_true", help="also write the program of torch.export (step.pt2)")
    parser.add_argument(
        "--browser", action="store_true", help="also write a page where it plays CartPole-v1 without Python"
    )
    parser.add_argument(
        "--browser_runtime", metavar="DIST", help="serve this folder dist/ of onnxruntime-web beside the page"
    )
    parser.add_argument("--env", help="gymnasium id for the comparison (default: the one of the agent's data)")
    parser.add_argument(
        "--num_episodes", type=int, default=3, help="episodes for the comparison (default: 3; 20 with --quantize)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let the files of the agent name code that is run"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    return parser
