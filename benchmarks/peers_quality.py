"""What d3rlpy's algorithms reach on a data set in a given CPU time, beside ours.

    python benchmarks/peers_quality.py hopper-medium-replay --data ../shared/data --minutes 5 --seeds 0 1 2
    python benchmarks/peers_quality.py path/to/my-data --env_id Hopper-v5 --methods iql td3_bc ours_cloning

d3rlpy (implicit Q-learning, TD3+BC, CQL, Decision Transformer) runs in an environment of its own, which is made on the first use
in `--venv`: it holds d3rlpy and what d3rlpy needs beside; torch, gymnasium, MuJoCo and NumPy are those of this environment, so that
all methods run on the same libraries. Its settings are those of d3rlpy's own reproductions for the Gym tasks; learning rates are
constant, since nobody knows beforehand how many updates fit into the time.

Each run trains on one thread until `--minutes` of CPU time are spent (ours: for the updates of its recipe, whose time is reported),
takes the last weights, and plays 20 episodes from the starts 1000 to 1019, deterministically. Decision Transformers are asked for
the best return of the data. Rows are appended to `--output`; what is there is not measured again. Data with `Box` observations and
actions only. CORL publishes single-file scripts, without a package that could be installed and called, and is not run.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("iql", "td3_bc", "cql", "dt")
OURS = ("ours_dt", "ours_cloning")
EPISODES, FIRST_SEED = 20, 1000
D3RLPY = "d3rlpy==2.8.1"
NEEDED_BESIDE = ("gym", "structlog", "dataclasses-json", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="names below --data, or anything that load_trajectories takes")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--env_id", help="where the data set does not name its environment")
    parser.add_argument("--methods", nargs="+", default=[*PEERS, *OURS], choices=[*PEERS, *OURS])
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU time of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/peers_quality.jsonl"))
    parser.add_argument("--venv", type=Path, default=Path("outputs/peers-venv"))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read(options.output)
    for name in options.datasets:
        for seed in options.seeds:
            for method in options.methods:
                key = {"data": name, "method": method, "seed": seed, "minutes": options.minutes}
                if any(key.items() <= row.items() for row in rows):
                    continue
                row = key | measure(name, method, seed, options)
                rows.append(row)
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(sentence(row), flush=True)
    print(table([row for row in rows if row["data"] in options.datasets]))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were measured before."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def measure(name: str, method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training and its evaluation: `returns`, `cpu_seconds` of training, `updates`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    dataset = load(name, options)
    if method in OURS:
        return train_ours(dataset, method, seed)
    python = peers_python(options.venv)
    with tempfile.TemporaryDirectory() as folder:
        task = export(dataset, Path(folder, "data.npz"), options.env_id)
        task |= {
            "method": method,
            "seed": seed,
            "seconds": 60 * options.minutes,
            "data": str(Path(folder, "data.npz")),
        }
        task |= {"output": str(Path(folder, "row.json"))}
        subprocess.run(
            [str(python), __file__, "--worker", json.dumps(task)], check=True, cwd=folder, stdout=sys.stderr
        )
        return json.loads(Path(task["output"]).read_text(encoding="utf-8"))


def load(name: str, options: argparse.Namespace) -> Any:
    from hf_seqrl import load_trajectories

    path = options.data / name
    return load_trajectories(str(path) if path.exists() else name, env_id=options.env_id)


def export(dataset: Any, path: Path, env_id: str | None) -> dict[str, Any]:
    """Write the transitions for the other environment; returns what it must know beside them."""
    from gymnasium.spaces import Box

    from hf_seqrl.data.columns import TrajectoryColumns
    from hf_seqrl.data.returns import returns_of_episodes
    from hf_seqrl.data.task_inference import task_of

    columns = TrajectoryColumns.of(dataset)
    task, _ = task_of(columns.metadata, columns, env_id)
    if not isinstance(task.observations, Box) or not isinstance(task.actions, Box):
        raise SystemExit(f"{task.observations}, {task.actions}: only Box observations and actions are compared.")
    steps = np.arange(columns.num_steps)
    terminations = columns.terminations.take(steps).astype(np.float32)
    ends = np.zeros(columns.num_steps, np.float32)
    ends[columns.episode_offsets[1:] - 1] = 1
    arrays = {name: getattr(columns, name).take(steps) for name in ("observations", "actions", "rewards")}
    np.savez(path, terminals=terminations, timeouts=ends * (1 - terminations), **arrays)
    best = float(returns_of_episodes(columns).max())
    return {
        "env_id": task.env_id,
        "target_return": best,
        "time_limit": task.max_episode_steps or 1000,
    }


def peers_python(folder: Path) -> Path:
    """The interpreter of the environment with d3rlpy, which is made where it is absent."""
    python = folder.resolve() / "bin" / "python"
    if (folder / "complete").exists():
        return python
    print(f"making an environment with {D3RLPY} in {folder} ...", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    theirs = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (theirs / "of_the_parent.pth").write_text(ours + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", D3RLPY], check=True)  # it pins gymnasium 1.0.0
    subprocess.run([*pip, *NEEDED_BESIDE], check=True)
    (folder / "complete").touch()
    return python


def train_ours(dataset: Any, method: str, seed: int) -> dict[str, Any]:
    """The package's own recipe, as `hf-seqrl train` runs it."""
    from transformers import TrainingArguments

    from hf_seqrl import rollout, train_agent
    from hf_seqrl.models.registry import family_named
    from hf_seqrl.training.run import Judgement

    family = family_named("cloning" if method == "ours_cloning" else "decision-transformer")
    options, settings = family.options_class(), dict(family.training_defaults)
    settings |= {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, seed=seed, use_cpu=True, **settings)
        began = time.process_time()
        agent = train_agent(
            family, dataset, options, arguments, judgement=Judgement(num_episodes=0), left_to_data=settings
        )
        seconds = time.process_time() - began
    result = rollout(agent, agent.env_id, num_episodes=EPISODES, num_envs=EPISODES, seed=FIRST_SEED)
    return row_of(result.returns.tolist(), seconds, agent.run.updates)


