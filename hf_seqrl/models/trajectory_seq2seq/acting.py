"""How an encoder-decoder acts: the encoder reads the history, the decoder writes the next action."""

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from hf_seqrl.data.spaces import group_sizes
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.caching import cache_of
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.outputs import TrajectorySeq2SeqEncoderOutput, value_losses
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import (
    TrajectorySeq2SeqDataCollator,
    TrajectorySeq2SeqProcessor,
)


class TrajectorySeq2SeqActor(Actor):
    """Writes the action `a_t` from the last `context_length` states and the actions between them.

    An action of `k` components is written with `k` symbols, one after the other, so that later components depend on
    earlier ones; a `Box` action is the vector at one VALUE symbol. Only symbols that the action space contains can be
    written.

    Args:
        model: Trained with a processor whose target is `"next_action"`.
        processor: That processor.
        do_sample (`bool`, *optional*, defaults to `False`): Sample symbols instead of taking the most likely.
        temperature (`float`, *optional*, defaults to 1.0): Of the draws.
        missing_values (`str`, *optional*, defaults to `"error"`): See [`~hf_seqrl.models.actor.Actor`].

    Raises:
        ValueError: the temperature is not positive; at `reset`, the model was trained to write something else than the next
            action.
    """

    def __init__(
        self,
        model: TrajectorySeq2SeqModel,
        processor: TrajectorySeq2SeqProcessor,
        do_sample: bool = False,
        temperature: float = 1.0,
        missing_values: str = "error",
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: expected a number > 0; do_sample=False is the limit 0.")
        super().__init__(
            processor.task,
            conditioned=processor.is_conditioned,
            deterministic=not do_sample,
            target_returns=processor.target_returns,
            discount=processor.discount,
            missing_values=missing_values,
        )
        self.model = model.eval()
        self.processor = processor
        self.collator = TrajectorySeq2SeqDataCollator(processor=processor)
        self.do_sample = do_sample
        self.temperature = temperature

    @property
    def memory(self) -> int:
        return self.processor.context_length

    def _allocate(self, num_envs: int) -> None:
        if self.processor.target != "next_action":
            raise ValueError(
                f"this model was trained with target {self.processor.target!r}, which writes whole sequences: to act, train "
                "with target='next_action'."
            )
        length, task = self.processor.context_length, self.processor.task
        states = self.processor.encode_states(np.stack([[_any_entry(task.observations)]] * num_envs))
        actions = self.processor.encode_actions(np.stack([[_any_entry(task.actions)]] * num_envs))
        self.states = np.repeat(states, length, axis=1)  # (num_envs, context_length, ...)
        self.actions = np.repeat(actions, length, axis=1)
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        self.is_current = np.zeros(num_envs, dtype=bool)  # whether the last state of a history is the one to act on

    def _begin(self, env_indices: np.ndarray) -> None:
        self.lengths[env_indices] = 0
        self.is_current[env_indices] = False

    def _keep(self, env_indices: np.ndarray) -> None:
        for name in ("states", "actions", "lengths", "is_current"):
            setattr(self, name, getattr(self, name)[env_indices])

    def _absorb(self, observations: np.ndarray) -> None:
        self._append(self.processor.encode_states(observations))

    @torch.inference_mode()
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        self._append(self.processor.encode_states(observations))
        longest = int(self.lengths.max())
        source = self.collator.source(
            self.states[:, :longest],
            self.actions[:, :longest],
            self.lengths,
            self.returns_to_go if self.is_conditioned else None,
        )
        encoded = self.model.encode(**{name: values.to(self.model.device) for name, values in source.items()})
        return self._write(encoded)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        self.actions[np.arange(len(actions)), self.lengths - 1] = self.processor.encode_actions(actions)
        self.is_current[:] = False

    def _append(self, states: np.ndarray) -> None:
        """Put the current states `(num_envs, ...)` behind the histories; a second call for the same step replaces them."""
        new = ~self.is_current
        full = np.flatnonzero(new & (self.lengths == self.processor.context_length))
        for history in (self.states, self.actions):
            history[full, :-1] = history[full, 1:]  # the oldest step is forgotten
        self.lengths[full] -= 1
        self.lengths += new
        self.states[np.arange(len(states)), self.lengths - 1] = states
        self.is_current[:] = True

    def _write(self, encoded: TrajectorySeq2SeqEncoderOutput) -> np.ndarray:
        space = self.processor.task.actions
        step = self.model(encoder_outputs=encoded, use_cache=True)
        if isinstance(space, Box):
            size = int(np.prod(space.shape))
            return self.processor.decode_actions(step.value_preds[:, -1, :size].float().cpu().numpy())
        noise = self.uniform(len(group_sizes(space))) if self.do_sample else None
        written: list[np.ndarray] = []
        self._distributions: list[np.ndarray] = []  # of each component, given those before it
        for place, size in enumerate(group_sizes(space)):
            if written:  # the component just written is what the next one is written from
                step = self.model(
                    encoder_outputs=encoded,
                    decoder_input_ids=torch.from_numpy(written[-1][:, None]).to(self.model.device),
                    cache=cache_of(step),
                )
            written.append(self._chosen_symbols(step.logits[:, -1, :size], None if noise is None else noise[:, place]))
        return np.stack(written, axis=-1).reshape(-1, *space.shape) + space.start

    def _chosen_symbols(self, logits: Tensor, noise: np.ndarray | None) -> np.ndarray:
        """Symbols `(num_envs,)` from scores `(num_envs, size)`, by the inverse distribution function where there is noise."""
        if noise is None:
            return logits.argmax(-1).cpu().numpy()
        probabilities = (logits.double() / self.temperature).softmax(-1).cpu().numpy()
        self._distributions.append(probabilities)
        return np.minimum((probabilities.cumsum(-1) <= noise[:, None]).sum(-1), logits.shape[-1] - 1)

    def _probabilities(self) -> np.ndarray | None:
        """Of an action of one component; a later component depends on what was written before it."""
        return self._distributions[0] if len(self._distributions) == 1 else None


def _any_entry(space: Space) -> np.ndarray:
    return np.zeros(space.shape, dtype=space.dtype) if isinstance(space, Box) else np.asarray(space.start)


@torch.no_grad()
def action_losses(
    model: TrajectorySeq2SeqModel, processor: TrajectorySeq2SeqProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`. The symbols of an action are written with its earlier ones given.

    Raises:
        ValueError: the model was trained to write something else than the next action.
    """
    if processor.target != "next_action":
        raise ValueError(f"target is {processor.target!r}: only a model that writes the 'next_action' can act.")
    batch = TrajectorySeq2SeqDataCollator(processor=processor)(histories)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    output = model.eval()(**batch, teacher_forcing_ratio=1.0)
    if processor.value_size:  # the vector at the first symbol
        losses = value_losses(output.value_preds, batch["target_values"], batch["labels"])[:, :1]
    else:
        is_action = batch["labels"] != processor.eos_token_id
        losses = output.teacher_forced_losses * is_action
    return losses.sum(dim=1).float().cpu().numpy()
