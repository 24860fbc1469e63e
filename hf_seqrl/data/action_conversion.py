"""Actions in the schema: words, booleans, one-hot rows and codes in floats become choices; bounds are kept to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from hf_seqrl.data.column_values import all_steps
from hf_seqrl.data.conversion import Conversion, same_but_for_ones, whole_codes
from hf_seqrl.data.spaces import continuous_bounds, continuous_entries, step_shape
from hf_seqrl.data.task import Task

_MOST_WORDS = 1000


def convert_actions(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> None:
    is_odd = _is_odd(first) or conversion.out_of_bounds != "refuse"
    space = conversion.space("action_space", is_odd)
    values = _worded(dataset, first, conversion)
    if space is None:
        if conversion.out_of_bounds != "refuse":
            raise ValueError(
                f"out_of_bounds={conversion.out_of_bounds!r} needs the bounds of the actions: give action_space=Box(low, high)."
            )
        if _is_odd(first):
            _guess_actions(all_steps(dataset, "actions") if values is None else values, conversion)
        return
    shape = first.shape[1:]
    is_codes = not isinstance(space, Box | Tuple | Dict)
    if values is None and (_is_odd(first) or shape != step_shape(space) or (is_codes and first.dtype.kind == "f")):
        values = all_steps(dataset, "actions")
    if isinstance(space, Box) and space.dtype.kind == "f" and first.dtype.kind in "iu" and values is None:
        values = all_steps(dataset, "actions")
    if values is not None:
        values = _of_space(values, space)
    if values is not None and first.dtype.kind == "O" and isinstance(space, Discrete):
        values = _started(values, space, conversion.task)
    if conversion.out_of_bounds != "refuse":
        values = _within_bounds(all_steps(dataset, "actions") if values is None else values, space, conversion)
    if values is not None:
        conversion.values["actions"] = values


def _started(codes: np.ndarray, space: Discrete, task: Task) -> np.ndarray:
    """The codes of words, from the first choice of a stated space on.

    Raises:
        ValueError: there are more words than choices.
    """
    words = (task.categories or {}).get((task.action_names or ("action",))[0], [])
    if len(words) > space.n:
        raise ValueError(
            f"column 'actions' holds the {len(words)} words {', '.join(map(repr, words[:8]))}: expected at most {space.n} for "
            f"{space}; give action_space=Discrete({len(words)}), or none."
        )
    return codes + int(space.start)


def _is_odd(first: np.ndarray) -> bool:
    """Whether actions may be something else than they look like."""
    if first.dtype.kind in "Ob" or (first.dtype.kind == "f" and first.ndim == 1):
        return True
    if first.ndim != 2:
        return first.ndim > 2 and first[0].size == 1
    return is_one_hot(first) if first.shape[1] > 1 else bool((first == np.rint(first)).all())


def is_one_hot(values: np.ndarray) -> bool:
    """Whether each row `(steps, choices)` has a 1 and otherwise zeros."""
    return values.shape[1] > 1 and bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def _worded(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> np.ndarray | None:
    """Words and booleans as codes; the words are kept in the task."""
    if first.dtype.kind not in "Ob":
        return None
    values = all_steps(dataset, "actions")
    if first.dtype == bool and values.ndim == 2 and is_one_hot(values):
        return values.astype(np.int64)
    width = int(np.prod(values.shape[1:]))
    names = conversion.task.action_names or (
        ("action",) if width == 1 else tuple(f"action[{number}]" for number in range(width))
    )
    codes, categories = encode_words(values.reshape(len(values), -1), list(names), conversion.task.categories or {})
    conversion.task = conversion.task.updated(
        action_names=names, categories={**(conversion.task.categories or {}), **categories}
    )
    return codes.reshape(values.shape)


def encode_words(
    values: np.ndarray, names: list[str], stated: Mapping[str, list[Any]]
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Words or booleans `(steps, columns)` as codes of the same shape, and the words of each column in the order of their
    codes: those that are `stated`, else sorted, so that they do not depend on the order of the rows.

    Raises:
        ValueError: a column has so many different words that it is no category, or one that is not among the stated ones.
    """
    codes, categories = np.zeros(values.shape, np.int64), {}
    for number, column in enumerate(values.T):
        name = names[number] if number < len(names) else f"action[{number}]"
        if name in stated and column.dtype == object:
            categories[name], codes[:, number] = list(stated[name]), stated_codes(column, name, stated[name])
            continue
        words, codes[:, number] = np.unique(
            column.astype(str) if column.dtype == object else column, return_inverse=True
        )
        if len(words) > _MOST_WORDS:
            raise ValueError(
                f"column {name!r} has {len(words):,} different words: expected a category of at most {_MOST_WORDS:,}; is it an id?"
            )
        categories[name] = [False, True] if column.dtype == bool else words.tolist()
        if column.dtype == bool:
            codes[:, number] = column
    return codes, categories


