"""Runs an exported agent where neither torch nor transformers is: this file needs NumPy and onnxruntime alone.

    runner = Runner("folder")
    runner.begin(target_return=200)
    action = runner.step(observation)
    runner.observe(reward=1.0)          # when it is known; with action=... if something else was executed

As a script, `python runner.py [FOLDER] < observations.jsonl` answers each line of JSON with the action as a line of JSON;
`--help` tells what may stand in a line.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_STATE = ("timestep", "return_to_go", "reward", "last_action", "chosen", "executed", "last_observation")
_MESSAGE = {"observation", "begin", "target_return", "reward", "action"}


class Runner:
    """One stream of observations and actions, one step after the other.

    Args:
        folder: The exported folder.
        graph: The name of the graph in it; defaults to the one that `agent.json` names.
        threads: Of a step.

    Attributes:
        description: The contents of `agent.json`.
        timestep: The number of steps before the current one.
    """

    def __init__(self, folder: str | Path, graph: str | None = None, threads: int = 1) -> None:
        import onnxruntime

        self.description = json.loads(Path(folder, "agent.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        path = str(Path(folder, graph or self.description["graph"]))
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = {one.name: one.shape for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]
        self._observation, self._action = self.description["observation"], self.description["action"]
        self._begun = False

    def begin(self, target_return: float | str | None = None) -> None:
        """Begin an episode.

        Args:
            target_return: Raw; defaults to the first of the agent's target returns. `"auto"` asks for a high return of the data.

        Raises:
            ValueError: a target for an agent that takes none, none for one that needs it, or one that is no number.
        """
        if self.description["conditioned"]:
            first = (self.description["target_returns"] or [None])[0]
            meant: dict[Any, float | None] = {None: first, "auto": self.description.get("high_return")}
            asked: Any = meant.get(target_return, target_return)
            if asked is None or isinstance(asked, str) or not np.isfinite(asked):
                raise ValueError(f"target_return is {target_return!r}: expected the return to reach, a finite number.")
            target_return = asked
        elif target_return is not None:
            raise ValueError(f"target_return is {target_return}, but this agent takes none: leave it out.")
        self._reset(float(target_return or 0.0))

    def _reset(self, return_to_go: float) -> None:
        self.timestep, self._return_to_go, self._reward = 0, return_to_go, 0.0
        self._last_action, self._chosen, self._executed = np.zeros(len(self._action["lowest"])), None, None
        self._last_observation = np.zeros(self._observation["shape"])
        names = [name for name in self._inputs if name.startswith("memory_")]
        self._memory = {name: np.zeros(self._inputs[name], np.float32) for name in names}
        self._begun = True

    def step(self, observation: Any) -> Any:
        """The action for an observation: an int or an array, and in the words of the data where these had names: one value, or a
        dict of several by name.

        Args:
            observation: Raw, as the environment or the table gives it: an array, or a dict of entries by name.

        Raises:
            RuntimeError: `begin` was not called.
            ValueError: the observation is none of the agent's, or holds numbers that are not finite; nothing has changed.
        """
        return self._said(self.act(observation))

    def act(self, observation: Any) -> np.ndarray:
        """As `step`; the action as numbers `(entries,)` float64, with the codes of choices."""
        if not self._begun:
            raise RuntimeError("no episode has begun: call begin() first.")
        vector = self._read(observation)
        if self._chosen is not None:
            self._return_to_go, self._reward = self.return_to_go, 0.0
            self._last_action = self._chosen if self._executed is None else self._executed
            self.timestep, self._executed = self.timestep + 1, None
        at = np.array([self.timestep]), np.array([self._return_to_go])
        world = {
            "timestep": at[0],
            "return_to_go": at[1],
            "observation": vector,
            "last_action": self._last_action[None],
        }
        outputs = self._run(world | self._memory)
        self._memory = {name: outputs["next_" + name] for name in self._memory}
        chosen = outputs["action"][0]
        self._chosen, self._last_observation = chosen, vector[0]
        return chosen

    def observe(self, reward: float | None = None, action: Any = None) -> None:
        """Tell the result of the last step, at once, later or never.

        Args:
            reward: Raw. It counts as 0 as long as it is not told.
            action: The executed action, where it is not the one that `step` gave.

        Raises:
            RuntimeError: there was no step.
            ValueError: a reward that is not finite, or an action that the agent cannot have taken.
        """
        self.tell(reward, None if action is None else self._entries(action))

    def tell(self, reward: float | None = None, executed: np.ndarray | None = None) -> None:
        """As `observe`, with the executed action as `act` gives it."""
        if not self._begun or self._chosen is None:
            raise RuntimeError("observe was called before step: there is no action yet.")
        if reward is not None and not np.isfinite(reward):
            raise ValueError(f"the reward is {reward}: expected a finite number.")
        self._reward = self._reward if reward is None else float(reward)
        self._executed = self._executed if executed is None else executed

    @property
    def return_to_go(self) -> float:
        """What the next step will ask for, raw."""
        if self._chosen is None:
            return self._return_to_go
        return (self._return_to_go - self._reward) / self.description["discount"]

    def values(self, observation: Any, action: Any) -> dict[str, np.ndarray]:
        """What an exported critic expects after this action, in discounted raw returns."""
        outputs = self._run({"observation": self._read(observation), "action": self._entries(action)[None]})
        return {name: value[0] for name, value in outputs.items()}

    def save(self, path: str | Path) -> None:
        """Write the state of the episode into a file, which is there whole or not at all."""
        state = {name: getattr(self, "timestep" if name == "timestep" else "_" + name) for name in _STATE}
        known = {name: value for name, value in (state | self._memory).items() if value is not None}
        with open(f"{path}.partial", "wb") as file:
            np.savez(file, agent=self.description["digest"], **known)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.partial", path)

    def load(self, path: str | Path) -> None:
        """Go on where `save` was called, with the same actions as without the interruption.

        Raises:
            ValueError: the state is another agent's.
        """
        with np.load(path, allow_pickle=False) as state:
            if str(state["agent"]) != self.description["digest"]:
                raise ValueError(f"{path} is the state of another agent: begin a new episode.")
            self._reset(0.0)
            for name in _STATE:
                value = state.get(name)
                value = value if value is None or value.ndim else value.item()
                setattr(self, "timestep" if name == "timestep" else "_" + name, value)
            self._memory = {name: state[name] for name in self._memory}

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, {name: feed[name] for name in self._inputs})))

    def _read(self, observation: Any) -> np.ndarray:
        """The observation `(1, *shape)` float64."""
        shape, names, source = (self._observation[name] for name in ("shape", "names", "source"))
        if isinstance(observation, Mapping) and names and not (source and source["type"] == "Dict"):
            observation = self._by_name(observation, names)
        elif source and np.shape(observation) != tuple(shape):
            observation = _flat(source, observation)
        vector = np.array(observation, dtype=np.float64)
        if vector.shape != tuple(shape):
            raise ValueError(f"the observation has shape {vector.shape}: expected {tuple(shape)}.")
        wrong = ~np.isfinite(vector)
        if wrong.any() and self.description["missing_values"] == "error":
            entry = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"the observation is {vector[tuple(entry)]} at entry {entry}: expected a finite number.")
        if wrong.any():
            vector = np.where(wrong, self._last_observation, vector)
        return vector[None]

    def _by_name(self, entries: Mapping, names: list[str]) -> list[float]:
        values = dict(entries)
        for name, words in self._observation["categories"].items():
            if name in values and values[name] not in words:
                raise ValueError(f"{name} is {values[name]!r}: expected one of {', '.join(map(repr, words))}.")
            if name in values:
                values |= {f"{name}={word}": float(word == values[name]) for word in words}
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"the observation has no {', '.join(missing)}: expected {', '.join(names)}.")
        return [values[name] for name in names]

    def _entries(self, action: Any) -> np.ndarray:
        """An action as the graph takes it, `(entries,)` float64."""
        names, words = self._action["names"] or [], self._action["categories"]
        if isinstance(action, Mapping):
            action = [action[name] for name in names]
        said = np.array(action, dtype=object).ravel().tolist()
        low, high = (np.array(self._action[name], dtype=np.float64) for name in ("lowest", "highest"))  # None is NaN
        if len(said) != len(low):
            raise ValueError(f"the action is {action!r}: expected {len(low)} values.")
        for place, name in enumerate(names[: len(said)]):
            if name in words and said[place] not in words[name]:
                expected = ", ".join(map(repr, words[name]))
                raise ValueError(f"the action {name} is {said[place]!r}: expected one of {expected}.")
            said[place] = words[name].index(said[place]) if name in words else said[place]
        values = np.array(said, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"the action is {action!r}: expected finite numbers.")
        if (values < low).any() or (values > high).any():
            raise ValueError(f"the action is {action!r}: expected choices from {low.tolist()} to {high.tolist()}.")
        return values

    def _said(self, entries: np.ndarray) -> Any:
        names, words = self._action["names"], self._action["categories"]
        values = entries.astype(self._action["dtype"])
        if names is None or len(names) != len(values):
            values = values.reshape(self._action["shape"])
            return values if values.ndim else values.item()
        said = {name: words[name][int(one)] if name in words else one.item() for name, one in zip(names, values)}
        return said if len(said) > 1 else said[names[0]]


def _flat(space: Mapping, value: Any) -> np.ndarray:
    """A value of a composite or discrete space as a vector, as gymnasium flattens it."""
    if space["type"] == "Dict":
        return np.concatenate([_flat(part, value[name]) for name, part in space["spaces"]])
    if space["type"] == "Tuple":
        return np.concatenate([_flat(part, one) for part, one in zip(space["spaces"], value)])
    if space["type"] not in ("Discrete", "MultiDiscrete"):
        return np.ravel(value).astype(np.float64)
    sizes = np.ravel(space["n"] if space["type"] == "Discrete" else space["nvec"])
    codes = np.ravel(value) - np.ravel(space.get("start", 0))
    if codes.shape != sizes.shape or (codes < 0).any() or (codes >= sizes).any() or (codes % 1).any():
        raise ValueError(f"the observation is {value!r}: expected one of the choices of {dict(space)}.")
    return np.concatenate([np.arange(size) == code for size, code in zip(sizes, codes)]).astype(np.float64)


def run_lines(controller: Any, target_return: float | str | None = None, state: str | None = None) -> int:
    """Answer the lines of the standard input; see `LINES`. Returns the exit status, 1 if a line was refused.

    Args:
        controller: A [`Runner`], or anything with its methods.
        target_return: Of the first episode, as `begin` takes it.
        state: A file; the episode goes on from it where it exists, and it is kept up to date.
    """
    is_critic = isinstance(controller, Runner) and controller.description["kind"] == "values"
    refused = 0
    if state and os.path.exists(state):
        controller.load(state)
    elif not is_critic:
        controller.begin(target_return)
    for line in filter(str.strip, sys.stdin):
        try:
            message = json.loads(line)
            reply = _plain(controller.values(**message) if is_critic else _answer(controller, message))
            if state:
                controller.save(state)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            reply, refused = {"error": f"{type(error).__name__}: {error}"}, refused + 1
        print(json.dumps(reply), flush=True)
    return int(refused > 0)


def _answer(controller: Any, message: Any) -> Any:
    if not isinstance(message, dict) or not message or set(message) - _MESSAGE:
        message = {"observation": message}
    if message.get("begin") or "target_return" in message:
        controller.begin(message.get("target_return"))
    elif "reward" in message or "action" in message:
        controller.observe(reward=message.get("reward"), action=message.get("action"))
    return controller.step(message["observation"]) if "observation" in message else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


LINES = """Each line of the input is JSON: an observation (a list, a number, or an object of named entries), or an object with any of
  observation    the observation; the answer is the action, or null where there is none
  begin          true: a new episode begins with this line
  target_return  of the episode that begins (raw, or "auto")
  reward         of the step before (raw)
  action         that was executed at the step before, where it is not the answer
A line that is refused is answered by an object with "error"; the next one goes on from the state before its observation. A critic
is told observation and action."""


def target(text: str) -> float | str:
    """A target return as an option gives it."""
    return text if text == "auto" else float(text)


def main() -> int:
    """The script."""
    parser = argparse.ArgumentParser(epilog=LINES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=Path(__file__).parent, help="default: the folder of this file")
    parser.add_argument("--target_return", type=target, help="raw, or auto (default: the agent's first)")
    parser.add_argument("--state", help="go on from this file where it exists, and keep it up to date")
    options = parser.parse_args()
    return run_lines(Runner(options.folder), options.target_return, options.state)


if __name__ == "__main__":
    sys.exit(main())
