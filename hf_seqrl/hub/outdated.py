"""What was found out about particular weights does not hold for others."""

import warnings
from typing import Any
from zlib import crc32

import torch
from torch import nn


def weights_checksum(model: nn.Module) -> int:
    """A number that changes when a weight does, but not with the device.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> before = weights_checksum(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> weights_checksum(model) == before
        False
    """
    checksum = 0
    for tensor in model.state_dict().values():
        values = tensor.detach().cpu().contiguous().reshape(-1)
        checksum = crc32(values.view(torch.uint8).numpy(), checksum)
    return checksum


class HoldsForItsWeights:
    """An attribute of an agent, `None` at first, that remembers which weights it was set for.

    `drop_outdated` sets it back to `None` once the weights have changed.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, agent: Any, owner: type | None = None) -> Any:
        if agent is None:  # asked of the class
            return None
        return agent.__dict__.get(self._name, (None, None))[0]

    def __set__(self, agent: Any, value: Any) -> None:
        agent.__dict__[self._name] = (value, None if value is None else weights_checksum(agent.model))


def drop_outdated(agent: Any) -> None:
    """Forget, with a warning, what was set for weights that the agent no longer has."""
    names = [name for name, kind in vars(type(agent)).items() if isinstance(kind, HoldsForItsWeights)]
    known = {name: agent.__dict__[name][1] for name in names if getattr(agent, name) is not None}
    if not known:
        return
    now = weights_checksum(agent.model)
    outdated = [name for name, checksum in known.items() if checksum != now]
    for name in outdated:
        setattr(agent, name, None)
    if outdated:
        warnings.warn(
            f"the weights have changed since the agent's {' and '.join(outdated)} were set, so these are left out: evaluate "
            "the agent as it is now (agent.evaluation = rollout(agent, ...)) and set them anew.",
            stacklevel=3,
        )
