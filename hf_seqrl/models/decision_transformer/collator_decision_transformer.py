"""Windows of trajectories as the batches that a Decision Transformer trains on."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_seqrl.data.spaces import encode_actions, space_from_dict
from hf_seqrl.data.windows import TrajectoryWindows, gathered_windows
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor

if TYPE_CHECKING:
    from datasets import Dataset

_IGNORED = -100  # the label by which transformers marks what does not count


class DecisionTransformerGymDataCollator:
    """Normalises, scales and encodes a batch of windows.

    Given what [`TrajectoryWindows`] yields (a gathered batch, or a list of windows), it finishes these windows. Given
    rows of the raw data set, it takes only their number and draws as many windows itself: an episode with a chance in
    proportion to its length, a start in it uniformly (in other words any step of the data), by torch's generator, so
    that `TrainingArguments.seed` rules. In this way it stands in for the class of the same name in Hugging Face's
    post "Train your first Decision Transformer".

    Args:
        dataset (`datasets.Dataset`): One row an episode. `None` where a processor is given and windows are finished only.
        processor (`DecisionTransformerProcessor`, *optional*): Made from the data set by default.
        context_length (`int`, *optional*): Steps of the windows that it draws; the processor's by default.

    Attributes:
        state_dim, act_dim (`int`): Sizes of a state and of an encoded action.
        max_len (`int`): The context length, in steps.
        max_ep_len (`int`): The time limit, in steps; later timesteps count as the last one before it.
        scale (`float`): The return scale.
        state_mean, state_std (`(state_dim,)`): Statistics of the raw states.
        n_traj (`int`): The number of episodes.
        p_sample (`(n_traj,)`): The chance of each episode to be drawn.
    """

    return_tensors = "pt"

    def __init__(
        self,
        dataset: "Dataset | None",
        processor: DecisionTransformerProcessor | None = None,
        context_length: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.processor = DecisionTransformerProcessor.from_dataset(dataset) if processor is None else processor
        self.max_len = context_length or self.processor.context_length
        self.max_ep_len = self.processor.max_episode_steps
        self.scale = self.processor.return_scale
        self.state_dim, self.act_dim = self.processor.state_dim, self.processor.act_dim
        self.state_mean, self.state_std = self.processor.state_mean, self.processor.state_std
        self._action_space = space_from_dict(self.processor.action_space)

    @cached_property
    def windows(self) -> TrajectoryWindows:
        """The windows that it draws from when it is given raw rows."""
        return TrajectoryWindows(self.dataset, context_length=self.max_len, discount=self.processor.discount)

    @property
    def n_traj(self) -> int:
        return self.dataset.num_rows

    @property
    def p_sample(self) -> np.ndarray:
        lengths = np.diff(self.windows.columns.episode_offsets)
        return lengths / lengths.sum()

    def __call__(self, features: Mapping[str, np.ndarray] | Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of left-padded windows.

        Returns:
            `states` `(batch, time, state_dim)` normalised, `actions` `(batch, time, act_dim)` (one-hot if discrete),
            `rewards` `(batch, time, 1)` raw, `returns_to_go` `(batch, time, 1)` scaled, `timesteps` `(batch, time)`,
            `attention_mask` `(batch, time)` (1 for real steps) and `labels` `(batch, time)` (0 for real steps, -100
            for padding: by these `Trainer` counts what a loss is the mean of). Padded steps hold a normalised zero
            state, a zero action, return and timestep; nothing that is computed for real steps depends on them.
        """
        if isinstance(features, Mapping) or "timesteps" in features[0]:
            return self._finish(gathered_windows(features))
        drawn = torch.randint(len(self.windows), (len(features),))
        return self._finish(self.windows.gather(drawn.numpy()))

    def _finish(self, windows: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        mask = windows["attention_mask"]  # (B, T)
        batch = {
            "states": self.processor.normalize_states(windows["observations"]),
            "actions": self._encode_actions(windows["actions"], mask),
            "rewards": windows["rewards"][..., None].astype(np.float32, copy=False),
            "returns_to_go": self.processor.scale_returns(windows["returns_to_go"])[..., None],
            "timesteps": np.minimum(windows["timesteps"], self.max_ep_len - 1).astype(np.int64, copy=False),
            "attention_mask": mask.astype(np.float32),
            "labels": (mask.astype(np.int64) - 1) * -_IGNORED,
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _encode_actions(self, actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if actions.dtype.kind == "f":
            return encode_actions(self._action_space, actions)
        # a pad is no action: any valid one is encoded in its place, then blanked
        real = mask.reshape(mask.shape + (1,) * (actions.ndim - mask.ndim)).astype(bool)
        actions = np.where(real, actions, self._action_space.start)
        return encode_actions(self._action_space, actions) * mask[..., None].astype(np.float32)
