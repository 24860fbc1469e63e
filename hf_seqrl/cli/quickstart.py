"""`hf-seqrl quickstart`: collect data, train an agent, evaluate, save and load it."""

import os
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_seqrl.data.durable import check_writable

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_seqrl.hub.agent import Agent

_ENV_ID = "CartPole-v1"
_TARGET_RETURNS = [500.0, 200.0, 50.0]
_REPLAYED = 4  # episodes
_LEARNING = {
    "learning_rate": 1e-3,
    "save_steps": 250,
    "save_total_limit": 1,
    "logging_steps": 100,
}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    _quiet()
    folder = Path(options.output_dir)
    check_writable(folder)
    print("hf-seqrl: loading the libraries ...", flush=True)
    dataset = _data(folder / "data", options.num_steps, options.seed)
    command = shlex.join(["hf-seqrl", "quickstart", *arguments])
    agent = _agent(dataset, folder, options.max_steps, options.seed, command)
    print("\n[3/4] What the agent achieves when asked for a return, in episodes that it has not seen\n")
    assert agent.evaluation is not None
    print(agent.evaluation.table())
    print("\n[4/4] Loading the saved agent in a fresh process ...", flush=True)
    same = _acts_the_same(agent, folder / "agent")
    print(f"      it acts {'identically, to the last bit' if same else 'DIFFERENTLY: please report this'}")
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at {folder / 'agent' / 'README.md'} (the card) and")
    print(
        f"{folder / 'agent' / 'target_returns.png'}; go on with: hf-seqrl evaluate {folder / 'agent'} --target_return 350"
    )
    return 0 if same else 1


def _data(folder: Path, num_steps: int, seed: int) -> "Dataset":
    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.data.writing import save_trajectories
    from hf_seqrl.evaluation.collect import collect
    from hf_seqrl.evaluation.policies import balance_cartpole, noisy

    if folder.exists():
        print(f"\n[1/4] Episodes were collected before: {folder}")
        return load_trajectories(str(folder))
    print(f"\n[1/4] Collecting {num_steps} steps of {_ENV_ID}: random, a scripted controller, noisy versions of it")
    policies = [(0.3, "random"), (0.5, noisy(balance_cartpole, epsilon=(0.3, 0.95))), (0.2, balance_cartpole)]
    dataset = collect(policies, _ENV_ID, num_steps=num_steps, seed=seed, progress=True)
    save_trajectories(dataset, folder)
    return dataset


def _agent(dataset: "Dataset", folder: Path, max_steps: int, seed: int, command: str) -> "Agent":
    from hf_seqrl.hub.agent import Agent
    from hf_seqrl.hub.checkpoint import finish_update

    finish_update(folder / "agent")
    if (folder / "agent" / "config.json").exists():
        print(f"\n[2/4] The agent was trained before: {folder / 'agent'}")
        return _evaluated(Agent.from_pretrained(folder / "agent"), folder / "agent")
    print(f"\n[2/4] Training a Decision Transformer for {max_steps} updates", flush=True)
    return _train(dataset, folder, max_steps, seed, command)


def _evaluated(agent: "Agent", folder: Path) -> "Agent":
    """An agent whose evaluation was interrupted is evaluated now."""
    from hf_seqrl.training import run

    if agent.evaluation is None:
        run.judge(agent, run.Judgement(num_episodes=20))
        agent.save_pretrained(folder)
    return agent


def _train(dataset: "Dataset", folder: Path, max_steps: int, seed: int, command: str) -> "Agent":
    from transformers import TrainingArguments

    from hf_seqrl.models.registry import family_of
    from hf_seqrl.training.run import Judgement, train_agent

    family = family_of("decision_transformer")
    options = family.options_class(
        recipe="paper", context_length=5, hidden_size=64, n_layer=2, return_scale=100.0, target_returns=_TARGET_RETURNS
    )
    training = {**family.training_defaults, **_LEARNING, "max_steps": max_steps, "seed": seed}
    return train_agent(
        family,
        dataset,
        options,
        TrainingArguments(str(folder / "agent"), **training, use_cpu=True, report_to="none"),
        judgement=Judgement(num_episodes=20),
        resume=True,
        dataset_name=str(folder / "data"),
        command=command,
    )


def _acts_the_same(agent: "Agent", folder: Path) -> bool:
    """Whether the agent acts like the one that a process loads which knows nothing but the folder."""
    code = (
        "import sys; from hf_seqrl import Agent; from hf_seqrl.cli.quickstart import replay_fingerprint; "
        "print(replay_fingerprint(Agent.from_pretrained(sys.argv[1])))"
    )
    program = [sys.executable, "-c", code, str(folder)]
    fresh = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return fresh.split()[-1] == replay_fingerprint(agent)


def replay_fingerprint(agent: "Agent") -> str:
    """A hash of every observation, action and reward of a few seeded episodes: equal only if all actions are."""
    from hf_seqrl.data.columns import TrajectoryColumns
    from hf_seqrl.data.description import content_fingerprint
    from hf_seqrl.evaluation.collect import collect

    assert agent.env_id is not None
    episodes = collect(agent, agent.env_id, num_episodes=_REPLAYED, num_envs=_REPLAYED, seed=0)
    return content_fingerprint(TrajectoryColumns(episodes))


def _quiet() -> None:
    """One thread is the fastest for a model of this size, and the libraries' own bars would break ours."""
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl quickstart",
        description="Collect CartPole episodes, train a Decision Transformer on them, evaluate it at several target "
        "returns, save it with its card, and load it in a new process. Results of an earlier call are reused.",
    )
    parser.add_argument("--output_dir", default="outputs/quickstart", help="default: outputs/quickstart")
    parser.add_argument("--num_steps", type=int, default=40_000, help="steps of data to collect (default: 40000)")
    parser.add_argument("--max_steps", type=int, default=1000, help="training updates (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and training (default: 0)")
    return parser
