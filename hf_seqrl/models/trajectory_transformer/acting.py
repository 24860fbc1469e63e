"""How a Trajectory Transformer acts: it plans from what has happened, and takes the first action of the best plan."""

from collections import deque
from typing import Any

import numpy as np
import torch

from .beam_search import BeamPlanner, ValueFunction
from .modeling_trajectory_transformer import TrajectoryTransformerModel
from .processing_trajectory_transformer import TrajectoryTransformerProcessor


class TrajectoryTransformerActor:
    """Plans with a [`BeamPlanner`] for every environment, from its own history and with its own random numbers.

    Args:
        model: Plans are made under it.
        processor: Holds the discretizer, the action space and the planner's options.
        value_function: See [`BeamPlanner`].
        goal: A raw state to reach `(*observation_shape)`, for models trained with goals; see [`BeamPlanner.plan`].
        dtype: See [`BeamPlanner`].
        **planner_options: Override those of the processor; see [`PlanningOptions`].

    Raises:
        ValueError: several actions of a plan are to be taken though its transitions are `step` > 1 steps apart.
    """

    is_conditioned = False

    def __init__(
        self,
        model: TrajectoryTransformerModel,
        processor: TrajectoryTransformerProcessor,
        value_function: ValueFunction | None = None,
        goal: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
        **planner_options: Any,
    ) -> None:
        options = processor.planner_options | planner_options
        self.planner = BeamPlanner(model, processor.discretizer, value_function, dtype, **options)
        self.deterministic = self.planner.options.deterministic
        self.processor = processor
        self.step = processor.step
        if self.step > 1 and self.planner.options.plan_every > 1:
            raise ValueError(
                f"plan_every is {self.planner.options.plan_every}, but the transitions of a plan are {self.step} steps "
                "apart: plan every step."
            )
        config = model.config
        self.observation_entries = slice(0, config.observation_dim)
        self.action_entries = slice(config.observation_dim, config.observation_dim + config.action_dim)
        self.goal = None
        if goal is not None:
            self.goal = self.planner.goal_transition(np.reshape(goal, (1, config.observation_dim)))

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Begin `num_envs` new episodes with the model as it is now; see `Actor`.

        Raises:
            ValueError: there is a target return.
        """
        self.planner.refresh()  # the model may have been trained since
        length = self.planner.options.max_context_transitions * self.step
        self.histories = [deque(maxlen=length) for _ in range(num_envs)]  # transitions as tokens (transition_dim,)
        self.plans = [deque() for _ in range(num_envs)]  # planned actions not taken yet, as tokens (action_dim,)
        self.generators = [torch.Generator() for _ in range(num_envs)]
        self.restart(np.arange(num_envs), target_return, seed)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments; see `Actor`."""
        if target_return is not None:
            raise ValueError(
                f"target_return is {target_return}, but a planner seeks the greatest return and takes none: leave it out."
            )
        seeds = np.broadcast_to(np.asarray(seed, dtype=object), len(env_indices))
        for index, own_seed in zip(env_indices, seeds):
            self._forget(index)
            generator = torch.Generator()
            generator.seed() if own_seed is None else generator.manual_seed(int(own_seed))
            self.generators[index] = generator

    def select(self, env_indices: np.ndarray) -> None:
        """Go on with these environments only; see `Actor`."""
        for name in ("histories", "plans", "generators"):
            values = getattr(self, name)
            setattr(self, name, [values[index] for index in env_indices])

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)`; see `Actor`."""
        observations = np.reshape(observations, (len(self.histories), -1))
        self.observed = self.processor.discretizer.encode(observations, self.observation_entries).cpu()
        waiting = [index for index, plan in enumerate(self.plans) if not plan]
        if waiting:
            self._plan(waiting)
        self.acted = torch.stack([plan.popleft() for plan in self.plans])  # (num_envs, action_dim)
        entries = self.processor.discretizer.decode(self.acted, self.action_entries)
        return self.processor.as_actions(entries.cpu().numpy())

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """What the actions brought; histories of ended episodes are dropped. See `Actor`."""
        rewards = self.processor.discretizer.encode(rewards, self.action_entries.stop).cpu()
        values = torch.zeros_like(rewards)  # nobody knows them yet, and no token attends to them
        transitions = torch.cat([self.observed, self.acted, torch.stack([rewards, values], 1)], 1)
        for index, (transition, done) in enumerate(zip(transitions, dones)):
            self.histories[index].append(transition)
            if done:
                self._forget(index)

    def _plan(self, env_indices: list[int]) -> None:
        goals = None if self.goal is None else self.goal.expand(len(env_indices), -1)
        plan = self.planner.plan(
            [self._history(index) for index in env_indices],
            [self.generators[index] for index in env_indices],
            goals=goals,
        )
        actions = plan.tokens[:, : self.planner.options.plan_every, self.action_entries]
        for index, own_actions in zip(env_indices, actions):
            self.plans[index].extend(own_actions)

    def _history(self, index: int) -> torch.LongTensor:
        """Tokens `(time,)`: the transitions `step` steps apart that lead to the current observation, and this one."""
        transitions = list(self.histories[index])[-self.step :: -self.step][::-1]
        return torch.cat([*transitions, self.observed[index]])

    def _forget(self, index: int) -> None:
        self.histories[index].clear()
        self.plans[index].clear()
