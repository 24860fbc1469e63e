"""Random numbers that are a function of the seed, the episode and the step, whatever runs beside it."""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform_noise(seeds: np.ndarray, episodes: np.ndarray, timesteps: np.ndarray, size: int) -> np.ndarray:
    """Uniform random numbers in (0, 1) that are a pure function of the arguments.

    Args:
        seeds, episodes, timesteps: `(num_envs,)` each: of the episode, which one it is with that seed, its step.
        size: How many numbers a step needs.

    Returns:
        `(num_envs, size)`.
    """
    state = np.zeros((len(seeds), 1), dtype=np.uint64)
    for part in (seeds[:, None], episodes[:, None], timesteps[:, None], np.arange(size)):
        state = _mixed(state ^ part.astype(np.uint64))
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # 53 bits


def _mixed(state: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014), on unsigned integers that wrap around."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
