"""Episodes that a trained model imagines: it is told the actions, and draws the rewards and observations that follow."""

import numpy as np
import torch

from hf_seqrl.data.spaces import step_shape

from .generation import Beams, choose_tokens
from .inference import InferenceEngine
from .modeling_trajectory_transformer import TrajectoryTransformerModel
from .processing_trajectory_transformer import TrajectoryTransformerProcessor


class ImaginedEpisodes:
    """Episodes side by side in the model, one step for each call of `step`.

    Args:
        model: A trained model. It sees as many of the last transitions as fit its `block_size`.
        processor: Its processor.
        observations: The first ones, raw, `(n, *observation_shape)`.
        seeds: Of each episode, `(n,)` ints.

    Raises:
        ValueError: the transitions of the model are several steps apart.
    """

    def __init__(
        self,
        model: TrajectoryTransformerModel,
        processor: TrajectoryTransformerProcessor,
        observations: np.ndarray,
        seeds: np.ndarray,
    ) -> None:
        if processor.step != 1:
            raise ValueError(
                f"the model's transitions are {processor.step} steps apart: expected 1 to imagine episodes."
            )
        self.processor = processor
        self._config = config = model.config
        self._bins = processor.discretizer
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._possible = torch.nn.functional.pad(self._bins.possible, (0, 1), value=False)  # the stop token is none
        self._possible[0, -1] = True  # but in the place of an observation: the episode has terminated
        tokens = self._bins.encode(np.reshape(observations, (len(observations), -1)), slice(0, config.observation_dim))
        window = (config.block_size + 1) // config.transition_dim
        self._beams = Beams(InferenceEngine(model), tokens.to(model.device), window)

    @torch.inference_mode()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take a step in every episode; those that have terminated go on without meaning.

        Args:
            actions: `(n, *action_shape)`.

        Returns:
            The next observations `(n, *observation_shape)`, rewards `(n,)`, and whether the episode terminates with this
            step `(n,)`; drawn from the model's distribution.
        """
        config = self._config
        own = slice(config.observation_dim, config.observation_dim + config.action_dim)
        tokens = self._bins.encode(np.reshape(actions, (len(actions), -1)), own).to(self._beams.tokens.device)
        for entry in range(config.action_dim):
            self._beams.append(tokens[:, entry])
        reward = self._draw(own.stop)
        self._draw(own.stop + 1)  # the value, which no other token sees
        first = self._draw(0)
        others = [self._draw(entry) for entry in range(1, config.observation_dim)]
        terminated = first == config.vocab_size
        known = torch.stack([token.where(~terminated, torch.zeros_like(token)) for token in [first, *others]], dim=1)
        raw = self._bins.decode(known, slice(0, config.observation_dim)).cpu().numpy()
        rewards = self._bins.decode(reward[:, None], slice(own.stop, own.stop + 1))[:, 0].cpu().numpy()
        shape = step_shape(self.processor.task.observations)
        return raw.reshape(len(raw), *shape), rewards, terminated.cpu().numpy()

    def _draw(self, entry: int) -> torch.LongTensor:
        scores = self._beams.next_scores().masked_fill(
            ~self._possible[entry].to(self._beams.tokens.device), -torch.inf
        )
        tokens = choose_tokens(scores, self._generators)
        self._beams.append(tokens)
        return tokens
