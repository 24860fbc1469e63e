"""One step of an agent as a module of tensors alone, which exporters can trace.

What goes in and what comes out is in the user's units: normalization, scaling and bounds are part of the module, so that
whoever runs the graph needs no processor. A family builds its module from the parts here, see `ModelFamily.step_graph`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Space, Tuple
from torch import Tensor, nn

from hf_seqrl.data.returns import SHORTEST_REMAINDER
from hf_seqrl.data.spaces import choice_bounds, continuous_bounds, continuous_entries, group_sizes
from hf_seqrl.models.processor import TrajectoryProcessor

MEMORY = "memory_"  # what the names of inputs that come from the step before begin with
NEXT = "next_"  # what is put in front of them in the outputs


@dataclass(frozen=True)
class StepGraph:
    """A module that computes one step of one stream.

    The inputs are those of `STEP_INPUTS` that the family reads, then its memory, zeros when an episode begins; the outputs are
    `action` and, for each entry of the memory, its next value. A model that does not act has other outputs.

    Attributes:
        module: Called with the inputs in their order; returns a tuple of the outputs.
        inputs: An example of each input, by name.
        outputs: The names of the outputs.
        memory: How it remembers the episode, for people: such as `"the last 20 steps"`.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    memory: str

    @classmethod
    def acting(
        cls, module: nn.Module, inputs: dict[str, Tensor], memory: dict[str, Tensor], described: str
    ) -> "StepGraph":
        """The graph of a module that returns `(action, *next memory)`."""
        memory = {MEMORY + name: values for name, values in memory.items()}
        return cls(module, inputs | memory, ("action", *(NEXT + name for name in memory)), described)


def step_inputs(processor: TrajectoryProcessor, *names: str) -> dict[str, Tensor]:
    """Examples of what the world says at a step, in the order of the names.

    - `observation` `(1, *observation_shape)` float64, raw; spaces other than `Box` are flattened to vectors.
    - `last_action` `(1, entries)` float64: the executed action of the step before, as `action` gives it.
    - `return_to_go` `(1,)` float64, raw.
    - `timestep` `(1,)` int64: steps since the episode began.
    """
    examples = {
        "observation": torch.zeros(1, *observation_shape(processor.task.observations), dtype=torch.float64),
        "last_action": torch.zeros(1, ActionCodec.entries(processor.task.actions), dtype=torch.float64),
        "return_to_go": torch.zeros(1, dtype=torch.float64),
        "timestep": torch.zeros(1, dtype=torch.int64),
    }
    return {name: examples[name] for name in names}


def observation_shape(space: Space) -> tuple[int, ...]:
    """The shape of an observation as a graph reads it: a `Box`'s own, and one vector for anything else."""
    return tuple(space.shape or ()) if isinstance(space, Box) else (sum(group_sizes(space)),)


