"""The actor of the Trajectory Transformer: it plans from the history and takes the first actions of the best plan."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hf_seqrl.models.actor import Actor

from .beam_search import BeamPlanner, ValueFunction
from .modeling_trajectory_transformer import TrajectoryTransformerModel
from .processing_trajectory_transformer import TrajectoryTransformerProcessor


class TrajectoryTransformerActor(Actor):
    """Plans with a [`BeamPlanner`] for every environment, with its own history and random numbers.

    Args:
        model: The model, with its weights at the call of `reset`.
        processor: Holds the discretizer, the task and the planner's options.
        value_function: See [`BeamPlanner`].
        goal: A raw state to reach `(*observation_shape)`, for models trained with goals; see [`BeamPlanner.plan`].
        dtype: See [`BeamPlanner`].
        missing_values: See [`Actor`].
        **planner_options: Override those of the processor; see [`PlanningOptions`].

    Raises:
        ValueError: several actions of a plan are to be taken though its transitions are `step` > 1 steps apart.
    """

    def __init__(
        self,
        model: TrajectoryTransformerModel,
        processor: TrajectoryTransformerProcessor,
        value_function: ValueFunction | None = None,
        goal: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
        missing_values: str = "error",
        **planner_options: Any,
    ) -> None:
        options = processor.planner_options | planner_options
        self.planner = BeamPlanner(model, processor.discretizer, value_function, dtype, **options)
        super().__init__(
            processor.task, deterministic=self.planner.options.deterministic, missing_values=missing_values
        )
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

    @property
    def memory(self) -> int:
        return self.planner.options.max_context_transitions * self.step

    def _allocate(self, num_envs: int) -> None:
        self.planner.refresh()
        length = self.planner.options.max_context_transitions * self.step
        self.histories = [deque(maxlen=length) for _ in range(num_envs)]  # transitions as tokens (transition_dim,)
        self.plans = [deque() for _ in range(num_envs)]  # planned actions not taken yet, as tokens (action_dim,)
        self._planned: np.ndarray | None = None  # the actions of the last step, unless somebody else chose them

    def _begin(self, env_indices: np.ndarray) -> None:
        for index in env_indices:
            self.histories[index].clear()
            self.plans[index].clear()

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        self._observed_tokens = self._tokens(observations, self.observation_entries)
        waiting = [index for index, plan in enumerate(self.plans) if not plan]
        if waiting:
            self._plan(waiting)
        chosen = torch.stack([plan.popleft() for plan in self.plans])  # (num_envs, action_dim)
        entries = self.processor.discretizer.decode(chosen, self.action_entries)
        self._planned = self.processor.as_actions(entries.cpu().numpy())
        return self._planned

    def _absorb(self, observations: np.ndarray) -> None:
        self._observed_tokens = self._tokens(observations, self.observation_entries)
        self._planned = None

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        executed = self._tokens(actions, self.action_entries)
        received = self._tokens(rewards, slice(self.action_entries.stop, self.action_entries.stop + 1))
        values = torch.zeros_like(received)  # not known yet, and no token attends to them
        transitions = torch.cat([self._observed_tokens, executed, received, values], 1)
        for index, transition in enumerate(transitions):
            self.histories[index].append(transition)
        if self._planned is not None and actions is not self._planned:
            differs = (actions != self._planned).reshape(len(actions), -1).any(axis=1)
            for index in np.flatnonzero(differs):
                self.plans[index].clear()  # the rest was planned for another action

    def _keep(self, env_indices: np.ndarray) -> None:
        self.histories = [self.histories[index] for index in env_indices]
        self.plans = [self.plans[index] for index in env_indices]
        if not self._awaits_observation:
            self._observed_tokens = self._observed_tokens[env_indices]
            self._planned = None if self._planned is None else self._planned[env_indices]

    def own_state(self) -> dict[str, np.ndarray]:
        state = {"plan": torch.stack(list(self.plans[0])).numpy()} if self.plans[0] else {}
        if self._planned is not None and not self._awaits_observation:
            state["planned"] = self._planned[0]
        return state

    def restore_own_state(self, state: Mapping[str, np.ndarray], corrected: bool) -> None:
        if corrected:  # the rest was planned from another history
            return
        self.plans[0].extend(torch.from_numpy(state["plan"]) if "plan" in state else ())
        self._planned = state["planned"][None] if "planned" in state else None

    def _plan(self, env_indices: list[int]) -> None:
        goals = None if self.goal is None else self.goal.expand(len(env_indices), -1)
        plan = self.planner.plan(
            [self._history(index) for index in env_indices],
            seeds=self.stream_seeds()[env_indices],
            goals=goals,
        )
        actions = plan.tokens[:, : self.planner.options.plan_every, self.action_entries]
        for index, own_actions in zip(env_indices, actions):
            self.plans[index].extend(own_actions)

    def _history(self, index: int) -> torch.LongTensor:
        """Tokens `(time,)`: the transitions `step` steps apart that lead to the current observation, and this one."""
        transitions = list(self.histories[index])[-self.step :: -self.step][::-1]
        return torch.cat([*transitions, self._observed_tokens[index]])

    def _tokens(self, values: np.ndarray, entries: slice) -> torch.LongTensor:
        """Raw values `(num_envs, ...)` as the tokens `(num_envs, entries)` of a transition, on the CPU."""
        return self.processor.discretizer.encode(np.reshape(values, (len(values), -1)), entries).cpu()
