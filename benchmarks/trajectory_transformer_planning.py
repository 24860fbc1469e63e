"""Seconds per action of the Trajectory Transformer's planner, on one core.

    OMP_NUM_THREADS=1 python benchmarks/trajectory_transformer_planning.py [--cases halfcheetah-window ...] [--original]

Random weights at the paper's sizes; histories of five transitions. Beside each figure stands a lower bound: the time
that the search's floating point operations take in large matrix products on this machine, measured in the same
process, if nothing were computed twice and nothing else cost time. The second bound adds the time in which the
weights, keys and values that every token needs are read from where 16 MB of them lie, at the speed of a sum over so
many. `--original` also times the original's algorithm, which encodes the whole window anew for every token (minutes,
and memory that counts in the lines after). Times are of the thread's own processor time where other work disturbs the
machine (`--clock thread`), else of the clock on the wall. With `--device cuda`, peak memory is that of the device.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from devices import add_device_option, clock_of

from hf_seqrl.models.trajectory_transformer.beam_search import BeamPlanner
from hf_seqrl.models.trajectory_transformer.configuration_trajectory_transformer import TrajectoryTransformerConfig
from hf_seqrl.models.trajectory_transformer.discretizer import TrajectoryDiscretizer, TrajectoryDiscretizerConfig
from hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer import TrajectoryTransformerModel

CONTEXT = 5


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    observation_dim: int
    action_dim: int
    horizon: int
    beam_width: int
    crop: bool = True
    num_envs: int = 1
    objective: str = "return"

    @property
    def transition_dim(self) -> int:
        return self.observation_dim + self.action_dim + 2


HALFCHEETAH = {"observation_dim": 17, "action_dim": 6, "horizon": 5, "beam_width": 32}
HOPPER = {"observation_dim": 11, "action_dim": 3, "horizon": 15, "beam_width": 128}
CASES = {
    "halfcheetah-window": Case(**HALFCHEETAH),
    "halfcheetah-no-crop": Case(**HALFCHEETAH, crop=False),
    "halfcheetah-window-8-envs": Case(**HALFCHEETAH, num_envs=8),
    "halfcheetah-no-crop-8-envs": Case(**HALFCHEETAH, crop=False, num_envs=8),
    "halfcheetah-likelihood": Case(**HALFCHEETAH, objective="likelihood"),
    "hopper-window": Case(**HOPPER),
    "hopper-window-8-envs": Case(**HOPPER, num_envs=8),
}


def build(case: Case, device: str) -> tuple[TrajectoryTransformerModel, TrajectoryDiscretizer]:
    torch.manual_seed(0)
    sizes = {"observation_dim": case.observation_dim, "action_dim": case.action_dim}
    config = TrajectoryTransformerConfig(
        **sizes, transition_dim=case.transition_dim, block_size=10 * case.transition_dim - 1
    )
    return TrajectoryTransformerModel(config).eval().to(device), TrajectoryDiscretizer(
        TrajectoryDiscretizerConfig(**sizes)
    )


def encoded_tokens(case: Case, n_expand: int = 2) -> Iterator[tuple[int, int]]:
    """`(rows, tokens seen)` of every token that a perfect cache encodes for one environment, rows without copies."""
    size, beams = case.transition_dim, case.beam_width
    first = CONTEXT - 4 if case.crop else 0  # the transition at the window's start
    for position in range(first * size, CONTEXT * size + case.observation_dim):
        yield 1, position - first * size + 1
    for step in range(case.horizon):
        now = (CONTEXT + step) * size  # where this transition starts
        if step and case.crop:  # the window has slid: what is known of each environment is encoded once
            first += 1
            yield from ((1, p + 1) for p in range(max(0, CONTEXT * size + case.observation_dim - first * size)))
            own = range(max(first * size, CONTEXT * size + case.observation_dim), now)
            yield from ((beams, position - first * size + 1) for position in own)
        if step:
            rest = range(now if case.crop else now - 1, now + case.observation_dim)
            yield from ((beams, position - first * size + 1) for position in rest)
        acting = range(now + case.observation_dim, now + size - 1)
        yield from ((beams * n_expand, position - first * size + 1) for position in acting)


def floating_point_operations(case: Case, config: TrajectoryTransformerConfig) -> float:
    """Of one environment's plan: matrices, attention, and the one head that each new token needs."""
    width, layers = config.n_embd, config.n_layer
    return (
        sum(rows * (layers * (24 * width**2 + 4 * width * seen)) for rows, seen in encoded_tokens(case))
        + 2 * width * (config.vocab_size + 1) * case.horizon * case.beam_width * case.transition_dim
    )


