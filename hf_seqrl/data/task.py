"""The task of a data set: its environment, its spaces, its time limit, and what the user calls things."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.composite_spaces import flat_values
from hf_seqrl.data.spaces import choice_bounds, group_sizes, space_from_dict, space_to_dict, step_shape

if TYPE_CHECKING:
    from typing_extensions import Self

_LONGEST = 2**31 - 1  # steps of an episode


@dataclass(frozen=True)
class Task:
    """What an agent does: held by the metadata of a data set and by every processor.

    Attributes:
        env_id: The gymnasium id of the environment, for instance `Hopper-v5`.
        observation_space, action_space: In the form of `hf_seqrl.data.spaces.space_to_dict`; spaces are converted.
        reference_returns: Raw returns (random, expert) that stand for the normalized scores 0 and 100.
        max_episode_steps: The time limit, in steps.
        observation_names, action_names: One name for each entry of a flat observation or action, in order.
        units: The unit of each entry that has one, by its name.
        categories: The words of a categorical column, by its name; the position of a word is its code. A column of actions is
            found by `action_names`.
        source_observation_space: The space of the environment's own observations, where they are not vectors or images but
            numbers of states, tuples or dictionaries; `observation_space` is what they are flattened to.
        has_rewards: `False` for demonstrations that were recorded without rewards; their rewards are zeros.
        return_range: The lowest and the highest return of the data, raw.
        high_return: The 0.95 quantile of the returns of the data, raw.

    Raises:
        ValueError: `reference_returns` are not increasing, `max_episode_steps` is not positive, or a field is of another kind.
    """

    env_id: str | None = None
    observation_space: dict[str, Any] | None = None
    action_space: dict[str, Any] | None = None
    reference_returns: tuple[float, float] | None = None
    max_episode_steps: int | None = None
    observation_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    units: dict[str, str] | None = None
    categories: dict[str, list[Any]] | None = None
    source_observation_space: dict[str, Any] | None = None
    has_rewards: bool | None = None
    return_range: tuple[float, float] | None = None
    high_return: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (("env_id", str), ("units", Mapping), ("categories", Mapping)):
            if not isinstance(getattr(self, name), kind | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected a {kind.__name__}.")
        for name in ("observation_space", "action_space", "source_observation_space"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, space_to_dict(getattr(self, name)))
        if self.return_range is not None:
            object.__setattr__(self, "return_range", _checked_range(self.return_range))
        if self.high_return is not None:
            object.__setattr__(self, "high_return", _checked_return(self.high_return, "high_return"))
        for name in ("observation_names", "action_names"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.reference_returns is not None:
            object.__setattr__(self, "reference_returns", _checked_reference(self.reference_returns))
        if self.max_episode_steps is not None:
            object.__setattr__(self, "max_episode_steps", _checked_limit(self.max_episode_steps))

    def updated(self, **changes: Any) -> "Self":
        """A copy with these fields replaced; `None` leaves a field as it is.

        Example:
            >>> Task(env_id="Hopper-v4").updated(env_id="Hopper-v5", max_episode_steps=None).env_id
            'Hopper-v5'
        """
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @cached_property
    def observations(self) -> Space:
        """The observation space as a gymnasium space.

        Raises:
            ValueError: it is not known.
        """
        return self._space("observation_space")

    @cached_property
    def actions(self) -> Space:
        """The action space as a gymnasium space.

        Raises:
            ValueError: it is not known.
        """
        return self._space("action_space")

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """The shape of one action as the data set holds it: `step_shape` of the action space."""
        return step_shape(self.actions)

    @cached_property
    def action_groups(self) -> tuple[int, ...]:
        """The number of choices of each discrete component of an action; empty for `Box`."""
        return tuple(group_sizes(self.actions))

    @cached_property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the greatest code of each entry of an action, `action_shape` each; infinite for continuous entries."""
        low, high = choice_bounds(self.actions)
        return low.reshape(self.action_shape), high.reshape(self.action_shape)

    def flat_observations(self, observations: Any) -> np.ndarray:
        """Observations of several environments or steps as vectors or images `(n, *observation_space.shape)`.

        Args:
            observations: `(n, ...)`; for environments with tuples or dictionaries, a tuple or dictionary of such arrays.
        """
        if self.source_observation_space is None:
            return np.asarray(observations)
        is_flat = not isinstance(observations, Mapping | tuple)
        if is_flat and np.shape(observations)[1:] == self.observations.shape:
            return np.asarray(observations)
        return flat_values(self.source_observation_space, observations)

    def words(self, actions: np.ndarray) -> list[Any]:
        """Actions in the user's own words: `(n, *step_shape)` codes become what stood in the table or data set.

        Args:
            actions: As the data set holds them; a Tuple or Dict as its flat entries.

        Returns:
            For each action its word, number or, if it has several entries, a list of them.

        Example:
            >>> task = Task(action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
            >>> task.words(np.array([2, 0]))
            ['sell', 'buy']
        """
        columns = self._action_categories()
        if not columns:
            return np.asarray(actions).tolist()
        rows = np.asarray(actions).reshape(len(actions), -1)
        said = [[_word(columns.get(entry), value.item()) for entry, value in enumerate(row)] for row in rows]
        return [row[0] for row in said] if np.ndim(actions) == 1 else said

    def codes(self, words: Sequence[Any]) -> np.ndarray:
        """The reverse of `words`: actions as the data set holds them, `(n, *step_shape)`.

        Raises:
            ValueError: a word is none of the action's.

        Example:
            >>> task = Task(action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
            >>> task.codes(["sell", "buy"])
            array([2, 0])
        """
        columns = self._action_categories()
        if not columns:
            return np.asarray(words)
        is_list = isinstance(words[0], list | tuple | np.ndarray)
        rows = [
            [_code(columns.get(entry), value) for entry, value in enumerate(row if is_list else [row])]
            for row in words
        ]
        return np.array(rows) if is_list else np.array(rows)[:, 0]

    def named_actions(self, actions: np.ndarray) -> list[Any]:
        """Actions `(n, *step_shape)` as their names and words, a dictionary each where there are several names.

        Example:
            >>> task = Task(action_names=("valve", "mode"), categories={"mode": ["auto", "hand"]})
            >>> task.named_actions(np.array([[0.5, 1.0]]))
            [{'valve': 0.5, 'mode': 'hand'}]
        """
        said, names = self.words(actions), self.action_names
        return said if names is None or len(names) < 2 else [dict(zip(names, row, strict=True)) for row in said]

    def _action_categories(self) -> dict[int, tuple[int, list[Any]]]:
        """The first code and the words of each entry of an action that has words."""
        names, categories = self.action_names or (), self.categories or {}
        low = np.zeros(len(names)) if self.action_space is None else self.action_bounds[0].ravel()
        return {
            entry: (int(low[entry]), categories[name])
            for entry, name in enumerate(names)
            if name in categories and np.isfinite(low[entry])
        }

    def observation_vector(self, entries: Mapping[str, Any]) -> np.ndarray:
        """One observation from its entries by name, in the order of the data; words and numbers of states become their one-hot
        entries.

        Raises:
            ValueError: an entry is missing, or a word was not in the data.

        Example:
            >>> task = Task(observation_names=("level", "mode=auto", "mode=hand"), categories={"mode": ["auto", "hand"]})
            >>> task.observation_vector({"mode": "hand", "level": 0.5})
            array([0.5, 0. , 1. ])
        """
        if self.observation_names is None:
            raise ValueError("the observations have no names: give them as an array, in the order of the data.")
        values: dict[str, float] = {}
        for name, value in entries.items():
            choices = [one for one in self.observation_names if one.startswith(f"{name}=")]
            if not choices:
                values[name] = value
                continue
            chosen = f"{name}={int(value) if isinstance(value, float) and value.is_integer() else value}"
            if chosen not in choices:
                words = ", ".join(repr(one.removeprefix(f"{name}=")) for one in choices)
                raise ValueError(f"{name} is {value!r}: expected one of {words}.")
            values |= {one: float(one == chosen) for one in choices}
        missing = [name for name in self.observation_names if name not in values]
        if missing:
            raise ValueError(
                f"the observation has no {', '.join(missing)}: expected {', '.join(self.observation_names)}."
            )
        return np.array([values[name] for name in self.observation_names], dtype=np.float64)

    def entries_in_words(self, column: str, most: int = 12) -> str | None:
        """The names of the entries of `"observations"` or `"actions"` with their units and words; `None` without names.

        Example:
            >>> task = Task(action_names=("valve", "order"), units={"valve": "%"}, categories={"order": ["buy", "sell"]})
            >>> task.entries_in_words("actions")
            'valve (%), order (buy, sell)'
        """
        names = self.observation_names if column == "observations" else self.action_names
        if names is None:
            return None
        words = {name: ", ".join(map(str, words[:most])) for name, words in (self.categories or {}).items()}
        about = {**words, **(self.units or {})}
        said = [f"{name} ({about[name]})" if name in about else name for name in names[:most]]
        return ", ".join([*said, f"and {len(names) - most} more"] if len(names) > most else said)

    def check_words(self, other: "Task") -> None:
        """Raise where the words of another task have other codes: its actions or observations mean something else.

        Args:
            other: For instance the metadata of a data set that an agent is to be judged by.

        Raises:
            ValueError: names the column and both lists of words.
        """
        for name, words in (other.categories or {}).items():
            own = (self.categories or {}).get(name)
            if own is not None and list(own) != list(words):
                raise ValueError(
                    f"column {name!r} of the data holds the words {', '.join(map(repr, words[:8]))}, the agent knows "
                    f"{', '.join(map(repr, own[:8]))}, so that their codes differ: load the data with the agent's words, "
                    "load_trajectories(..., categories=agent.processor.task.categories)."
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields that are known, as values that JSON can hold."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """The reverse of `to_dict`; fields of a later version that this one does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def _space(self, name: str) -> Space:
        description = getattr(self, name)
        if description is None:
            raise ValueError(f"the {name} is not known: give {name}=... to load_trajectories or to the processor.")
        return space_from_dict(description)


def _checked_reference(returns: Any) -> tuple[float, float]:
    random_return, expert_return = (float(value) for value in returns)
    if not random_return < expert_return:
        raise ValueError(f"reference_returns {tuple(returns)}: expected (random, expert) with random < expert.")
    return random_return, expert_return


def _checked_range(returns: Any) -> tuple[float, float]:
    low_and_high = tuple(returns) if isinstance(returns, Iterable) else ()
    if len(low_and_high) != 2:
        raise ValueError(f"return_range is {returns!r}: expected the lowest and the highest return.")
    low, high = (_checked_return(value, "return_range") for value in low_and_high)
    return low, high


def _checked_return(value: Any, name: str) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"{name} is {value!r}: expected a finite return.")
    return float(value)


def _checked_limit(limit: Any) -> int:
    is_number = isinstance(limit, int | float | np.integer | np.floating) and not isinstance(limit, bool)
    if not is_number or not 1 <= limit <= _LONGEST or int(limit) != limit:
        raise ValueError(f"max_episode_steps is {limit!r}: expected a number of steps, at least 1.")
    return int(limit)


def _word(column: tuple[int, list[Any]] | None, value: float) -> Any:
    """The word of a code; a code without a word (a choice that the data do not hold) stays."""
    if column is None:
        return value
    first, words = column
    return words[int(value) - first] if 0 <= int(value) - first < len(words) else int(value)


def _code(column: tuple[int, list[Any]] | None, word: Any) -> Any:
    if column is None:
        return word
    first, words = column
    if word not in words:
        raise ValueError(f"the action is {word!r}: expected one of {', '.join(map(repr, words))}.")
    return first + words.index(word)
