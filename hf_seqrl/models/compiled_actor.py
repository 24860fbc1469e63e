"""Acting by one computation that never changes its shapes: compiled, and on a GPU replayed as one CUDA graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from hf_seqrl.data.spaces import encode_actions, step_shape
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.step_graph import MEMORY, ActionCodec, StepGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_seqrl.models.processor import TrajectoryProcessor

BACKEND = "inductor"
_WARM_UP = 3  # calls before a CUDA graph is recorded: they compile, choose kernels, and allocate their workspaces


class CompiledActor(Actor):
    """Acts as another actor of the same agent does, by its family's step as one module of tensors (`ModelFamily.step_graph`).

    All episodes are computed in one batch of the size that `reset` was given, and episodes that `select` drops stay in it
    unread. So the step is compiled once for each number of environments, in the first `act` (some 10 to 60 seconds), and on
    a GPU it is recorded as a CUDA graph: one launch a step instead of one for every operation. Actions are those
    of the actor that it stands for up to rounding.

    Args:
        actor: The actor that it stands for; it is not used any more.
        model: The actor's model, in float32. It is read at every step, so that a model in training can be watched.
        processor: The actor's processor.
        step_graph: `ModelFamily.step_graph`, or `None`, which is refused.
        backend: Of `torch.compile`; `True` is `"inductor"`, which needs a C++ compiler on a CPU.

    Raises:
        ValueError: the family has no step of fixed shapes, the actor samples its actions, the weights are not in float32,
            or there is no such backend; at `reset`, the device has no float64.
        RuntimeError: at the first `act`, there is no C++ compiler.
    """

    _batch: "_Batch"  # since `reset`

    def __init__(
        self,
        actor: Actor,
        model: "PreTrainedModel",
        processor: "TrajectoryProcessor",
        step_graph: "Callable[[PreTrainedModel, TrajectoryProcessor], StepGraph] | None",
        backend: bool | str = True,
    ) -> None:
        asked = f"compile is {backend!r}, but"
        if step_graph is None:
            raise ValueError(
                f"{asked} a {model.config.model_type} has no step of fixed shapes: it plans, or its family offers none. Leave "
                "compile out."
            )
        if not actor.deterministic:
            raise ValueError(
                f"{asked} the agent samples its actions, and the compiled step takes the likeliest: leave out one of both."
            )
        if model.dtype != torch.float32:
            raise ValueError(
                f"{asked} the weights are in {model.dtype}, and the compiled step computes in float32: load the model with "
                'dtype="float32", or leave compile out.'
            )
        self._backend = _checked_backend(backend)
        super().__init__(
            actor.task,
            conditioned=actor.is_conditioned,
            deterministic=True,
            target_returns=actor.target_returns,
            discount=actor.discount,
            missing_values=actor.missing_values,
        )
        self.return_estimator, self._remembered_steps = actor.return_estimator, actor.memory
        self._model = model
        with _evaluating(model):
            self._graph = step_graph(model, processor)
            self._graph.module.eval()
        self._compiled: dict[int, _Step] = {}  # by the number of episodes; twins share it

    @property
    def memory(self) -> int | None:
        return self._remembered_steps

    def twin(self) -> "CompiledActor":
        twin = super().twin()
        vars(twin).pop("_batch", None)
        return twin

    @torch.inference_mode()
    def _allocate(self, num_envs: int) -> None:
        self._follow_the_model()
        if num_envs not in self._compiled:
            self._compiled[num_envs] = torch.compile(
                self._graph.module, backend=self._backend, dynamic=False, isolate_recompiles=True
            )
        if not (hasattr(self, "_batch") and self._batch.fits(num_envs)):
            self._batch = _Batch(self._graph, self._compiled[num_envs], num_envs)
        self._last_actions = np.zeros((num_envs, ActionCodec.entries(self.task.actions)))

    @torch.inference_mode()
    def _begin(self, env_indices: np.ndarray) -> None:
        self._batch.forget(torch.from_numpy(env_indices))
        self._last_actions[env_indices] = 0

    @torch.inference_mode()
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        space, count = self.task.observations, len(observations)
        values = {
            "observation": observations if isinstance(space, Box) else encode_actions(space, observations),
            "last_action": self._last_actions,
            "return_to_go": self._returns_to_go,
            "timestep": self.timesteps,
        }
        with _evaluating(self._model):
            chosen = self._batch.step({name: values[name][:count] for name in values if name in self._batch.inputs})
        space = self.task.actions
        actions = chosen[:count].cpu().numpy().reshape(count, *step_shape(space))
        return actions.astype(space.dtype if space.dtype is not None else np.float64)

    @torch.inference_mode()
    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        self._batch.remember()
        self._last_actions[: len(actions)] = np.reshape(actions, (len(actions), -1))

    @torch.inference_mode()
    def _keep(self, env_indices: np.ndarray) -> None:
        self._batch.keep(torch.from_numpy(env_indices))
        self._last_actions[: len(env_indices)] = self._last_actions[env_indices]

    def _follow_the_model(self) -> None:
        """Move what the step holds beside the model to the model's device. (Moving the model itself, though it stays where it is,
        would give the weights of a GRU new places, and graphs of twins would read the old ones.)"""
        device = self._model.device
        if device.type == "mps":
            raise ValueError("compile computes with float64, which mps does not have: leave compile out there.")
        models_own = set(self._model.modules())
        for part in self._graph.module.modules():
            if part not in models_own:
                for name, values in part.named_buffers(recurse=False):
                    setattr(part, name, values.to(device))


_Step = Callable[..., tuple[Tensor, ...]]


class _Batch:
    """The inputs of a step in tensors that stay where they are, and what it gave.

    Args:
        graph: Describes the step.
        run: Computes it.
        size: Episodes.
    """

    def __init__(self, graph: StepGraph, run: _Step, size: int) -> None:
        self._run, self._module = run, graph.module
        self._reads = self._places(size)
        device = next(graph.module.parameters()).device
        self.inputs = {
            name: torch.zeros(size, *example.shape[1:], dtype=example.dtype, device=device)
            for name, example in graph.inputs.items()
        }
        self._memory = [values for name, values in self.inputs.items() if name.startswith(MEMORY)]
        self._next: Sequence[Tensor] = [torch.zeros_like(values) for values in self._memory]
        self._is_recorded = _records(device)
        self._recorded: tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]] | None = None

    def fits(self, size: int) -> bool:
        """Whether it serves so many episodes with the weights that the model has now."""
        return self._reads == self._places(size)

    def _places(self, size: int) -> tuple[int, ...]:
        """The same as long as a recorded step reads the right places."""
        return (size, *(values.data_ptr() for values in (*self._module.parameters(), *self._module.buffers())))

    def step(self, values: dict[str, np.ndarray]) -> Tensor:
        """Actions `(size, entries)`, for inputs of the first episodes."""
        for name, given in values.items():
            self.inputs[name][: len(given)].copy_(torch.from_numpy(np.require(given, requirements=["C", "W"])))
        action, *self._next = self._replayed() if self._is_recorded else self._computed()
        return action

    def remember(self) -> None:
        """What the last step gave is the memory from now on."""
        for values, following in zip(self._memory, self._next, strict=True):
            values.copy_(following)

    def forget(self, rows: Tensor) -> None:
        """Nothing has happened yet in these episodes `(n,)`."""
        for values in self._memory:
            values[rows.to(values.device)] = 0

    def keep(self, rows: Tensor) -> None:
        """These episodes `(n,)` become the first, in this order."""
        for values in (*self._memory, *self._next):
            values[: len(rows)] = values[rows.to(values.device)]

    def _computed(self) -> tuple[Tensor, ...]:
        try:
            return self._run(*self.inputs.values())
        except Exception as error:
            if "InvalidCxxCompiler" not in str(error):
                raise
            raise RuntimeError(
                "compile needs a C++ compiler on a CPU, and there is none (the variable CXX, or g++): install one, or leave "
                "compile out."
            ) from error

    def _replayed(self) -> tuple[Tensor, ...]:
        if self._recorded is None:
            self._recorded = self._record()
        graph, outputs = self._recorded
        graph.replay()
        return outputs

    def _record(self) -> "tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]":
        with torch.cuda.device(next(iter(self.inputs.values())).device):
            aside = torch.cuda.Stream()  # as recording asks for
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    self._computed()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads of the process may go on allocating
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._computed()
        return graph, outputs


def _records(device: torch.device) -> bool:
    """Whether what is launched on a device can be recorded and launched again as one."""
    return device.type == "cuda"


def _checked_backend(backend: bool | str) -> str:
    """The name of a backend of `torch.compile`."""
    if backend is True:
        return BACKEND
    if backend == "cudagraphs":
        raise ValueError(
            "compile is 'cudagraphs', but on a GPU every compiled step is recorded as a CUDA graph: give True."
        )
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = [name for name in torch.compiler.list_backends() if name != "cudagraphs"]
        raise ValueError(f"compile is {backend!r}: expected True or a backend of torch.compile, {', '.join(known)}.")
    return str(backend)


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    """In eval mode, and then as it was."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