def bytes_read(case: Case, config: TrajectoryTransformerConfig) -> float:
    """Of one environment's plan, token by token: weights, keys and values, each once for all rows that share them."""
    size, beams, known = case.transition_dim, case.beam_width, CONTEXT * case.transition_dim + case.observation_dim
    weights, calls, tokens = 12 * config.n_embd**2, 0, 0
    for step in range(case.horizon):
        now = (CONTEXT + step) * size
        first = CONTEXT - 4 + step if case.crop else 0
        shared = max(0, known - first * size)
        start = max(known, first * size)  # of what each row has for itself
        for position in range(now, now + size - 1) if step else range(known, now + size - 1):
            before_actions = min(position, now + case.observation_dim)
            own = beams * (before_actions - start) + 2 * beams * (position - before_actions)
            tokens += shared + max(0, own)
            calls += 1
    return 4 * config.n_layer * (calls * weights + 2 * config.n_embd * tokens)


def reading_speed(clock: Callable[[], float], device: str) -> float:
    """Bytes per second of a sum over 16 MB, the best of several."""
    values = torch.ones(1 << 22, device=device)
    times = []
    for _ in range(30):
        start = clock()
        values.sum()
        times.append(clock() - start)
    return 4 * len(values) / min(times)


def gemm_speed(clock: Callable[[], float], device: str) -> float:
    """The machine's floating point operations per second in large fp32 matrix products, the best of several."""
    a, b = torch.randn(2048, 512, device=device), torch.randn(512, 512, device=device)
    times = []
    for _ in range(30):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * 2048 * 512 * 512 / min(times)


def time_planner(case: Case, repeats: int, clock: Callable[[], float], device: str) -> list[float]:
    """Seconds per action and environment, sorted."""
    model, discretizer = build(case, device)
    planner = BeamPlanner(
        model, discretizer, horizon=case.horizon, beam_width=case.beam_width, crop=case.crop, objective=case.objective
    )
    length = CONTEXT * case.transition_dim + case.observation_dim
    histories = list(torch.randint(0, 100, (case.num_envs, length)))
    planner.plan(histories, seeds=range(case.num_envs))
    times = []
    for seed in range(repeats):
        start = clock()
        planner.plan(histories, seeds=range(seed, seed + case.num_envs))
        times.append((clock() - start) / case.num_envs)
    return sorted(times)


@torch.inference_mode()
def time_original(case: Case, clock: Callable[[], float], device: str) -> float:
    """Seconds per action of a planner that encodes the window anew for each token, as the original does.

    One forward of every kind is timed and counted as often as it occurs.
    """
    model, _ = build(case, device)
    size, seconds = case.transition_dim, 0.0
    longest = 5 if case.crop else CONTEXT + case.horizon
    for step in range(case.horizon):
        before = min(CONTEXT + step, longest - 1)
        for entry in range(size):
            rows = case.beam_width * (2 if entry >= case.observation_dim else 1)
            if entry < case.observation_dim and step == case.horizon - 1:
                continue
            tokens = torch.randint(0, 100, (rows, before * size + entry), device=device)
            start = clock()
            model(tokens, use_cache=False)
            seconds += clock() - start
    return seconds


def peak_megabytes(device: str) -> float:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "thread"], default="wall")
    parser.add_argument("--original", action="store_true", help="also time the original's algorithm")
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = arguments.device
    clock = clock_of(device, {"wall": time.perf_counter, "thread": time.thread_time}[arguments.clock])
    print(f"large fp32 matrix products: {gemm_speed(clock, device) / 1e9:.0f} GFLOP/s")
    print(f"sum over 16 MB: {reading_speed(clock, device) / 1e9:.0f} GB/s")
    print(
        f"{'case':28} {'s/action':>9} {'best':>7} {'bound':>7} {'multiple':>9} {'with reading':>13} {'multiple':>9} "
        f"{'original':>9} {'peak MB':>8}"
    )
    for name in arguments.cases:
        case = CASES[name]
        times = time_planner(case, arguments.repeats, clock, device)
        config = build(case, device)[0].config
        bound = floating_point_operations(case, config) / gemm_speed(clock, device)
        with_reading = bound + bytes_read(case, config) / reading_speed(clock, device)
        peak = peak_megabytes(device)
        original = f"{time_original(case, clock, device):9.1f}" if arguments.original else f"{'':9}"
        median = statistics.median(times)
        print(
            f"{name:28} {median:9.3f} {times[0]:7.3f} {bound:7.3f} {median / bound:9.2f} {with_reading:13.3f} "
            f"{median / with_reading:9.2f} {original} {peak:8.0f}"
        )


if __name__ == "__main__":
    main()
