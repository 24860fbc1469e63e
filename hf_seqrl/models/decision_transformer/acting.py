"""Acting: many episodes side by side, each with a target return of its own.

The last steps of every episode are kept as windows that are encoded anew, or as a cache that is exact. Both keep a ring of
slots, one a step, for every episode: step t of an episode stands in slot t mod slots, whatever the other episodes do, so
that an episode is computed in the same order of operations whoever runs beside it. Tokens carry their time in themselves,
so attention does not depend on where they stand; a mask says which came before which.
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box

from hf_seqrl.data.joint_actions import joint_probabilities
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.decision_transformer.acting_weights import (
    ActingBlock,
    ActionHead,
    BackboneHead,
    FoldedAttention,
    SplitAttention,
    TokenEmbedding,
    cheapest_attention,
    matmul_precision,
    require_exact,
)
from hf_seqrl.models.decision_transformer.backbones import run_backbone
from hf_seqrl.models.decision_transformer.blocks import TOKENS_PER_STEP, additive
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor

# So many tokens' numbers stay in a CPU core's own cache on their way through a block (of 128 to 512 numbers a token).
_TOKENS_IN_CACHE = 480
_MOST_MASK_NUMBERS = 1 << 22  # masks are kept for reuse as long as they take no more memory than this
_MOST_TABLE_NUMBERS = 1 << 18  # masks of all rows are made at once where they have no more numbers: some milliseconds

RETURN, STATE, ACTION = range(TOKENS_PER_STEP)  # the place of a token in its slot, and the order within a step


class DecisionTransformerActor(Actor):
    """Chooses actions from the last steps of each episode (paper, section 3: evaluation).

    A model with sliding attention acts through a cache that is exact at any length of the episode; any other has its
    window of the last `context_length` steps encoded anew. On CPU in `float32` the actions of an episode are the same
    to the last bit whatever the number of episodes beside it; with another backbone they agree up to rounding. (Another
    backbone always acts on windows: it counts positions, or carries its state, from the first step that it sees, so that a
    cache over a longer past would compute something else than it was trained on.)

    Args:
        model (`TrainableDT`): Read at every `reset`, so that a model in training can be watched.
        processor (`DecisionTransformerProcessor`): Of the training data.
        matmul_precision (`str`, *optional*, defaults to `"highest"`): `"high"` or `"medium"` lets PyTorch use faster
            kernels for `float32`; refused where they round more than `"highest"` does.
        dtype (`torch.dtype` or `str`, *optional*): What it computes in; the model's by default.
        temperature (`float`, *optional*): Sample discrete actions at this temperature instead of taking the likeliest.
        missing_values (`str`, *optional*, defaults to `"error"`): As for [`~hf_seqrl.models.actor.Actor`].

    Raises:
        ValueError: `matmul_precision` is not exact on this machine, or `temperature` is given for a `Box`.
    """

    def __init__(
        self,
        model: TrainableDT,
        processor: DecisionTransformerProcessor,
        *,
        matmul_precision: str = "highest",
        dtype: torch.dtype | str | None = None,
        temperature: float | None = None,
        missing_values: str = "error",
    ) -> None:
        super().__init__(
            processor.task,
            conditioned=processor.is_conditioned,
            deterministic=temperature is None,
            target_returns=processor.target_returns,
            discount=processor.discount,
            missing_values=missing_values,
        )
        require_exact(matmul_precision, model.device)
        space = processor.task.actions
        if temperature is not None and (isinstance(space, Box) or not temperature > 0):
            raise ValueError(f"temperature is {temperature} for {space}: expected a number > 0 and discrete actions.")
        self._model, self._processor = model, processor
        self._precision, self._temperature = matmul_precision, temperature
        self._dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or model.dtype
        self._kept: _Weights | None = None  # of a twin, which does not read the model again

    @property
    def memory(self) -> int:
        reach = self._model.config.sliding_attention
        return self._processor.context_length if reach is None else len(self._model.encoder.h) * (reach + 1) + 1

    def twin(self) -> "DecisionTransformerActor":
        twin = super().twin()
        twin._kept = self._kept or self._weights()
        return twin

    def _allocate(self, num_envs: int) -> None:
        weights = self._kept or self._weights()
        self._embed, self._head = weights.embed, weights.head
        if self._model.config.backbone_config is not None:
            self._history = BackboneWindows(self._model, self._processor.context_length, num_envs, self._dtype)
        else:
            self._history = self._history_in(self._empty_ring(num_envs), weights)
        self._last_actions = np.zeros((num_envs, self._model.config.act_dim), dtype=np.float32)

    @torch.inference_mode()
    def _weights(self) -> "_Weights":
        """The model's weights of now, arranged for acting."""
        model, reach = self._model, self._model.config.sliding_attention
        if model.config.backbone_config is not None:  # which is called as it is
            return _Weights(TokenEmbedding(model, self._dtype), BackboneHead(model), [], None)
        was_training = model.training
        model.eval()
        blocks = list(model.encoder.h)
        forms = [SplitAttention, *[cheapest_attention] * (len(blocks) - 2), FoldedAttention]
        if reach is not None:
            forms, visible = [cheapest_attention] * len(blocks), (_visible_to_newest, reach)
        else:
            forms, visible = forms[-len(blocks) :], (_visible_in_window, self._processor.context_length)
        weights = _Weights(
            TokenEmbedding(model, self._dtype),
            ActionHead(model, self._dtype),
            [ActingBlock(block, self._dtype, form) for block, form in zip(blocks, forms)],
            _masks_of(*visible, self._dtype, model.device),
        )
        model.train(was_training)
        return weights

    def _history_in(self, ring: "Ring", weights: "_Weights") -> "ReencodedWindows | SlidingCache":
        history = ReencodedWindows if self._model.config.sliding_attention is None else SlidingCache
        return history(weights.blocks, weights.masks, ring)

    def _empty_ring(self, num_envs: int) -> "Ring":
        reach, size = self._model.config.sliding_attention, self._model.config.hidden_size
        slots = self._processor.context_length if reach is None else reach + 1
        return Ring(num_envs, slots, size, self._dtype, self._model.device)

    def _begin(self, env_indices: np.ndarray) -> None:
        """Nothing to forget: at timestep 0 the masks hide all that the ring holds."""

    @torch.inference_mode()
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        with matmul_precision(self._precision):
            self._history.write(self._tokens(observations), self.timesteps)
            predictions = self._head(self._history.read(self.timesteps)).cpu().numpy()  # (num_envs, act_dim)
        self._scores = predictions
        if self._temperature is not None:
            # the greatest of `logits + Gumbel noise` is a sample of their softmax
            predictions = predictions / self._temperature - np.log(-np.log(self.uniform(predictions.shape[1])))
        return self._processor.decode_actions(predictions)

    def _choose_together(self, actors: "Sequence[DecisionTransformerActor]") -> list[np.ndarray]:
        """In one batch where that changes no bit: see the class."""
        if self._kept is None or self._model.config.backbone_config is not None or len(actors) == 1:
            return super()._choose_together(actors)
        whole, rings = copy.copy(self), [actor._history.ring for actor in actors]
        for name in ("timesteps", "_returns_to_go", "_seeds", "_episodes", "_last_actions", "_observed"):
            setattr(whole, name, np.concatenate([getattr(actor, name) for actor in actors]))
        ring = Ring.joined(rings)
        whole._history = self._history_in(ring, self._kept)
        chosen = whole._choose(whole._observed)
        ring.part_into(rings)
        for row, actor in enumerate(actors):
            actor._scores = whole._scores[row : row + 1]
        return list(chosen[:, None])

    def _probabilities(self) -> np.ndarray:
        scores = self._scores.astype(np.float64) / self._temperature
        groups = np.split(scores, np.cumsum(self._processor.action_groups)[:-1], axis=-1)
        shares = [np.exp(group - group.max(axis=-1, keepdims=True)) for group in groups]
        parts = [share / share.sum(axis=-1, keepdims=True) for share in shares]
        return joint_probabilities(self.task.actions, np.concatenate(parts, axis=-1))

    @torch.inference_mode()
    def _absorb(self, observations: np.ndarray) -> None:
        with matmul_precision(self._precision):
            self._history.write(self._tokens(observations), self.timesteps)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        if self._processor.past_actions:
            self._last_actions = self._processor.encode_actions(actions)

    @torch.inference_mode()
    def _keep(self, env_indices: np.ndarray) -> None:
        self._last_actions = self._last_actions[env_indices]
        self._history.select(torch.from_numpy(env_indices).to(self._model.device))

    def _tokens(self, observations: np.ndarray) -> torch.Tensor:
        """The tokens (a_{t-1}, R_t, s_t) of this step `(num_envs, 3, hidden_size)`."""
        times = np.stack([np.maximum(self.timesteps - 1, 0), self.timesteps, self.timesteps], axis=1)
        inputs = (
            self._last_actions,
            self._processor.encode_targets(self._returns_to_go, self.timesteps)[:, None],
            self._processor.normalize_states(observations),
            np.minimum(self._processor.encode_timesteps(times), self._model.config.max_ep_len - 1),
        )
        return self._embed(*(torch.from_numpy(values).to(self._model.device) for values in inputs))


