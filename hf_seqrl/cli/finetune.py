"""`hf-seqrl finetune`: fine-tune an agent with episodes of its own."""

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence

from hf_seqrl.data.durable import check_writable
from hf_seqrl.data.secrets import masked_arguments


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_writable(options.output_dir)

    from hf_seqrl.data.environment_ids import trusted_env_id
    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.hub.agent import Agent
    from hf_seqrl.training.finetuning import OnlineOptions, finetune_online
    from hf_seqrl.training.run import Judgement

    agent = Agent.from_pretrained(options.agent)
    env = options.env or trusted_env_id(agent.env_id, f"the agent {options.agent!r}")
    dataset = load_trajectories(options.dataset) if options.dataset else None
    names = [name for name in vars(options) if name in OnlineOptions.__dataclass_fields__]
    tuned = finetune_online(
        agent,
        options.output_dir,
        dataset,
        env,
        OnlineOptions(**{name: getattr(options, name) for name in names}),
        judgement=Judgement(env, options.eval_episodes, seed=options.eval_seed, replay=False),
        resume=options.resume,
        dataset_name=options.dataset,
        command=shlex.join(["hf-seqrl", "finetune", *masked_arguments(arguments)]),
        use_cpu=options.use_cpu,
    )
    print(tuned.evaluation.table() if tuned.evaluation is not None else "not evaluated: no episodes were asked for")
    print(f"the agent is in {options.output_dir}; its card is {options.output_dir}/README.md")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl finetune",
        description="Fine-tune an agent in its environment: in every round it plays episodes, which join the data, and trains on.",
    )
    add = parser.add_argument
    add("agent", help="a folder or a Hub id")
    add("--output_dir", required=True, metavar="FOLDER", help="receives the rounds, and the agent in the end")
    add("--dataset", help="trajectories to go on learning from (default: its own episodes alone)")
    add("--env", help="gymnasium id (default: the one of the agent's training data)")
    add("--rounds", type=int, default=10, help="how often it collects and trains (default: 10)")
    add("--episodes_per_round", type=int, default=20, help="episodes it plays in a round (default: 20)")
    add("--updates_per_round", type=int, default=200, help="updates of its weights in a round (default: 200)")
    add("--learning_rate", type=float, default=1e-3, help="constant (default: 0.001)")
    add("--batch_size", type=int, default=64, help="windows an update (default: 64)")
    add(
        "--noise",
        type=float,
        default=0.2,
        help="exploration: chance of a random action, or deviation of what is added to continuous ones in half ranges, drawn for "
        "each episode from 0 to this (default: 0.2)",
    )
    add("--target_return", type=float, help="raw return to explore at (default: somewhat more than the best so far)")
    add("--max_episodes", type=int, help="keep so many episodes, the newest (default: all)")
    add("--num_envs", type=int, default=16, help="parallel environments (default: 16)")
    add("--seed", type=int, default=0, help="of the episodes and the order of the data (default: 0)")
    add("--eval_episodes", type=int, default=20, help="episodes of the evaluation at the end (default: 20)")
    add("--eval_seed", type=int, default=10_000, help="seed of its first episode (default: 10000)")
    add("--use_cpu", action="store_true", help="leave an accelerator unused")
    add("--resume", action="store_true", help="go on with the interrupted run in the output folder")
    return parser
