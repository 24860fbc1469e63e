"""How an encoder-decoder acts: the encoder reads what has happened, the decoder writes the next action."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from hf_seqrl.data.spaces import decode_actions, group_sizes
from hf_seqrl.models.trajectory_seq2seq.collator_trajectory_seq2seq import TrajectorySeq2SeqDataCollator
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.outputs_trajectory_seq2seq import TrajectorySeq2SeqEncoderOutput
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor


class TrajectorySeq2SeqActor:
    """Writes the action `a_t` from the last `context_length` states and the actions between them.

    An action of `k` components is written with `k` symbols, one after the other, so that later components depend on
    earlier ones; a `Box` action is the vector at one VALUE symbol. Only symbols that the action space contains can be
    written. An episode's actions depend on its own history and seed alone.

    Args:
        model: Trained with a processor whose task is `"next_action"`.
        processor: That processor.
        do_sample (`bool`, *optional*, defaults to `False`): Draw symbols instead of taking the likeliest.
        temperature (`float`, *optional*, defaults to 1.0): Of the draws.
    """

    def __init__(
        self,
        model: TrajectorySeq2SeqModel,
        processor: TrajectorySeq2SeqProcessor,
        do_sample: bool = False,
        temperature: float = 1.0,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: expected a number > 0; do_sample=False is the limit 0.")
        self.model = model.eval()
        self.processor = processor
        self.collator = TrajectorySeq2SeqDataCollator(processor=processor)
        self.do_sample = do_sample
        self.deterministic = not do_sample
        self.temperature = temperature
        self.is_conditioned = processor.conditioning == "return"

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Begin `num_envs` new episodes; see `Actor`.

        Raises:
            ValueError: the model was trained to write something else than the next action.
        """
        if self.processor.task != "next_action":
            raise ValueError(
                f"this model was trained for task {self.processor.task!r}, which writes whole sequences: to act, train with "
                "task='next_action'."
            )
        length = self.processor.context_length
        empty = np.zeros(
            (num_envs, 1, *self.processor.observations_of.shape), dtype=self.processor.observations_of.dtype
        )
        states = self.processor.encode_states(empty + _lowest(self.processor.observations_of))
        actions = self.processor.encode_actions(np.stack([[_any_action(self.processor.actions_of)]] * num_envs))
        self.states = np.repeat(states, length, axis=1)  # (num_envs, context_length, ...)
        self.actions = np.repeat(actions, length, axis=1)
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        self.returns_to_go = np.zeros(num_envs, dtype=np.float64)
        self.generators: np.ndarray = np.empty(num_envs, dtype=object)
        self.restart(np.arange(num_envs), target_return, seed)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments; see `Actor`."""
        self.lengths[env_indices] = 0
        if self.is_conditioned:
            self.returns_to_go[env_indices] = (
                self.processor.target_returns[0] if target_return is None else target_return
            )
        seeds = np.broadcast_to(np.asarray(seed, dtype=object), len(env_indices))
        for index, own_seed in zip(env_indices, seeds):
            self.generators[index] = np.random.default_rng(own_seed)

    def select(self, env_indices: np.ndarray) -> None:
        """Go on with these environments only; see `Actor`."""
        for name in ("states", "actions", "lengths", "returns_to_go", "generators"):
            setattr(self, name, getattr(self, name)[env_indices])

    @torch.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)`; see `Actor`."""
        self._remember(self.processor.encode_states(np.asarray(observations)))
        longest = int(self.lengths.max())
        source = self.collator.source(
            self.states[:, :longest],
            self.actions[:, :longest],
            self.lengths,
            self.returns_to_go if self.is_conditioned else None,
        )
        encoded = self.model.encode(**{name: values.to(self.model.device) for name, values in source.items()})
        actions = self._write(encoded)
        self.actions[np.arange(len(actions)), self.lengths - 1] = self.processor.encode_actions(actions)
        return actions

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """What the actions brought; histories of ended episodes are dropped. See `Actor`."""
        self.returns_to_go -= rewards
        self.lengths[dones] = 0

    def _remember(self, states: np.ndarray) -> None:
        full = np.flatnonzero(self.lengths == self.processor.context_length)
        for history in (self.states, self.actions):
            history[full, :-1] = history[full, 1:]  # the oldest step is forgotten
        self.lengths[full] -= 1
        self.states[np.arange(len(states)), self.lengths] = states
        self.lengths += 1

    def _write(self, encoded: TrajectorySeq2SeqEncoderOutput) -> np.ndarray:
        space = self.processor.actions_of
        step = self.model(encoder_outputs=encoded, use_cache=True)
        if isinstance(space, Box):
            return decode_actions(space, step.values[:, -1, : int(np.prod(space.shape))].float().cpu().numpy())
        written: list[np.ndarray] = []
        for size in group_sizes(space):
            if written:  # the component just written is what the next one is written from
                step = self.model(
                    encoder_outputs=encoded,
                    decoder_input_ids=torch.from_numpy(written[-1][:, None]).to(self.model.device),
                    cache=step.cache,
                )
            written.append(self._choose(step.logits[:, -1, :size]))
        return np.stack(written, axis=-1).reshape(-1, *space.shape) + space.start

    def _choose(self, logits: Tensor) -> np.ndarray:
        """Symbols `(num_envs,)` from scores `(num_envs, size)`; each environment draws from its own generator."""
        if not self.do_sample:
            return logits.argmax(-1).cpu().numpy()
        probabilities = (logits.double() / self.temperature).softmax(-1).cpu().numpy()
        draws = np.array([generator.random() for generator in self.generators])
        return np.minimum((probabilities.cumsum(-1) <= draws[:, None]).sum(-1), logits.shape[-1] - 1)


def _lowest(space: Any) -> np.ndarray:
    return np.zeros(space.shape, dtype=space.dtype) if isinstance(space, Box) else np.asarray(space.start)


def _any_action(space: Any) -> np.ndarray:
    return np.zeros(space.shape, dtype=space.dtype) if isinstance(space, Box) else np.asarray(space.start)