class Ring:
    """Per-token tensors `(episodes, slots * 3, hidden_size)` of the last steps of every episode."""

    def __init__(self, num_envs: int, slots: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots, self.num_envs, self.device = slots, num_envs, device
        self._empty = lambda: torch.zeros(num_envs, slots * TOKENS_PER_STEP, size, dtype=dtype, device=device)
        self._tensors: dict[object, torch.Tensor] = {}
        now = np.arange(slots)
        self._places = np.stack([(now - 1) % slots, now, now], axis=1) * TOKENS_PER_STEP + [ACTION, RETURN, STATE]
        self._first_places = np.arange(num_envs)[:, None] * slots * TOKENS_PER_STEP

    def write(self, name: object, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Put new tokens `(episodes, 3, hidden_size)` at `places` (from `places_at`); returns the whole tensor."""
        if name not in self._tensors:
            self._tensors[name] = self._empty()
        tensor = self._tensors[name]
        tensor.view(-1, tensor.shape[-1]).index_copy_(0, places, tokens.reshape(-1, tokens.shape[-1]))
        return tensor

    def read(self) -> list[torch.Tensor]:
        """All tensors, in the order in which they were first written."""
        return list(self._tensors.values())

    def places_at(self, timesteps: np.ndarray, device: torch.device) -> torch.Tensor:
        """Where the tokens (a_{t-1}, R_t, s_t) of each episode go, among all rows of a tensor: `(episodes * 3,)`."""
        places = self._first_places[: len(timesteps)] + self._places[timesteps % self.slots]
        return torch.from_numpy(places.ravel()).to(device)

    @classmethod
    def joined(cls, rings: "Sequence[Ring]") -> "Ring":
        """One ring of the episodes of several, which have one each."""
        like = rings[0]._empty()
        whole = cls(len(rings), rings[0].slots, like.shape[-1], like.dtype, like.device)
        names = max((ring._tensors for ring in rings), key=len)  # a new episode has written nothing
        parts = {name: [ring._tensors.get(name) for ring in rings] for name in names}
        whole._tensors = {
            name: torch.cat([ring._empty() if part is None else part for ring, part in zip(rings, tensors)])
            for name, tensors in parts.items()
        }
        return whole

    def part_into(self, rings: "Sequence[Ring]") -> None:
        """The reverse of `joined`."""
        for row, ring in enumerate(rings):
            ring._tensors = {name: tensor[row : row + 1].clone() for name, tensor in self._tensors.items()}

    def select(self, env_indices: torch.Tensor) -> None:
        """Keep these episodes only, in this order."""
        self._tensors = {name: tensor[env_indices] for name, tensor in self._tensors.items()}
        empty, num_envs = self._empty, len(env_indices)
        self._empty = lambda: empty()[:num_envs]


class ReencodedWindows:
    """Encodes the window of the last `context_length` steps anew at every step, as the model was trained on windows.

    What depends on a token alone (its queries, keys and values in the first layer) is kept from step to step; in the last
    layer only the newest state is a query, which leaves nothing to project but that one token.
    """

    def __init__(self, blocks: list[ActingBlock], masks: "Masks", ring: "Ring") -> None:
        *self._blocks, self._last = blocks
        self._masks, self.ring = masks, ring
        self._episodes_at_once = ring.num_envs
        if ring.device.type == "cpu":
            self._episodes_at_once = max(1, _TOKENS_IN_CACHE // (TOKENS_PER_STEP * ring.slots))
        self.select = ring.select

    def write(self, tokens: torch.Tensor, timesteps: np.ndarray) -> None:
        """Take in the tokens (a_{t-1}, R_t, s_t) `(episodes, 3, hidden_size)` at `timesteps` `(episodes,)`."""
        places = self.ring.places_at(timesteps, tokens.device)
        self.ring.write("tokens", places, tokens)
        if self._blocks:
            attention, normed = self._blocks[0].attention, self._blocks[0].norm(tokens)
            new = (attention.queries(normed), *attention.memory(normed))
            for part, values in enumerate(new):
                self.ring.write(part, places, values)

    def read(self, timesteps: np.ndarray) -> torch.Tensor:
        """The last block's output at the newest states s_t, `(episodes, hidden_size)`."""
        kept, slots = self.ring.read(), self.ring.slots
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
        mask = self._masks(mask_rows)
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


class BackboneWindows:
    """Encodes the window of the last `context_length` steps anew at every step, by the backbone itself."""

    def __init__(self, model: TrainableDT, context_length: int, num_envs: int, dtype: torch.dtype) -> None:
        self._backbone, self._steps = model.encoder, context_length
        # (a_{t-K}, R_{t-K+1}, s_{t-K+1}, ..., a_{t-1}, R_t, s_t); the first is out of the window
        shape = (num_envs, TOKENS_PER_STEP * context_length, model.config.hidden_size)
        self._tokens = torch.zeros(shape, dtype=dtype, device=model.device)

    def write(self, tokens: torch.Tensor, timesteps: np.ndarray) -> None:
        """As `ReencodedWindows.write`."""
        self._tokens = torch.cat([self._tokens[:, TOKENS_PER_STEP:], tokens], dim=1)

    def read(self, timesteps: np.ndarray) -> torch.Tensor:
        """As `ReencodedWindows.read`, after the backbone's last norm."""
        tokens = self._tokens[:, 1:].to(self._backbone.dtype)
        real = TOKENS_PER_STEP * torch.from_numpy(np.minimum(timesteps + 1, self._steps)) - 1
        place = torch.arange(tokens.shape[1], 0, -1)
        mask = (place <= real[:, None]).long().to(tokens.device)  # (B, 3K - 1)
        was_training = self._backbone.training
        self._backbone.eval()
        hidden = run_backbone(self._backbone, tokens, mask).last_hidden_state[:, -1]
        self._backbone.train(was_training)
        return hidden

    def select(self, env_indices: torch.Tensor) -> None:
        """As `Ring.select`."""
        self._tokens = self._tokens[env_indices]


class SlidingCache:
    """Computes three tokens a step: under sliding attention the outputs of older tokens never change.

    The action of the step before sees one step more than the newest state, so the ring holds `reach` + 1 steps.
    """

    def __init__(self, blocks: list[ActingBlock], masks: "Masks", ring: "Ring") -> None:
        self._blocks, self._masks, self.ring = blocks, masks, ring
        self.select = ring.select

    def write(self, tokens: torch.Tensor, timesteps: np.ndarray) -> None:
        """As `ReencodedWindows.write`."""
        places = self.ring.places_at(timesteps, tokens.device)
        mask = self._masks(_row_of(timesteps, self.ring.slots))
        hidden = tokens
        for index, block in enumerate(self._blocks):
            normed = block.norm(hidden)
            kept = enumerate(block.attention.memory(normed))
            memory = tuple(self.ring.write((index, part), places, values) for part, values in kept)
            if index == len(self._blocks) - 1:
                hidden, normed, mask = hidden[:, -1:], normed[:, -1:], mask[:, -1:]
            hidden = block(hidden, block.attention.queries(normed), memory, mask)
        self._newest = hidden.squeeze(1)

    def read(self, timesteps: np.ndarray) -> torch.Tensor:
        """As `ReencodedWindows.read`."""
        return self._newest


class Masks:
    """What is added to attention scores, for each of the rows of `_row_of`: a table where that is small, otherwise made when they
    are needed.

    Args:
        visible: `visible(row)` gives the booleans `(queries, keys)` of a row.
        num_rows: The number of rows.
        dtype, device: Of the masks.
    """

    def __init__(
        self, visible: Callable[[int], torch.Tensor], num_rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        kept = max(1, _MOST_MASK_NUMBERS // visible(0).numel())
        self._one: Callable[[int], torch.Tensor] = lru_cache(kept)(
            lambda row: additive(visible(row), dtype).to(device)
        )
        self._table = None
        if num_rows * visible(0).numel() <= _MOST_TABLE_NUMBERS:
            self._table = torch.stack([self._one(row) for row in range(num_rows)])
            self._one = self._table.__getitem__

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """`(episodes, queries, keys)`, or `(1, queries, keys)` where all episodes have the same row."""
        if (rows == rows[0]).all():
            return self._one(int(rows[0])).unsqueeze(0)
        if self._table is not None:
            return self._table[torch.from_numpy(rows).to(self._table.device)]
        return torch.stack([self._one(row) for row in rows.tolist()])


# Masks depend on no weights: they are kept from one `reset` to the next.
@lru_cache(maxsize=4)
def _masks_of(
    visible: Callable[[int, int], torch.Tensor], steps: int, dtype: torch.dtype, device: torch.device
) -> Masks:
    slots = steps + 1 if visible is _visible_to_newest else steps
    return Masks(lambda row: visible(row, steps), 2 * slots, dtype, device)


class _Weights(NamedTuple):
    """What acting needs of a model, and nothing of any episode."""

    embed: TokenEmbedding
    head: ActionHead | BackboneHead
    blocks: list[ActingBlock]
    masks: Masks | None


def _row_of(timesteps: np.ndarray, slots: int) -> np.ndarray:
    """The mask that an episode needs: another one for every step until the ring is full, then for every newest slot."""
    return np.where(timesteps < slots, timesteps, slots + timesteps % slots)


def _key_ages(row: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many steps ago each token of the ring came (`-1`: not in this episode), and its kind: `(slots * 3,)` each."""
    ages = (row - torch.arange(slots)) % slots
    ages = torch.where(ages <= row, ages, -1)
    return ages.repeat_interleave(TOKENS_PER_STEP), torch.arange(TOKENS_PER_STEP).repeat(slots)


def _visible_in_window(row: int, slots: int) -> torch.Tensor:
    """Every token of the ring as query and as key: `(slots * 3, slots * 3)`."""
    ages, kinds = _key_ages(row, slots)
    query, key = ages[:, None], ages[None, :]
    return (key >= 0) & ((key > query) | ((key == query) & (kinds[None, :] <= kinds[:, None])))


def _visible_to_newest(row: int, reach: int) -> torch.Tensor:
    """The tokens (a_{t-1}, R_t, s_t) as queries: `(3, (reach + 1) * 3)`."""
    ages, kinds = _key_ages(row, reach + 1)
    key = ages[None, :]
    query = torch.tensor([1, 0, 0])[:, None]
    causal = (key > query) | ((key == query) & (kinds <= torch.tensor([ACTION, RETURN, STATE])[:, None]))
    return (key >= 0) & causal & (key - query < reach)