class Standardized(nn.Module):
    """Raw observations `(batch, *observation_shape)` float64 as `(batch, entries)` float32.

    Args:
        mean, std: `(entries,)`; computed in their precision. `None`: nothing is subtracted.
        limit: What the result is clipped to on both sides.
    """

    def __init__(self, mean: np.ndarray | None, std: np.ndarray | None, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", None if mean is None else torch.from_numpy(np.array(mean)))
        self.register_buffer("std", None if mean is None else torch.from_numpy(np.array(std)))

    def forward(self, observations: Tensor) -> Tensor:
        """See the class."""
        values = observations.flatten(1)
        if self.mean is not None:
            values = (values.to(self.mean.dtype) - self.mean) / self.std
        values = values.to(torch.float32)
        return values if self.limit is None else values.clamp(-self.limit, self.limit)


class ReturnReader(nn.Module):
    """Raw returns-to-go `(batch,)` float64 at timesteps `(batch,)` as a model reads them, `(batch,)` float32; what
    `TrajectoryProcessor.encode_targets` computes."""

    def __init__(self, processor: TrajectoryProcessor) -> None:
        super().__init__()
        self.is_conditioned = processor.is_conditioned
        self.limit = processor.max_episode_steps if processor.return_form == "pace" else None
        self.bounds = processor.return_bounds if processor.return_form == "pace" else None
        self.shift, self.scale = processor.return_shift, processor.return_scale

    def forward(self, returns_to_go: Tensor, timesteps: Tensor) -> Tensor:
        """See the class."""
        if not self.is_conditioned:
            return torch.zeros_like(returns_to_go, dtype=torch.float32)
        if self.limit is not None:
            remainder = (self.limit - timesteps).to(torch.float64).clamp(min=SHORTEST_REMAINDER * self.limit)
            returns_to_go = returns_to_go * self.limit / remainder
        if self.bounds is not None:
            returns_to_go = returns_to_go.clamp(*self.bounds)
        return ((returns_to_go - self.shift) / self.scale).to(torch.float32)


class ActionCodec(nn.Module):
    """Actions `(batch, entries)` float64, entry by entry as in the action space, and the model's vectors `(batch, act_dim)`
    float32; what `encode_actions` and `decode_actions` of a processor compute. Choices are given by their codes."""

    def __init__(self, processor: TrajectoryProcessor) -> None:
        super().__init__()
        space = processor.task.actions
        self.groups = group_sizes(space)
        numbers = continuous_entries(space).tolist()
        self.choices = [entry for entry in range(self.entries(space)) if entry not in numbers]
        self.num_numbers = len(numbers)
        order = [*self.choices, *numbers]  # an action as it is computed: the choices, then the numbers
        low, high = continuous_bounds(space)
        shift = np.zeros(len(numbers)) if processor.action_shift is None else processor.action_shift
        scale = np.ones(len(numbers)) if processor.action_scale is None else processor.action_scale
        starts = choice_bounds(space)[0][self.choices]
        for name, values in (("low", low), ("high", high), ("shift", shift), ("scale", scale), ("starts", starts)):
            self._hold(name, np.array(values, dtype=np.float64))
        self._hold("numbers", np.array(numbers, dtype=np.int64))
        self.register_buffer("in_order", None if order == sorted(order) else torch.from_numpy(np.argsort(order)))
        self.narrow, self.whole = _number_kind(space)

    def _hold(self, name: str, values: np.ndarray) -> None:
        if len(values):  # torch.export.save takes no empty tensors
            self.register_buffer(name, torch.from_numpy(values))

    @staticmethod
    def entries(space: Space) -> int:
        """Entries of an action."""
        return len(choice_bounds(space)[0])

    def encode(self, actions: Tensor) -> Tensor:
        """What a model reads of actions."""
        parts = []
        for index, size in enumerate(self.groups):
            code = actions[:, self.choices[index]] - self.starts[index]
            parts.append((code[:, None] == torch.arange(size, device=code.device)).to(torch.float32))
        if self.num_numbers:
            scaled = (actions[:, self.numbers].to(torch.float32).to(torch.float64) - self.shift) / self.scale
            parts.append(scaled.to(torch.float32))
        return torch.cat(parts, dim=-1)

    def decode(self, values: Tensor) -> Tensor:
        """Actions from scores of the choices and encoded numbers."""
        scores = values[:, : sum(self.groups)].split(self.groups, dim=-1) if self.groups else ()
        return self.assemble([part.argmax(dim=-1) for part in scores], values[:, sum(self.groups) :])

    def assemble(self, choices: list[Tensor], numbers: Tensor) -> Tensor:
        """Actions from choices `(batch,)`, counted from 0, and encoded numbers `(batch, n)`."""
        parts = []
        if choices:
            parts.append(torch.stack(choices, dim=-1).to(torch.float64) + self.starts)
        if self.num_numbers:
            scaled = numbers.to(torch.float64) * self.scale + self.shift
            scaled = torch.minimum(torch.maximum(scaled, self.low), self.high)
            scaled = scaled.round() if self.whole else scaled
            parts.append(scaled.to(torch.float32).to(torch.float64) if self.narrow else scaled)
        action = torch.cat(parts, dim=-1)
        return action if self.in_order is None else action[:, self.in_order]


def _number_kind(space: Space) -> tuple[bool, bool]:
    """Whether continuous entries are float32, and whether they are whole numbers, for a space of one kind of them."""
    boxes = [part for part in _parts(space) if isinstance(part, Box)]
    kinds = {part.dtype for part in boxes}
    if len(kinds) > 1:
        raise ValueError(
            f"the action space {space} has numbers of several types: an agent that is exported or compiled takes one type."
        )
    kind = kinds.pop() if kinds else np.dtype(np.float64)
    return kind == np.float32, kind.kind != "f"


def _parts(space: Space) -> list[Space]:
    if isinstance(space, Tuple):
        return [leaf for part in space.spaces for leaf in _parts(part)]
    if isinstance(space, Dict):
        return [leaf for part in space.values() for leaf in _parts(part)]
    return [space]
