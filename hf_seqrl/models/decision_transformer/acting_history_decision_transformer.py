"""The last steps of many episodes, kept for acting: as windows that are encoded anew, or as a cache that is exact.

Both keep a ring of slots, one a step, for every episode: step t of an episode stands in slot t mod slots, whatever the
other episodes do, so that an episode is computed in the same order of operations whoever runs beside it. Tokens carry
their time in themselves, so attention does not care where they stand; a mask tells who came before whom.
"""

import numpy as np
import torch
from torch import nn

from hf_seqrl.models.decision_transformer.acting_weights_decision_transformer import (
    ActingBlock,
    FoldedAttention,
    SplitAttention,
    cheapest_attention,
)
from hf_seqrl.models.decision_transformer.attention_decision_transformer import TOKENS_PER_STEP, additive

# So many tokens' numbers stay in a CPU core's own cache on their way through a block (of 128 to 512 numbers a token).
_TOKENS_IN_CACHE = 480

RETURN, STATE, ACTION = range(TOKENS_PER_STEP)  # the place of a token in its slot, and the order within a step


class Ring:
    """Per-token tensors `(episodes, slots * 3, hidden_size)` of the last steps of every episode."""

    def __init__(self, num_envs: int, slots: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots = slots
        self._empty = lambda: torch.zeros(num_envs, slots * TOKENS_PER_STEP, size, dtype=dtype, device=device)
        self._tensors: dict[object, torch.Tensor] = {}

    def write(self, name: object, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Put new tokens `(episodes, 3, hidden_size)` at `places` (from `places_at`); returns the whole tensor."""
        if name not in self._tensors:
            self._tensors[name] = self._empty()
        tensor = self._tensors[name]
        tensor.view(-1, tensor.shape[-1]).index_copy_(0, places, tokens.reshape(-1, tokens.shape[-1]))
        return tensor

    def places_at(self, timesteps: np.ndarray, device: torch.device) -> torch.Tensor:
        """Where the tokens (a_{t-1}, R_t, s_t) of each episode go, among all rows of a tensor: `(episodes * 3,)`."""
        now, before = timesteps % self.slots, (timesteps - 1) % self.slots
        slots = np.stack([before, now, now], axis=1)
        rows = (np.arange(len(timesteps)) * self.slots)[:, None]
        places = (rows + slots) * TOKENS_PER_STEP + np.array([ACTION, RETURN, STATE])
        return torch.from_numpy(places.ravel()).to(device)

    def select(self, env_indices: torch.Tensor) -> None:
        """Keep these episodes only, in this order."""
        self._tensors = {name: tensor[env_indices] for name, tensor in self._tensors.items()}
        empty, num_envs = self._empty, len(env_indices)
        self._empty = lambda: empty()[:num_envs]


class ReencodedWindows:
    """Encodes the window of the last `context_length` steps anew at every step, as the model was trained on windows.

    What depends on a token alone (its queries, keys and values in the first layer) is kept from step to step; of the
    last layer only the newest state asks, which leaves nothing to project but that one token.
    """

    def __init__(
        self, model: nn.Module, context_length: int, num_envs: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        *body, last = model.encoder.h
        forms = [SplitAttention, *[cheapest_attention] * len(body)]
        self._blocks = [ActingBlock(block, dtype, form) for block, form in zip(body, forms)]
        self._last = ActingBlock(last, dtype, FoldedAttention)
        self._ring = Ring(num_envs, context_length, model.config.hidden_size, dtype, device)
        self._mask = additive(_visible_in_window(context_length), dtype).to(device)  # (2K, 3K, 3K)
        self._episodes_at_once = num_envs
        if device.type == "cpu":
            self._episodes_at_once = max(1, _TOKENS_IN_CACHE // (TOKENS_PER_STEP * context_length))
        self.select = self._ring.select

    def step(self, tokens: torch.Tensor, timesteps: np.ndarray) -> torch.Tensor:
        """Take in the tokens (a_{t-1}, R_t, s_t) `(episodes, 3, hidden_size)` at `timesteps` `(episodes,)`; returns
        the last block's output at s_t, `(episodes, hidden_size)`."""
        slots, ring = self._ring.slots, self._ring
        places = ring.places_at(timesteps, tokens.device)
        kept = [ring.write("tokens", places, tokens)]
        if self._blocks:
            attention, normed = self._blocks[0].attention, self._blocks[0].norm(tokens)
            new = (attention.queries(normed), *attention.memory(normed))
            kept += [ring.write(part, places, values) for part, values in enumerate(new)]
        mask_rows = _row_of(timesteps, slots)
        newest = timesteps % slots * TOKENS_PER_STEP + STATE
        outputs = []
        for start in range(0, len(timesteps), self._episodes_at_once):
            part = slice(start, start + self._episodes_at_once)
            outputs.append(self._encode([values[part] for values in kept], mask_rows[part], newest[part]))
        return torch.cat(outputs)

    def _encode(self, kept: list[torch.Tensor], mask_rows: np.ndarray, newest: np.ndarray) -> torch.Tensor:
        """The whole encoder over the rings of some episodes; `newest`: where their latest states stand."""
        hidden, *first = kept
        mask = _rows(self._mask, mask_rows)
        for index, block in enumerate(self._blocks):
            if index == 0:
                query, *memory = first
            else:
                normed = block.norm(hidden)
                query, memory = block.attention.queries(normed), block.attention.memory(normed)
            hidden = block(hidden, query, memory, mask)
        normed = self._last.norm(hidden)  # (B, 3K, D)
        state = (torch.arange(len(newest), device=hidden.device), torch.from_numpy(newest).to(hidden.device))
        query = self._last.attention.queries(normed[state].unsqueeze(1))
        mask = mask.expand(len(newest), -1, -1)[state].unsqueeze(1)  # (B, 1, 3K)
        return self._last(hidden[state].unsqueeze(1), query, (normed,), mask).squeeze(1)


class SlidingCache:
    """Computes three tokens a step: under sliding attention the outputs of older tokens never change.

    The action of the step before sees one step more than the newest state, so the ring holds `reach` + 1 steps.
    """

    def __init__(self, model: nn.Module, reach: int, num_envs: int, dtype: torch.dtype, device: torch.device) -> None:
        self._blocks = [ActingBlock(block, dtype, cheapest_attention) for block in model.encoder.h]
        self._ring = Ring(num_envs, reach + 1, model.config.hidden_size, dtype, device)
        self._mask = additive(_visible_to_newest(reach), dtype).to(device)  # (2K + 2, 3, 3K + 3)
        self.select = self._ring.select

    def step(self, tokens: torch.Tensor, timesteps: np.ndarray) -> torch.Tensor:
        """As `ReencodedWindows.step`."""
        places = self._ring.places_at(timesteps, tokens.device)
        mask = _rows(self._mask, _row_of(timesteps, self._ring.slots))
        hidden = tokens
        for index, block in enumerate(self._blocks):
            normed = block.norm(hidden)
            kept = enumerate(block.attention.memory(normed))
            memory = tuple(self._ring.write((index, part), places, values) for part, values in kept)
            if index == len(self._blocks) - 1:
                hidden, normed, mask = hidden[:, -1:], normed[:, -1:], mask[:, -1:]
            hidden = block(hidden, block.attention.queries(normed), memory, mask)
        return hidden.squeeze(1)


def _row_of(timesteps: np.ndarray, slots: int) -> np.ndarray:
    """The row of a mask table: one for every step until the ring is full, then one for every place of the newest."""
    return np.where(timesteps < slots, timesteps, slots + timesteps % slots)


def _rows(table: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Rows of a table, `(episodes, ...)`, or `(1, ...)` where all episodes want the same."""
    if (rows == rows[0]).all():
        return table[int(rows[0])].unsqueeze(0)
    return table[torch.from_numpy(rows).to(table.device)]


def _key_ages(slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many steps ago each token of the ring came (`-1`: not in this episode), by rows of `_row_of`:
    `(2 * slots, slots * 3)`, and the kinds of the tokens `(slots * 3,)`."""
    timesteps = torch.arange(2 * slots)[:, None]
    ages = (timesteps - torch.arange(slots)) % slots
    ages = torch.where(ages <= timesteps, ages, -1)
    return ages.repeat_interleave(TOKENS_PER_STEP, dim=1), torch.arange(TOKENS_PER_STEP).repeat(slots)


def _visible_in_window(slots: int) -> torch.Tensor:
    """Every token of the ring as query and key: `(2 * slots, slots * 3, slots * 3)`."""
    ages, kinds = _key_ages(slots)
    query, key = ages[:, :, None], ages[:, None, :]
    return (key >= 0) & ((key > query) | ((key == query) & (kinds[None, :] <= kinds[:, None])))


def _visible_to_newest(reach: int) -> torch.Tensor:
    """The tokens (a_{t-1}, R_t, s_t) as queries: `(2 * (reach + 1), 3, (reach + 1) * 3)`."""
    ages, kinds = _key_ages(reach + 1)
    key = ages[:, None, :]
    query = torch.tensor([1, 0, 0])[:, None]
    causal = (key > query) | ((key == query) & (kinds <= torch.tensor([ACTION, RETURN, STATE])[:, None]))
    return (key >= 0) & causal & (key - query < reach)