def stated_codes(column: np.ndarray, name: str, words: list[Any]) -> np.ndarray:
    """The places of words `(steps,)` in a stated list of them.

    Raises:
        ValueError: a word is not in the list.
    """
    used, codes = np.unique(column.astype(str), return_inverse=True)
    places = {str(word): place for place, word in enumerate(words)}
    unknown = [word for word in used.tolist() if word not in places]
    if unknown:
        raise ValueError(
            f"column {name!r} holds {', '.join(map(repr, unknown[:5]))}: expected the stated categories "
            f"{', '.join(map(repr, words[:10]))}."
        )
    return np.array([places[word] for word in used.tolist()])[codes]


def _guess_actions(values: np.ndarray, conversion: Conversion) -> None:
    if values.ndim > 2:
        values = values.reshape(len(values), -1)
    kind, width = values.dtype.kind, values.shape[1] if values.ndim > 1 else 0
    categories = conversion.task.categories or {}
    words = [categories[name] for name in conversion.task.action_names or () if name in categories]
    if words and kind == "i" and width < 2:
        because = f"the words {', '.join(map(str, words[0][:8]))}"
        _discrete(values.reshape(-1), len(words[0]), because, conversion)
    elif words and kind == "i" and width == len(words):
        space = MultiDiscrete([len(column) for column in words])
        conversion.values["actions"] = values
        conversion.guesses["action_space"] = f"{space}: the columns hold words"
        conversion.task = conversion.task.updated(action_space=space)
    elif width > 1:
        if is_one_hot(values):
            _discrete(values.argmax(axis=1), width, "every row has a 1 and otherwise zeros (one-hot)", conversion)
    elif kind in "iu" and width == 1:
        codes = values[:, 0]
        if codes.min() >= 0:
            _discrete(
                codes,
                int(codes.max()) + 1,
                "integers in a column of width 1, from the largest",
                conversion,
                state=False,
            )
    elif kind == "f" and _are_codes(values):
        codes = values.reshape(-1)
        _discrete(codes, int(codes.max()) + 1, "floats that are all whole numbers from 0 on", conversion)
    elif kind == "f" and not width:
        conversion.values["actions"] = values[:, None]
        conversion.guesses["actions"] = "vectors of size 1: there is one float a step"


def _discrete(codes: np.ndarray, count: int, because: str, conversion: Conversion, state: bool = True) -> None:
    conversion.values["actions"] = codes.astype(np.int64)
    conversion.guesses["action_space"] = f"Discrete({count}): {because}"
    if state:
        conversion.task = conversion.task.updated(action_space=Discrete(count))


def _are_codes(values: np.ndarray) -> bool:
    """Whether floats are the whole numbers 0, 1, ... without a gap, at least two of them."""
    if not np.isfinite(values).all() or not (values == np.rint(values)).all():
        return False
    used = np.unique(values)
    return len(used) > 1 and used[0] == 0 and used[-1] == len(used) - 1


def _of_space(values: np.ndarray, space: Space) -> np.ndarray:
    """Actions in the shape and kind of a known space."""
    shape = step_shape(space)
    if isinstance(space, Discrete) and values.ndim == 2 and values.shape[1] == space.n > 1 and is_one_hot(values):
        return values.argmax(axis=1) + int(space.start)
    if values.shape[1:] != shape and same_but_for_ones(values.shape[1:], shape):
        values = values.reshape(len(values), *shape)
    if values.shape[1:] != shape:
        return values  # validation names the shapes
    if isinstance(space, Box):
        return values if space.dtype.kind != "f" or values.dtype.kind == "f" else values.astype(np.float32)
    return values if isinstance(space, Tuple | Dict) else whole_codes(values, space, "actions")


def _within_bounds(values: np.ndarray, space: Space, conversion: Conversion) -> np.ndarray:
    """Actions moved (`"clip"`) or mapped (`"rescale"`) to the bounds of their space."""
    (low, high), entries = continuous_bounds(space), continuous_entries(space)
    shape = values.shape
    flat = values.reshape(len(values), -1).copy()
    numbers = flat[:, entries].astype(np.float64)
    outside = int(((numbers < low) | (numbers > high)).any(axis=1).sum())
    if not outside or not len(entries):
        return values
    if conversion.out_of_bounds == "clip":
        moved, what = np.clip(numbers, low, high), f"{outside} steps were clipped to the bounds of {space}"
    else:
        lowest, highest = numbers.min(axis=0), numbers.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"out_of_bounds='rescale' needs finite bounds: the action space is {space}.")
        share = (numbers - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
        moved = low + share * (high - low)
        what = f"rescaled from {lowest.tolist()} ... {highest.tolist()} to the bounds of {space}"
    flat[:, entries] = moved
    conversion.guesses["actions"] = f"{what}, as out_of_bounds={conversion.out_of_bounds!r} says"
    return flat.reshape(shape)
