"""An HTTP service of an agent: one session for each stream. Needs the extra `serve`.

One thread serves all sessions: a call touches the history of its own session alone, and calls of one session take place in the
order in which they came. Steps of many sessions that were asked for while the thread was busy are computed in one batch, where the agent's family
can. A second thread would gain nothing: it would contend for the interpreter's lock at every operation of the model.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hf_seqrl import __version__
from hf_seqrl.data.task import Task
from hf_seqrl.deploy.sessions import FullError, SessionConflictError, Sessions, UnknownSessionError
from hf_seqrl.evaluation.policies import Policy, as_actor

logger = logging.getLogger(__name__)

_FIELDS = {
    "begin": ("session", "target_return", "history", "reward", "seed"),
    "step": ("observation", "reward", "action", "timestep"),
    "watch": ("observation",),
    "observe": ("reward", "action", "timestep"),
}
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STATUS_OF_ERROR = (  # the first that fits
    (UnknownSessionError, 404),
    (SessionConflictError, 409),
    (FullError, 503),
    (RuntimeError, 409),  # calls out of order
    (ValueError, 422),
)


class RefusedError(Exception):
    """A request that is not even read, with its HTTP status."""

    def __init__(self, status: int, because: str) -> None:
        super().__init__(because)
        self.status = status


def make_service(
    agent: Policy,
    *,
    max_sessions: int = 1000,
    session_seconds: float = 3600.0,
    state_folder: str | None = None,
    max_body_bytes: int = 1 << 20,
    allowed_hosts: tuple[str, ...] = ("*",),
) -> Starlette:
    """The ASGI application of an agent.

    Its routes are described in the page on deployment. What is refused is answered with a status of 4xx and the reason,
    `{"error": "..."}`, and changes nothing.

    Args:
        agent: An `Agent` or another `Actor`, for instance [`~hf_seqrl.deploy.constraints.Constrained`].
        max_sessions (`int`, *optional*, defaults to `1000`): The greatest number of sessions at a time.
        session_seconds (`float`, *optional*, defaults to `3600`): A session that is not used for so long expires.
        state_folder (`str`, *optional*): Where the sessions are kept, so that a restart loses nothing.
        max_body_bytes (`int`, *optional*, defaults to 1 MiB): Requests with a larger body are refused.
        allowed_hosts (*optional*): Names in the Host header that are answered.
    """
    service = _Service(agent, Sessions(agent, max_sessions, session_seconds, state_folder), max_body_bytes)
    return Starlette(
        routes=[
            Route("/", service.describe),
            Route("/health", service.health),
            Route("/metrics", service.metrics),
            Route("/sessions", service.answering("begin", 201), methods=["POST"]),
            Route("/sessions/{session}", service.answering("status"), methods=["GET"]),
            Route("/sessions/{session}", service.answering("end", 204), methods=["DELETE"]),
            *(
                Route(f"/sessions/{{session}}/{call}", service.answering(call), methods=["POST"])
                for call in ("step", "watch", "observe")
            ),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))],
    )


class _Service:
    def __init__(self, agent: Policy, sessions: Sessions, max_body_bytes: int) -> None:
        self._actor, self._sessions, self._max_body_bytes = as_actor(agent), sessions, max_body_bytes
        self._steps = _Steps(sessions)
        self._registry = CollectorRegistry()
        metric = partial(Counter, registry=self._registry)
        self._requests = metric("hf_seqrl_requests", "Requests, by call and HTTP status", ["call", "status"])
        self._interventions = metric("hf_seqrl_interventions", "Actions that a constraint changed", ["rule"])
        self._seconds = Histogram(
            "hf_seqrl_step_seconds",
            "From the body of a request for an action to its answer",
            buckets=_STEP_SECONDS,
            registry=self._registry,
        )
        gauge = Gauge("hf_seqrl_sessions", "Open sessions", registry=self._registry)
        gauge.set_function(lambda: len(sessions))
        expired = Gauge("hf_seqrl_sessions_expired", "Sessions that have expired", registry=self._registry)
        expired.set_function(lambda: sessions.expired)

    async def describe(self, request: Request) -> Response:
        return JSONResponse(
            {"version": __version__, "conditioned": self._actor.is_conditioned}
            | {"target_returns": self._actor.target_returns, "constraints": list(self._actor.interventions)}
            | described(self._actor.task)
        )

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "sessions": len(self._sessions)})

    async def metrics(self, request: Request) -> Response:
        self._sessions.drop_expired()
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def answering(self, call: str, success: int = 200) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of one call of `Sessions`."""

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            answer: dict[str, Any] | None
            try:
                arguments = await self._arguments(request, call) if call in _FIELDS else {}
                arguments |= request.path_params
                if call == "step":
                    answer = await self._steps.answer(arguments)
                else:
                    self._steps.finish(arguments.get("session"))
                    answer = getattr(self._sessions, call)(**arguments)
                status = success
            except ClientDisconnect:
                answer, status = None, 499  # nobody reads it
            except Exception as error:
                status = _status_of(error)
                answer = {"error": str(error) if status != 500 else "the service failed; its log says where"}
                if status == 500:
                    logger.exception("%s failed", call)
            if call == "step" and status == success and answer is not None:
                self._seconds.observe(time.perf_counter() - began)
                for rule in answer.get("interventions", ()):
                    self._interventions.labels(rule).inc()
            self._requests.labels(call, str(status)).inc()
            return Response(status_code=status) if answer is None else JSONResponse(answer, status)

        return endpoint

    async def _arguments(self, request: Request, call: str) -> dict[str, Any]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "expected a body of Content-Type application/json.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise RefusedError(413, f"the body has more than {self._max_body_bytes} bytes, the most that is read.")
        try:
            arguments = json.loads(bytes(body) or b"{}", parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"the body is not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise RefusedError(400, "the body is no JSON object: expected {...}.")
        unknown = sorted(set(arguments) - set(_FIELDS[call]))
        if unknown:
            raise ValueError(f"{call} does not know {unknown[0]!r}: expected {', '.join(_FIELDS[call])}.")
        return arguments


class _Steps:
    """Gathers the steps that were asked for while others were computed.

    Args:
        sessions: What answers them.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: list[tuple[dict[str, Any], asyncio.Future]] = []

    async def answer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer of `Sessions.step`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((arguments, future))
        if len(self._waiting) == 1:
            self._task = asyncio.ensure_future(self._gather())
        return await future

    def finish(self, session: str | None) -> None:
        """Take the step of a session first that came before another call."""
        if any(arguments["session"] == session for arguments, _ in self._waiting):
            self._compute()

    async def _gather(self) -> None:
        read = 0
        while len(self._waiting) > read:  # requests that arrived together are still being read
            read = len(self._waiting)
            await asyncio.sleep(0)
        self._compute()

    def _compute(self) -> None:
        waiting, self._waiting = self._waiting, []
        while waiting:
            first = {one[0]["session"]: one for one in reversed(waiting)}  # the first of each session
            waiting = [one for one in waiting if first[one[0]["session"]] is not one]
            answers: Sequence[dict[str, Any] | Exception]
            try:
                answers = self._sessions.step_together([arguments for arguments, _ in first.values()])
            except Exception as error:
                answers = [error] * len(first)
            for (_, future), answer in zip(first.values(), answers):
                if future.cancelled():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


def described(task: Task) -> dict[str, Any]:
    """What observations and actions are, as far as it is known: spaces, names, units and words."""
    known = task.to_dict()
    fields = (
        "env_id",
        "observation_space",
        "action_space",
        "observation_names",
        "action_names",
        "units",
        "categories",
    )
    return {name: known[name] for name in fields if name in known}


def _status_of(error: Exception) -> int:
    if isinstance(error, RefusedError):
        return error.status
    return next((status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind)), 500)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON; a missing value is null.")
