"""Environment steps a second with a Decision Transformer: the blog post's loop, our windows, and sliding attention.

    python benchmarks/decision_transformer_rollout.py [--rounds 3] [--steps 200] [--device cuda]

Hopper-v5 that does not end when it falls, so that untrained weights play episodes of full length; sizes are those of
the paper: hidden 128, 3 layers, 1 head, 20 steps. "blog loop" plays one environment and gives the stock model its
padded window at every step. All run in one process on one core and take their turn in each round; medians over the
rounds are printed, what the environments alone reach, and the bound that the machine's matrix products set for the
stock model on whole windows. Where EnvPool is installed, its Hopper takes a turn too. Time is the CPU time of this process, which other work on the machine does not lengthen by
itself; on another device it is that of the wall.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from devices import add_device_option, clock_of
from machine_bound import acting_gflop, gemm_gflops
from transformers import DecisionTransformerModel

from hf_seqrl import DecisionTransformerProcessor, RolloutResult, TrainableDT, rollout
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.decision_transformer.acting_weights import matmul_precision
from hf_seqrl.models.registry import family_of

ENV_ID, ENV_KWARGS, CONTEXT_LENGTH, TARGET = "Hopper-v5", {"terminate_when_unhealthy": False}, 20, 3600.0


def untrained_processor() -> DecisionTransformerProcessor:
    env = gymnasium.make(ENV_ID)
    return DecisionTransformerProcessor(
        env_id=ENV_ID,
        observation_space=space_to_dict(env.observation_space),
        action_space=space_to_dict(env.action_space),
        state_mean=np.zeros(11),
        state_std=np.ones(11),
        return_scale=1000.0,
        context_length=CONTEXT_LENGTH,
        target_returns=[TARGET],
    )


@torch.no_grad()
def blog_loop(model: DecisionTransformerModel, steps: int, device: str) -> float:
    """Environment steps a second of one environment whose whole history is kept in tensors and cut at every step."""
    clock = clock_of(device)
    env = gymnasium.make(ENV_ID, **ENV_KWARGS)
    state, _ = env.reset(seed=0)
    states = torch.tensor(state, dtype=torch.float32)[None]
    actions, togo = torch.zeros(0, 3), torch.full((1, 1), TARGET / 1000)
    began = clock()
    for step in range(steps):
        actions = torch.cat([actions, torch.zeros(1, 3)])
        real = min(step + 1, CONTEXT_LENGTH)
        window = lambda values: torch.cat([torch.zeros(CONTEXT_LENGTH - real, values.shape[1]), values[-real:]])[None]  # noqa: B023, E731
        timesteps = window(torch.arange(step + 1)[:, None].float())[..., 0].long()
        mask = (torch.arange(CONTEXT_LENGTH) >= CONTEXT_LENGTH - real).long()[None]
        inputs = {"states": window(states), "actions": window(actions), "returns_to_go": window(togo)}
        inputs = {name: values.to(device) for name, values in inputs.items()}
        predicted = model(**inputs, timesteps=timesteps.to(device), attention_mask=mask.to(device)).action_preds
        actions[-1] = predicted[0, -1].cpu()
        state, reward, _, _, _ = env.step(actions[-1].numpy())
        states = torch.cat([states, torch.tensor(state, dtype=torch.float32)[None]])
        togo = torch.cat([togo, togo[-1:] - reward / 1000])
    return steps / (clock() - began)


def environments_alone(steps: int) -> float:
    """Environment steps a second where actions cost nothing."""
    env = gymnasium.make(ENV_ID, **ENV_KWARGS)
    env.reset(seed=0)
    action = np.zeros(3, dtype=np.float32)
    began = time.process_time()
    for _ in range(5 * steps):
        env.step(action)
    return 5 * steps / (time.process_time() - began)


def steps_per_second(play: Callable[[], RolloutResult], clock: Callable[[], float]) -> float:
    began = clock()
    result = play()
    return result.lengths.sum() / (clock() - began)


def contenders(steps: int, device: str) -> dict[str, Callable[[], float]]:
    """What runs in each round, by name."""
    processor = untrained_processor()
    windows = TrainableDT(processor.model_config()).to(device)
    sliding = TrainableDT(processor.model_config(sliding_attention=CONTEXT_LENGTH)).to(device)
    stock = DecisionTransformerModel(windows.config).eval().to(device)

    def ours(model: TrainableDT, num_envs: int, precision: str, **options: Any) -> Callable[[], float]:
        actor = family_of("decision_transformer").make_actor(model, processor, matmul_precision=precision)
        play = {"num_episodes": num_envs, "num_envs": num_envs, "target_return": TARGET, "max_episode_steps": steps}
        play |= {"env_kwargs": ENV_KWARGS, **options}
        return lambda: steps_per_second(lambda: rollout(actor, ENV_ID, **play), clock_of(device))

    runs = {
        "blog loop": lambda: blog_loop(stock, 2 * steps, device),
        "environments alone": lambda: environments_alone(steps),
        "windows, 32 envs, highest": ours(windows, 32, "highest"),
        "windows, 32 envs, medium": ours(windows, 32, "medium"),
        "sliding, 64 envs, highest": ours(sliding, 64, "highest"),
        "sliding, 64 envs, medium": ours(sliding, 64, "medium"),
    }
    if importlib.util.find_spec("envpool") is not None:
        one_thread = {**ENV_KWARGS, "num_threads": 1}
        runs["sliding, 64 envs, EnvPool"] = ours(sliding, 64, "highest", backend="envpool", env_kwargs=one_thread)
    # lower precision in matrix products is an option of the CPU
    return {name: run for name, run in runs.items() if device == "cpu" or not name.endswith("medium")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    add_device_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)

    runs = contenders(options.steps, options.device)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    gemm: dict[str, list[float]] = {"highest": [], "medium": []}
    for _ in range(options.rounds):
        for precision, values in gemm.items():
            with matmul_precision(precision):
                values.append(gemm_gflops(1920, device=options.device))
        for name, run in runs.items():
            rates[name].append(run())

    for precision, values in gemm.items():
        bound = median(values) / acting_gflop()
        print(
            f"matrix products, {precision}: {median(values):.0f} GFLOP/s, so the stock model on whole windows <= {bound:.0f} /s"
        )
    for name, values in rates.items():
        bounds = gemm["medium" if name.endswith("medium") else "highest"]
        of_blog = median(x / y for x, y in zip(values, rates["blog loop"]))
        of_bound = median(value * acting_gflop() / bound for value, bound in zip(values, bounds))
        print(
            f"{name:26} {median(values):8.0f} env steps/s   {of_blog:6.2f} x blog loop   {of_bound:5.2f} x that bound"
        )


if __name__ == "__main__":
    main()
