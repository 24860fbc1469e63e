"""The sessions of a service: one controller for each stream, a bounded number of them, kept on disk if wanted."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hf_seqrl.deploy.controller import Controller, step_together
from hf_seqrl.evaluation.policies import Policy

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # safe as the name of a file, also where case does not count
_SUFFIX = ".safetensors"


class UnknownSessionError(LookupError):
    """There is no such session, or it has expired."""


class SessionConflictError(RuntimeError):
    """The session exists already, or is at another step."""


class FullError(RuntimeError):
    """So many sessions are open that there is no room for another one."""


class Sessions:
    """Controllers by the names of their streams. Every call is of one session; calls must come from one thread at a time.

    Args:
        agent: As [`~hf_seqrl.deploy.controller.Controller`] takes it; all sessions share its weights.
        most: The greatest number of sessions.
        seconds_to_live: A session that is not used for so long expires.
        folder (*optional*): Where the state of each session is written after every call, so that another process, also after a
            kill, goes on where this one was.
        clock: Seconds; `time.time`, so that the age of files is known.

    Attributes:
        expired: The number of sessions that have expired.
    """

    def __init__(
        self,
        agent: Policy,
        most: int = 1000,
        seconds_to_live: float = 3600.0,
        folder: str | Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if most < 1 or not seconds_to_live > 0:
            raise ValueError(f"most is {most} and seconds_to_live {seconds_to_live}: expected numbers > 0.")
        self._agent, self._most, self._seconds_to_live, self._clock = agent, most, seconds_to_live, clock
        self._folder = None if folder is None else Path(folder)
        self._controllers: dict[str, Controller | None] = {}  # None: on disk only
        self._used: dict[str, float] = {}
        self.expired = 0
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
                if _NAME.fullmatch(file.stem):
                    self._controllers[file.stem], self._used[file.stem] = None, file.stat().st_mtime

    def __len__(self) -> int:
        return len(self._controllers)

    def begin(
        self,
        session: str | None = None,
        target_return: float | str | None = None,
        history: Any = None,
        reward: str = "reward",
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Open a session and begin its episode; a name is drawn where none is given.

        Raises:
            SessionConflictError: there is a session of this name.
            FullError: there is no room.
            ValueError: as for `Controller.begin`, or a name that is none.
        """
        name = uuid4().hex if session is None else session
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"session is {name!r}: expected up to 64 of the characters a-z, 0-9, _ and -, the first no sign."
            )
        self.drop_expired()
        if name in self._controllers:
            raise SessionConflictError(f"there is a session {name!r} already: end it first, or choose another name.")
        if len(self) >= self._most:
            raise FullError(f"{len(self)} sessions are open, the most that there may be: end one, or try again later.")
        controller = Controller(self._agent)
        controller.begin(target_return, history, reward=reward, seed=seed)
        self._controllers[name] = controller
        self._keep(name)
        return self.status(name)

    def step(
        self,
        session: str,
        observation: Any = None,
        reward: float | None = None,
        action: Any = None,
        timestep: int | None = None,
    ) -> dict[str, Any]:
        """The next action of a session.

        Args:
            session: Its name.
            observation: As for `Controller.step`.
            reward, action (*optional*): Of the step before, as for `Controller.observe`.
            timestep (*optional*): The number of this step, from 0. Asking again for the last one gives the same answer, so that a
                request whose answer was lost can be repeated.

        Raises:
            UnknownSessionError: there is no such session.
            SessionConflictError: the session is at another step.
            ValueError, RuntimeError: as for `Controller.step`.
        """
        (answer,) = self.step_together(
            [
                {
                    "session": session,
                    "observation": observation,
                    "reward": reward,
                    "action": action,
                    "timestep": timestep,
                }
            ]
        )
        if isinstance(answer, Exception):
            raise answer
        return answer

    def step_together(self, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Exception]:
        """`step` of several sessions: the same actions, in one batch where the agent's family can.

        Args:
            calls: The arguments of `step`, each of another session.

        Returns:
            The answer to each, or the error that it raises.
        """
        answers: dict[int, dict[str, Any] | Exception] = {}
        due: dict[int, tuple[Controller, dict[str, int]]] = {}
        for place, call in enumerate(calls):
            try:
                controller = self._controller(call["session"])
                if self._is_repeated(controller, call.get("timestep")):
                    answers[place] = self._acted(call["session"])
                    continue
                before = controller.interventions
                if call.get("reward") is not None or call.get("action") is not None:
                    controller.observe(call.get("reward"), call.get("action"))
                due[place] = controller, before
            except Exception as error:  # of this session alone
                answers[place] = error
        observations = [calls[place].get("observation") for place in due]
        for place, result in zip(due, step_together([one for one, _ in due.values()], observations)):
            session, (controller, before) = calls[place]["session"], due[place]
            try:
                if isinstance(result, Exception):
                    raise result
                self._keep(session)
                changed = [rule for rule, count in controller.interventions.items() if count > before[rule]]
                answers[place] = self._acted(session) | {"interventions": changed}
            except Exception as error:
                answers[place] = error
        return [answers[place] for place in range(len(calls))]

    def _is_repeated(self, controller: Controller, timestep: int | None) -> bool:
        """Whether a client asks again for the last action."""
        if timestep is None or timestep == controller.timestep:
            return False
        if timestep != controller.timestep - 1 or controller.last_action is None:
            raise SessionConflictError(f"timestep is {timestep}: the session is at {controller.timestep}.")
        return True

    def _acted(self, session: str) -> dict[str, Any]:
        return self.status(session) | {"action": plain(self._controller(session).last_action)}

    def watch(self, session: str, observation: Any = None) -> dict[str, Any]:
        """An observation for which somebody else chooses; see `Controller.watch`."""
        controller = self._controller(session)
        controller.watch(observation)
        return self._kept(session)

    def observe(
        self, session: str, reward: float | None = None, action: Any = None, timestep: int | None = None
    ) -> dict[str, Any]:
        """What became of a step, the last one by default; see `Controller.observe`."""
        self._controller(session).observe(reward, action, step=timestep)
        return self._kept(session)

    def status(self, session: str) -> dict[str, Any]:
        """Where a session stands: its name, the number of its next step, and its return-to-go if there is one."""
        controller = self._controller(session)
        status = {"session": session, "timestep": controller.timestep, "unknown_rewards": controller.unknown_rewards}
        return status if controller.return_to_go is None else status | {"return_to_go": controller.return_to_go}

    def end(self, session: str) -> None:
        """Forget a session.

        Raises:
            UnknownSessionError: there is none of this name.
        """
        self._find(session)
        self._drop(session)

    def drop_expired(self) -> None:
        """Forget the sessions that were not used for too long."""
        for name in [name for name in self._controllers if self._is_expired(name)]:
            self._drop(name)
            self.expired += 1

    def _find(self, session: str) -> None:
        if session not in self._controllers or self._is_expired(session):
            raise UnknownSessionError(f"there is no session {session!r}: it was not begun, or has ended or expired.")

    def _controller(self, session: str) -> Controller:
        self._find(session)
        controller = self._controllers[session]
        if controller is None:
            controller = Controller(self._agent)
            controller.load(self._file(session))
            self._controllers[session] = controller
        self._used[session] = self._clock()
        return controller

    def _kept(self, session: str) -> dict[str, Any]:
        self._keep(session)
        return self.status(session)

    def _keep(self, session: str) -> None:
        self._used[session] = self._clock()
        controller = self._controllers[session]
        if self._folder is not None and controller is not None:
            controller.save(self._file(session))

    def _drop(self, session: str) -> None:
        del self._controllers[session], self._used[session]
        if self._folder is not None:
            self._file(session).unlink(missing_ok=True)

    def _is_expired(self, session: str) -> bool:
        return self._clock() - self._used[session] > self._seconds_to_live

    def _file(self, session: str) -> Path:
        assert self._folder is not None
        return self._folder / (session + _SUFFIX)


def plain(values: Any) -> Any:
    """Actions as values that JSON can hold.

    Example:
        >>> plain({"valve": np.float32(0.5), "pump": "on", "rates": np.array([1, 2])})
        {'valve': 0.5, 'pump': 'on', 'rates': [1, 2]}
    """
    if isinstance(values, Mapping):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return [plain(value) for value in values]
    return values.tolist() if isinstance(values, np.ndarray | np.generic) else values
