"""From the records of a reactor to an agent that runs it, judged from the records alone, then checked.

    python examples/chemical_process.py

A stirred tank makes a product out of a substance A, and heat. The concentration of A has to follow a setpoint that changes within a
run; what is decided every quarter of a minute is the temperature of the coolant. The hotter the tank, the more of A reacts, and the
more heat that makes: at the lower setpoints the reactor runs away unless it is held, and a trip at 365 K ends the run. The model and its
numbers are those of Seborg, Edgar and Mellichamp (Process Dynamics and Control). Measurements have noise, and the temperature of the
feed drifts, which nobody measures.

The log is a table with one row for each decision: PID controllers of different tuning, and what operators added by hand. Agents
learn from it, are judged by it, and only then is the reactor itself asked. They are compared with the records and with PID control
that was tuned in the simulator.
"""

import math
from pathlib import Path

import gymnasium as gym
import jobs
import numpy as np
import pandas as pd
from datasets import DatasetDict
from gymnasium.spaces import Box

from hf_seqrl import Runner, load_trajectories, rollout
from hf_seqrl.models.actor import Actor

MINUTES = 0.25  # from one decision to the next
STEPS = 60  # of a run
NEW_SETPOINT = 20  # steps
SETPOINTS = (0.75, 0.92)  # mol of A per litre
COOLANT = (285.0, 315.0)  # K
USUAL_COOLANT = 301.0
TRIP = 365.0  # K
TOLERATED = 0.1  # mol/l: with a greater error the product is worth nothing
WEAR = 0.01  # of moving the coolant by 1 K
FEED_DRIFT, FEED_MINUTES = 2.0, 5.0  # standard deviation in K, and how long a drift lasts
BEST_TUNING = 130.0, 3.0, 0.35  # of a search in the simulator: see [`PID`]
SEEN = ["concentration", "temperature", "setpoint", "coolant_now"]


