"""A controller of one live stream: observations in, actions out, in the user's names and words.

The controller keeps the last steps of the episode itself. What it is told late corrects them, and what it saves are these
steps, so that another process goes on with the same actions to the last bit.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hf_seqrl.data.durable import write_whole
from hf_seqrl.deploy.user_values import UserValues
from hf_seqrl.evaluation.policies import Policy, as_actor, default_target
from hf_seqrl.models.actor import AUTO, Actor
from hf_seqrl.models.episode import EpisodeInProgress

_FORMAT = 1
_STEP_ARRAYS = ("observation", "chosen", "executed")
_OWN = "own."  # before the names of what the actor itself keeps


@dataclass
class _Step:
    """One step: what was seen, chosen (`None` where somebody else chose), executed and received, as far as it is known."""

    observation: np.ndarray
    chosen: np.ndarray | None
    executed: np.ndarray | None = None
    reward: float | None = None

    @property
    def action(self) -> np.ndarray | None:
        return self.chosen if self.executed is None else self.executed


class Controller:
    """Acts for one stream, without an environment.

    An episode begins with `begin`. After that, `step` takes each observation and returns the action; `observe` tells the reward
    and the executed action as soon as they are known, also late. Until a reward is told it counts as 0, so that the return-to-go
    of an agent that is conditioned on a return does not fall.

    Several controllers of one agent share its weights, those of now, and nothing else. A controller is not meant to be used by
    several threads at once.

    Args:
        agent: An `Agent` or another `Actor`, the folder or Hub id of an agent, or a callable that takes observations
            `(1, *observation_shape)` to actions.
        keep_steps (`int`, *optional*, defaults to `64`): Rewards and executed actions of at least so many past steps can be told
            late. The last steps that the agent's choices depend on are kept in any case, and no more, so that an
            endless stream takes constant memory.

    Example:
        >>> controller = Controller(lambda observations: observations[:, 0] > 0.5)
        >>> controller.begin()
        >>> controller.step([0.7, 0.1])
        True
        >>> controller.observe(reward=1.0, action=False)  # an operator overruled it
        >>> controller.timestep
        1
    """

    def __init__(self, agent: "Policy | str | Path", keep_steps: int = 64) -> None:
        if keep_steps < 1:
            raise ValueError(f"keep_steps is {keep_steps}: expected at least 1.")
        if isinstance(agent, str | Path):
            from hf_seqrl.hub.agent import Agent

            agent = Agent.from_pretrained(agent)
        self._actor: Actor = as_actor(agent).twin()
        self._values = UserValues(self._actor.task, self._actor.missing_values != "error")
        self._kept = None if self._actor.memory is None else max(self._actor.memory, keep_steps)
        self._steps: deque[_Step] = deque()
        self._begun = False

    @property
    def actor(self) -> Actor:
        """What chooses; it belongs to this controller."""
        return self._actor

    @property
    def timestep(self) -> int:
        """The number of steps so far: that of the next step, counted from 0."""
        return self._first + len(self._steps) if self._begun else 0

    @property
    def target_return(self) -> float | None:
        """The raw return that this episode is asked for; `None` for an agent that is not conditioned on one, and with `"auto"`
        before the first observation."""
        return self._target if self._begun else None

    @property
    def return_to_go(self) -> float | None:
        """What is still asked for at the next step, raw; `None` where `target_return` is."""
        return None if self.target_return is None else self._fallen(self._steps)

    @property
    def last_action(self) -> Any:
        """What `step` returned last; `None` where somebody else chose, or before the first step."""
        chosen = self._steps[-1].chosen if self._begun and self._steps else None
        return None if chosen is None else self._values.action(chosen)

    @property
    def unknown_rewards(self) -> int:
        """How many rewards of the steps that are kept have not been told."""
        return sum(step.reward is None for step in self._steps)

    @property
    def interventions(self) -> dict[str, int]:
        """How many actions of this episode each constraint has changed, by its name; see [`~hf_seqrl.deploy.constraints.Constrained`]."""
        return self._actor.interventions

    def begin(
        self,
        target_return: float | str | None = None,
        history: Any = None,
        *,
        reward: str = "reward",
        seed: int | None = None,
    ) -> None:
        """Begin a new episode.

        Args:
            target_return (`float` or `"auto"`, *optional*): Raw, of the whole episode; defaults to the first of the agent. `"auto"`
                asks, at the first observation, for a high return that the data support.
            history (*optional*): The steps so far of an episode that somebody else began: a mapping with `observations`
                `(steps, ...)`, the executed `actions` and raw `rewards`, or rows of a table, oldest first, as a `DataFrame` or a list of
                mappings from the names of the columns to their values.
            reward (`str`, *optional*, defaults to `"reward"`): The column of the rewards in such a table.
            seed (`int`, *optional*): For agents that sample; drawn by default.

        Raises:
            ValueError: a target for an agent that is not conditioned, no known target, or a history that does not fit the data.
        """
        self._begun = False
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed is None else seed
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed!r}: expected an integer from 0 to 2**64 - 1.")
        past = None if history is None else self._values.history(history, reward)
        if target_return is None:
            target_return = default_target(self._actor)
        self._is_open = isinstance(target_return, str) and target_return == AUTO
        self._target = (
            None if target_return is None or self._is_open else _finite(target_return, "target_return", "'auto'")
        )
        self._actor.reset(1, AUTO if self._is_open else self._target, seed)
        self._seed, self._first, self._first_return_to_go = int(seed), 0, self._target or 0.0
        self._steps, self._is_pending, self._is_corrected = deque(), False, False
        if past is not None:
            if self._is_open and len(past["rewards"]):
                self._actor.watch(past["observations"][:1])
                self._settle_target()
            for observation, action, received in zip(*past.values()):
                self._steps.append(_Step(np.asarray(observation), None, np.asarray(action), float(received)))
                self._forget()
            self._actor.resume(self._episode(False, {}))
        self._begun = True

    def step(self, observation: Any) -> Any:
        """Take in an observation and choose the action.

        Args:
            observation: Raw, `(*observation_shape)`, or a mapping of its entries by the names of the data's columns.

        Returns:
            The action as the data had it: a word or number, a dictionary of them by the names of the columns where there are
            several, else an int or an array.

        Raises:
            RuntimeError: `begin` was not called.
            ValueError: an entry is missing, not finite or of an unknown word, or the shape is another one. Nothing has changed then.
        """
        (result,) = step_together([self], [observation])
        if isinstance(result, Exception):
            raise result
        return result

    def watch(self, observation: Any) -> None:
        """Take in an observation for which somebody else chooses, for instance while the plant is run by hand; `observe` then tells
        the executed action.

        Raises:
            RuntimeError, ValueError: as for `step`.
        """
        seen = self._take_in(observation)
        self._actor.watch(seen[None])
        self._settle_target()
        self._add(_Step(seen, None))

    def observe(self, reward: float | None = None, action: Any = None, *, step: int | None = None) -> None:
        """Tell the reward or the executed action of a step, together or one after the other.

        Args:
            reward (`float`, *optional*): Raw.
            action (*optional*): What was executed, as `step` returns it, where it is not what was chosen.
            step (`int`, *optional*): The number of the step, counted from 0; defaults to the last. For an earlier one, the next
                choice is that of an agent that had known it in time.

        Raises:
            RuntimeError: there was no step yet.
            ValueError: a reward that is not finite, an action that is none, or a step that is no longer kept. Nothing has changed
                then.
        """
        if not self._begun or not self._steps:
            raise RuntimeError("observe was called before step: there is no step yet to report on.")
        place = len(self._steps) - 1 if step is None else self._place_of(step)
        executed = None if action is None else self._values.executed(action)
        told = self._steps[place]
        if reward is not None:
            reward = _finite(reward, "the reward")
            self._is_corrected |= reward != (told.reward or 0.0) and not self._is_last(place)
            told.reward = reward
        if executed is not None:
            self._is_corrected |= not self._is_last(place)
            told.executed = executed

    # Saved and restored

    def save(self, path: str | Path) -> Path:
        """Write the state of the episode into one file, whole or not at all: its last steps as arrays (safetensors), the rest as JSON
        in the file's header.

        Raises:
            RuntimeError: no episode has begun.
        """
        return write_whole(path, self.state_bytes())

    def load(self, path: str | Path) -> None:
        """Go on with the episode that another controller of the same agent saved: the next actions are the same to the last bit.

        Raises:
            OSError: there is no such file.
            ValueError: it is damaged, or of an agent with other spaces.
        """
        self._begun = False
        try:
            with safe_open(path, "numpy") as file:
                header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._restore(json.loads((header or {})["controller"]), arrays, str(path))
        except (SafetensorError, KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} holds no state of a controller, or is damaged: {error}") from error
        self._begun = True

    def state_bytes(self) -> bytes:
        """What `save` writes."""
        if not self._begun:
            raise RuntimeError("no episode has begun: call begin first.")
        last = self._steps[-1] if self._is_pending else None
        state = {
            "format": _FORMAT,
            "spaces": self._spaces(),
            "target_return": AUTO if self._is_open else self._target,
            "seed": self._seed,
            "first_timestep": self._first,
            "first_return_to_go": self._first_return_to_go,
            "rewards": [step.reward for step in self._steps],
            "chosen": [step.chosen is not None for step in self._steps],
            "executed": [step.executed is not None for step in self._steps],
            "is_pending": last is not None,
            "is_corrected": self._is_corrected,
        }
        arrays = {_OWN + name: values for name, values in self._actor.own_state().items()}
        for name in _STEP_ARRAYS:
            values = [value for step in self._steps if (value := getattr(step, name)) is not None]
            if values:
                arrays[name] = np.stack(values)
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        return save(arrays, metadata={"controller": json.dumps(state)})

    def _restore(self, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: str) -> None:
        if state.get("format") != _FORMAT:
            raise ValueError(f"{path} has format {state.get('format')!r}: expected {_FORMAT}; update hf_seqrl.")
        if state["spaces"] != self._spaces():
            raise ValueError(f"{path} was saved by an agent with other spaces: load it with the agent that saved it.")
        seen, chosen_actions, executed_actions = (deque(arrays.get(name, ())) for name in _STEP_ARRAYS)
        self._steps = deque(
            _Step(
                seen.popleft(),
                chosen_actions.popleft() if chosen else None,
                executed_actions.popleft() if executed else None,
                reward,
            )
            for chosen, executed, reward in zip(state["chosen"], state["executed"], state["rewards"])
        )
        self._is_open = state["target_return"] == AUTO
        self._target, self._seed = None if self._is_open else state["target_return"], state["seed"]
        self._first, self._first_return_to_go = state["first_timestep"], state["first_return_to_go"]
        self._is_pending, self._is_corrected = state["is_pending"], state["is_corrected"]
        own_state = {name[len(_OWN) :]: values for name, values in arrays.items() if name.startswith(_OWN)}
        self._actor.resume(self._episode(self._is_pending, own_state))

    def _spaces(self) -> dict[str, Any]:
        task = self._actor.task
        return {"observation": task.observation_space, "action": task.action_space}

    # The steps

    def _take_in(self, observation: Any) -> np.ndarray:
        """Check the observation, then tell the actor the step before it."""
        if not self._begun:
            raise RuntimeError("no episode has begun: call begin(target_return=...) first.")
        seen = self._values.observation(observation)
        if self._steps:
            if self._steps[-1].action is None:
                raise RuntimeError(
                    "somebody else chose at the last step: tell observe(action=...) what, before the next observation."
                )
            if seen.dtype.kind == self._steps[-1].observation.dtype.kind == "f":
                seen = seen.astype(self._steps[-1].observation.dtype)  # one precision all through the episode
        if self._is_corrected:
            self._actor.resume(self._episode(False, self._actor.own_state()), corrected=True)
        elif self._is_pending:
            last = self._steps[-1]
            executed = None if last.executed is None else last.executed[None]
            self._actor.observe(np.array([last.reward or 0.0]), np.zeros(1, bool), executed)
        self._is_corrected = self._is_pending = False
        return seen

    def _settle_target(self) -> None:
        """What `"auto"` asks for is known with the first observation, and holds for the episode."""
        if self._is_open:
            self._target = self._first_return_to_go = float(self._actor.returns_to_go[0])
            self._is_open = False

    def _act_on(self, seen: np.ndarray) -> np.ndarray | Exception:
        try:
            return self._actor.act(seen[None])[0]
        except (ValueError, RuntimeError) as error:
            return error

    def _took(self, seen: np.ndarray, chosen: np.ndarray) -> Any:
        self._settle_target()
        self._add(_Step(seen, chosen))
        return self._values.action(chosen)

    def _add(self, step: _Step) -> None:
        if self._actor.missing_values != "error":
            step.observation = self._actor.observed[0]  # with what was missing filled in
        self._steps.append(step)
        self._is_pending = True
        self._forget()

    def _forget(self) -> None:
        """Drop what no choice depends on any more; one step more is kept than the actor remembers, the one under way."""
        while self._kept is not None and len(self._steps) > self._kept + 1:
            dropped = self._steps.popleft()
            self._first += 1
            self._first_return_to_go = self._fallen([dropped])

    def _fallen(self, steps: Any) -> float:
        """The return-to-go after these steps, from the first kept one on."""
        return_to_go = self._first_return_to_go
        for step in steps:
            return_to_go = (return_to_go - (step.reward or 0.0)) / self._actor.discount
        return return_to_go

    def _episode(self, is_pending: bool, own_state: dict[str, np.ndarray]) -> EpisodeInProgress:
        """The steps that the next choice depends on, for the actor."""
        steps = list(self._steps)
        last = steps.pop() if is_pending else None
        memory = self._actor.memory
        needed = len(steps) if memory is None else max(memory, 1)  # one at least bridges a sensor that fails
        before, steps = steps[:-needed], steps[-needed:]
        observations = [step.observation for step in steps]
        return EpisodeInProgress(
            observations=np.stack(observations) if steps else np.zeros(0),
            actions=np.stack([np.asarray(step.action) for step in steps]) if steps else np.zeros(0),
            rewards=np.array([step.reward or 0.0 for step in steps]),
            target_return=np.nan if self._is_open else self._target,
            seed=self._seed,
            first_timestep=self._first + len(before),
            return_to_go=np.nan if self._is_open else self._fallen(before),
            observed=None if last is None else last.observation,
            chosen=None if last is None else last.chosen,
            own_state=own_state,
        )

    def _is_last(self, place: int) -> bool:
        return self._is_pending and place == len(self._steps) - 1

    def _place_of(self, step: int) -> int:
        if not isinstance(step, int | np.integer) or not self._first <= step < self.timestep:
            kept = f"{self._first} to {self.timestep - 1}"
            raise ValueError(f"step is {step!r}: expected one of those that are kept, {kept}; see keep_steps.")
        return step - self._first


def step_together(controllers: Sequence[Controller], observations: Sequence[Any]) -> list[Any]:
    """`step` of several controllers of one agent: the same actions, in one batch where the agent's family can.

    Args:
        controllers: All different.
        observations: One for each.

    Returns:
        The action of each, or the error (`ValueError`, `RuntimeError`) that its `step` would have raised.
    """
    results: dict[int, Any] = {}
    seen: dict[int, np.ndarray] = {}
    for place, (controller, observation) in enumerate(zip(controllers, observations, strict=True)):
        try:
            seen[place] = controller._take_in(observation)
        except (ValueError, RuntimeError) as error:
            results[place] = error
    if seen:
        acting = [controllers[place]._actor for place in seen]
        try:
            chosen: Sequence[Any] = Actor.act_together(acting, list(seen.values()))
        except (ValueError, RuntimeError):  # of one of them: the others are not to suffer
            chosen = [controllers[place]._act_on(one) for place, one in seen.items()]
        for (place, one), action in zip(seen.items(), chosen):
            failed = isinstance(action, Exception)
            results[place] = action if failed else controllers[place]._took(one, action)
    return [results[place] for place in range(len(controllers))]


def _finite(number: Any, what: str, otherwise: str = "nothing where it is not known") -> float:
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{what} is {number!r}: expected a finite number, or {otherwise}.")
    return value