def row_of(returns: list[float], seconds: float, updates: int) -> dict[str, Any]:
    return {"returns": [round(value, 2) for value in returns], "cpu_seconds": round(seconds, 1), "updates": updates}


def sentence(row: dict[str, Any]) -> str:
    mean, deviation = np.mean(row["returns"]), np.std(row["returns"])
    return (
        f"{row['data']}: {row['method']}, seed {row['seed']}: {mean:.0f} +- {deviation:.0f} after {row['cpu_seconds']:.0f} CPU "
        f"seconds, {row['updates']} updates"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """One line a data set, budget and method: the mean over the seeds, and that of each."""
    lines = [
        "| data | minutes | method | mean return | by seed | CPU seconds | updates |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["data"], row["minutes"], row["method"]) for row in rows):
        runs = [row for row in rows if (row["data"], row["minutes"], row["method"]) == key]
        means = [np.mean(run["returns"]) for run in runs]
        by_seed = ", ".join(f"{mean:.0f}" for mean in means)
        seconds, updates = (np.mean([run[name] for run in runs]) for name in ("cpu_seconds", "updates"))
        lines.append(
            f"| {key[0]} | {key[1]:g} | {key[2]} | {np.mean(means):.0f} | {by_seed} | {seconds:.0f} | {updates:.0f} |"
        )
    return "\n".join(lines)


# What runs in the other environment


class TimeIsUp(Exception):
    """The CPU time of a training is spent."""


def worker(task: dict[str, Any]) -> None:
    """Train one of d3rlpy's algorithms, play, and write the row."""
    import d3rlpy
    import gymnasium
    import torch

    torch.set_num_threads(1)
    d3rlpy.seed(task["seed"])
    data = np.load(task["data"])
    rows = {name: data[name] for name in ("observations", "actions", "terminals", "timeouts")}
    dataset = d3rlpy.dataset.MDPDataset(rewards=data["rewards"].reshape(-1, 1), **rows)
    algorithm = configured(d3rlpy, task).create(device="cpu")
    spent, updates = train(d3rlpy, algorithm, dataset, task["seconds"])
    environment = gymnasium.make(task["env_id"])
    if task["method"] == "dt":
        actor = algorithm.as_stateful_wrapper(target_return=task["target_return"])
        play = lambda seed: play_conditioned(environment, actor, seed)  # noqa: E731
    else:
        play = lambda seed: play_policy(environment, algorithm, seed)  # noqa: E731
    row = row_of([play(FIRST_SEED + number) for number in range(EPISODES)], spent, updates)
    Path(task["output"]).write_text(json.dumps(row), encoding="utf-8")


def configured(d3rlpy: Any, task: dict[str, Any]) -> Any:
    """The configs of d3rlpy's reproductions for the Gym tasks."""
    algos, preprocessing, optimizers = d3rlpy.algos, d3rlpy.preprocessing, d3rlpy.optimizers
    standardized = preprocessing.StandardObservationScaler()
    if task["method"] == "iql":
        return algos.IQLConfig(
            expectile=0.7,
            weight_temp=3.0,
            max_weight=100.0,
            reward_scaler=preprocessing.ReturnBasedRewardScaler(multiplier=1000.0),
        )
    if task["method"] == "td3_bc":
        return algos.TD3PlusBCConfig(alpha=2.5, observation_scaler=standardized)
    if task["method"] == "cql":
        encoder = d3rlpy.models.encoders.VectorEncoderFactory([256, 256, 256])
        return algos.CQLConfig(
            actor_learning_rate=1e-4,
            critic_learning_rate=3e-4,
            temp_learning_rate=1e-4,
            actor_encoder_factory=encoder,
            critic_encoder_factory=encoder,
            batch_size=256,
            n_action_samples=10,
            alpha_learning_rate=0.0,
            conservative_weight=10.0,
        )
    return algos.DecisionTransformerConfig(
        batch_size=64,
        learning_rate=1e-4,
        optim_factory=optimizers.AdamWFactory(
            weight_decay=1e-4,
            clip_grad_norm=0.25,
            lr_scheduler_factory=optimizers.WarmupSchedulerFactory(warmup_steps=10_000),
        ),
        encoder_factory=d3rlpy.models.encoders.VectorEncoderFactory([128], exclude_last_activation=True),
        observation_scaler=standardized,
        reward_scaler=preprocessing.MultiplyRewardScaler(0.001),
        position_encoding_type=d3rlpy.PositionEncodingType.SIMPLE,
        context_size=20,
        num_heads=1,
        num_layers=3,
        max_timestep=task["time_limit"],
    )


def train(d3rlpy: Any, algorithm: Any, dataset: Any, seconds: float) -> tuple[float, int]:
    """Train until the CPU time is spent, counted from the first update on; returns it, and the number of updates."""
    began, updates = 0.0, 0

    def watch(algorithm: Any, epoch: int, step: int) -> None:
        nonlocal began, updates
        began, updates = began or time.process_time(), step
        if time.process_time() - began >= seconds:
            raise TimeIsUp

    settings = {"n_steps": 10**9, "n_steps_per_epoch": 10**9, "callback": watch, "show_progress": False}
    with contextlib.suppress(TimeIsUp):
        algorithm.fit(dataset, logger_adapter=d3rlpy.logging.NoopAdapterFactory(), **settings)
    return time.process_time() - began, updates


def play_policy(environment: Any, policy: Any, seed: int) -> float:
    observation, _ = environment.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = environment.step(policy.predict(observation[None])[0])
        total, over = total + float(reward), terminated or truncated
    return total


def play_conditioned(environment: Any, actor: Any, seed: int) -> float:
    actor.reset()
    observation, _ = environment.reset(seed=seed)
    total, reward, over = 0.0, 0.0, False
    while not over:
        action = actor.predict(observation, reward)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, over = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
    else:
        main()