class Reactor(gym.Env):
    """Observations are the columns `SEEN`, the action is the coolant's temperature in K, rewards are the worth of the product, at most 1
    a step.
    """

    observation_space = Box(-np.inf, np.inf, (len(SEEN),), np.float32)
    action_space = Box(*COOLANT, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._setpoints = self.np_random.uniform(*SETPOINTS, math.ceil(STEPS / NEW_SETPOINT))
        self.concentration, self.temperature, self._coolant = 0.87, 325.0, USUAL_COOLANT
        self._feed, self._steps = 350.0 + FEED_DRIFT * self.np_random.normal(), 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        coolant = float(np.clip(action[0], *COOLANT))
        moved, self._coolant = abs(coolant - self._coolant), coolant
        self._integrate()
        kept = math.exp(-MINUTES / FEED_MINUTES)
        self._feed = 350 + kept * (self._feed - 350) + FEED_DRIFT * math.sqrt(1 - kept**2) * self.np_random.normal()
        error = abs(self.concentration - self._setpoint)
        self._steps += 1
        worth = max(0.0, 1 - error / TOLERATED) - WEAR * moved
        return self._seen(), worth, self.temperature > TRIP, self._steps == STEPS, {}

    def _integrate(self, parts: int = 10) -> None:
        """By Runge and Kutta's method of the fourth order, to the trip at most: beyond it the reaction takes seconds."""
        state, step = np.array([self.concentration, self.temperature]), MINUTES / parts
        for _ in range(parts):
            if state[1] > TRIP:
                break
            first = self._slope(state)
            second = self._slope(state + step / 2 * first)
            third = self._slope(state + step / 2 * second)
            state = state + step / 6 * (first + 2 * second + 2 * third + self._slope(state + step * third))
        self.concentration, self.temperature = state.tolist()

    def _slope(self, state: np.ndarray) -> np.ndarray:
        """Change a minute of the concentration of A (mol/l) and of the temperature (K)."""
        concentration, temperature = state.tolist()
        rate = 7.2e10 * math.exp(-8750 / temperature) * concentration  # mol/l that react in a minute
        cooling = 5e4 / (1000 * 0.239 * 100) * (self._coolant - temperature)
        return np.array([1.0 - concentration - rate, self._feed - temperature + 5e4 / (1000 * 0.239) * rate + cooling])

    @property
    def _setpoint(self) -> float:
        return float(self._setpoints[min(self._steps, STEPS - 1) // NEW_SETPOINT])

    def _seen(self) -> np.ndarray:
        noise = self.np_random.normal(0, [0.002, 0.2])
        measured = self.concentration + noise[0], self.temperature + noise[1]
        return np.array([*measured, self._setpoint, self._coolant], np.float32)


class PID(Actor):
    """Proportional and integral in the concentration, and against changes of the temperature.

    Args:
        gain: K per mol/l.
        minutes: Integral time.
        damping: K per K/min.
    """

    def __init__(self, gain: float, minutes: float, damping: float) -> None:
        super().__init__()
        self._gain, self._minutes, self._damping = gain, minutes, damping

    def _allocate(self, num_envs: int) -> None:
        self._held, self._last = np.full(num_envs, USUAL_COOLANT), np.full(num_envs, np.nan)

    def _begin(self, env_indices: np.ndarray) -> None:
        self._held[env_indices], self._last[env_indices] = USUAL_COOLANT, np.nan

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        seen = np.asarray(observations, np.float64)
        error, temperature = seen[:, 0] - seen[:, 2], seen[:, 1]
        rise = np.where(np.isnan(self._last), 0.0, temperature - self._last) / MINUTES
        self._last = temperature
        wanted = self._held + self._gain * error - self._damping * rise
        chosen = np.clip(wanted, *COOLANT)
        self._held += np.where(chosen == wanted, self._gain * error * MINUTES / self._minutes, 0.0)  # no wind-up
        return chosen[:, None].astype(np.float32)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        pass

    def _keep(self, env_indices: np.ndarray) -> None:
        self._held, self._last = self._held[env_indices], self._last[env_indices]


def an_operator(rng: np.random.Generator) -> PID:
    """A controller as one of the operators tuned it."""
    return PID(
        np.exp(rng.uniform(np.log(8), np.log(80))), np.exp(rng.uniform(np.log(1.5), np.log(20))), rng.uniform(0, 0.4)
    )


def write_log(runs: int, seed: int) -> pd.DataFrame:
    """What was measured, decided and achieved in so many runs: one row a decision."""
    rng, reactor, rows = np.random.default_rng(seed), Reactor(), []
    for run in range(runs):
        operator, (seen, _), ended, by_hand = an_operator(rng), reactor.reset(seed=seed + run), False, 0.0
        shaky = rng.uniform(0.0, 1.5)
        operator.reset(1)
        while not ended:
            by_hand = (
                rng.normal(0, 3) if rng.random() < 0.05 else 0.8 * by_hand
            )  # K; a test or a correction, then given up
            decided = operator.act(seen[None])[0] + by_hand + shaky * rng.normal()
            decided = np.round(np.clip(decided, *COOLANT), 1).astype(np.float32)
            following, worth, tripped, is_over, _ = reactor.step(decided)
            operator.observe(np.array([worth]), np.zeros(1, bool), decided[None])
            ended = tripped or is_over
            rows.append((run, len(rows), *seen, decided[0], worth, tripped))
            seen = following
    return pd.DataFrame(rows, columns=["run", "row", *SEEN, "coolant", "worth", "tripped"])


def load(log: pd.DataFrame, path: Path) -> DatasetDict:
    """The log as a user would load it, a quarter of the runs held out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log.to_csv(path, index=False)
    return load_trajectories(
        path,
        episode="run",
        step="row",
        observation=SEEN,
        action="coolant",
        reward="worth",
        termination="tripped",
        action_space=Reactor.action_space,
        max_episode_steps=STEPS,
    ).train_test_split(0.25, seed=0)


def achieved(policy, runs: int, first_seed: int = 1_000_000) -> np.ndarray:
    """The worth of runs that nobody has seen, the same for every policy."""
    return rollout(policy, Reactor, runs, num_envs=50, seed=first_seed, max_episode_steps=STEPS).returns


def achieved_by_operators(runs: int, rng: np.random.Generator) -> np.ndarray:
    """The same of controllers tuned like those of the log, another one for every run, and left alone."""
    return np.concatenate([achieved(an_operator(rng), 1, first_seed=1_000_000 + i) for i in range(runs)])


def run_once(folder: Path) -> None:
    """What the plant sees of it: measurements by name in, the coolant's temperature out."""
    runner, reactor = Runner(folder), Reactor()
    runner.begin()
    (seen, _), ended, total = reactor.reset(seed=7), False, 0.0
    while not ended:
        coolant = runner.step(dict(zip(SEEN, seen.tolist())))
        following, worth, tripped, is_over, _ = reactor.step(np.array([coolant]))
        runner.observe(reward=worth)
        if runner.timestep % NEW_SETPOINT in (0, NEW_SETPOINT - 1):
            print(
                f"minute {MINUTES * runner.timestep:4.1f}: setpoint {seen[2]:.3f}, measured {seen[0]:.3f} mol/l, coolant {coolant:.1f} K"
            )
        seen, ended, total = following, tripped or is_over, total + worth
    print(f"worth of this run: {total:.1f} of at most {STEPS}")


def main() -> None:
    options = jobs.parser(__doc__, episodes=500, output_dir="outputs/chemical-process").parse_args()
    log = write_log(options.episodes, seed=0)
    runs = log.groupby("run")
    print(
        f"{options.episodes} runs, worth {runs.worth.sum().mean():.1f} in the mean; {runs.tripped.any().mean():.1%} tripped"
    )
    references = {
        "controllers of the log, left alone": achieved_by_operators(options.checked, np.random.default_rng(1)),
        "PID, tuned in the simulator": achieved(PID(*BEST_TUNING), options.checked),
    }
    exported = jobs.compare(
        load(log, options.output_dir / "log.csv"),
        options,
        lambda policy: achieved(policy, options.checked),
        references,
    )
    run_once(exported)


if __name__ == "__main__":
    main()
