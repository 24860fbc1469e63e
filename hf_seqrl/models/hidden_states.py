"""Hidden states by their indices, as `output_hidden_states=[0, -1]` asks for them."""

from collections.abc import Sequence

import torch


def selected_hidden_states(
    hidden_states: Sequence[torch.Tensor], asked: bool | int | list[int] | None
) -> tuple[torch.Tensor | None, ...] | None:
    """What an output holds of all hidden states.

    Args:
        hidden_states: The embeddings and the output of every layer.
        asked: As `output_hidden_states`: a flag, or the index or indices of those that are kept, which may be negative.

    Returns:
        All of them, or `None` in the place of each that was not asked for; `None` where nothing is asked for.

    Example:
        >>> first, last = torch.zeros(1), torch.ones(1)
        >>> selected_hidden_states([first, last], [-1])
        (None, tensor([1.]))
    """
    if asked is False or asked is None:
        return None
    if asked is True:
        return tuple(hidden_states)
    count = len(hidden_states)
    wanted = {index % count for index in ([asked] if isinstance(asked, int) else asked) if -count <= index < count}
    return tuple(hidden if index in wanted else None for index, hidden in enumerate(hidden_states))
