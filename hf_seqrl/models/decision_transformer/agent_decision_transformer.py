"""How a Decision Transformer acts: many episodes side by side, each asking for a return of its own."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from hf_seqrl.data.spaces import decode_actions, encode_actions, space_from_dict
from hf_seqrl.models.decision_transformer.acting_history_decision_transformer import ReencodedWindows, SlidingCache
from hf_seqrl.models.decision_transformer.acting_weights_decision_transformer import ActionHead, TokenEmbedding
from hf_seqrl.models.decision_transformer.matmul_precision_decision_transformer import matmul_precision, require_exact
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor
from hf_seqrl.models.decision_transformer.sampling_decision_transformer import gumbel_noise


class DecisionTransformerActor:
    """Chooses actions from the last steps of each episode (paper, section 3: evaluation).

    A model with sliding attention acts through a cache that is exact at any length of the episode; any other has its
    window of the last `context_length` steps encoded anew. On CPU in `float32` the actions of an episode are the same
    to the last bit whatever the number of episodes beside it.

    Args:
        model (`TrainableDT`): Read at every `reset`, so that a model in training can be watched.
        processor (`DecisionTransformerProcessor`): Of the training data.
        matmul_precision (`str`, *optional*, defaults to `"highest"`): `"high"` or `"medium"` lets PyTorch take faster
            kernels for `float32`; refused where they round more than `"highest"` does.
        dtype (`torch.dtype` or `str`, *optional*): What it computes in; the model's by default.
        temperature (`float`, *optional*): Sample discrete actions at this temperature instead of taking the likeliest.

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
    ) -> None:
        self._model, self._processor = model, processor
        self._action_space = space_from_dict(processor.action_space)
        require_exact(matmul_precision, model.device)
        if temperature is not None and (isinstance(self._action_space, Box) or not temperature > 0):
            raise ValueError(
                f"temperature is {temperature} for {self._action_space}: expected a number > 0 and discrete actions."
            )
        self._precision, self._temperature = matmul_precision, temperature
        self.deterministic = temperature is None
        self.is_conditioned = processor.conditioning != "none"
        self._dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or model.dtype

    @property
    def returns_to_go(self) -> np.ndarray:
        """What is still asked for in each episode, raw `(num_envs,)`."""
        return self._returns_to_go.copy()

    @torch.inference_mode()
    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Begin `num_envs` new episodes; see [`Actor`]. `target_return` is raw; `None` asks for the processor's first
        of `target_returns`. `seed` matters for a `temperature` only; from one int each episode gets its own."""
        model, device = self._model, self._model.device
        was_training = model.training
        model.eval()
        self._embed, self._head = TokenEmbedding(model, self._dtype), ActionHead(model, self._dtype)
        reach = model.config.sliding_attention
        history = ReencodedWindows if reach is None else SlidingCache
        steps = self._processor.context_length if reach is None else reach
        self._history = history(model, steps, num_envs, self._dtype, device)
        model.train(was_training)
        self._timesteps = np.zeros(num_envs, dtype=np.int64)
        self._actions = np.zeros((num_envs, model.config.act_dim), dtype=np.float32)
        self._targets = np.zeros(num_envs)
        self._returns_to_go = np.zeros(num_envs)
        self._seeds = np.zeros(num_envs, dtype=np.uint64)
        self._episodes = np.zeros(num_envs, dtype=np.uint64)
        if seed is None:
            seed = np.random.SeedSequence().generate_state(1, np.uint64)[0]
        if np.ndim(seed) == 0:
            seed = np.uint64(seed) + np.arange(num_envs, dtype=np.uint64)
        self.restart(np.arange(num_envs), self._default_target() if target_return is None else target_return, seed)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments `(n,)`; `None` keeps their target, and their stream of seeds."""
        env_indices = np.asarray(env_indices)
        if target_return is not None:
            self._targets[env_indices] = target_return
        if seed is not None:
            self._seeds[env_indices] = np.asarray(seed).astype(np.uint64)
            self._episodes[env_indices] = 0
        self._begin(env_indices)

    @torch.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)`."""
        predictions = self._predict(np.asarray(observations))
        if self._temperature is not None:
            noise = gumbel_noise(self._seeds, self._episodes, self._timesteps, predictions.shape[1])
            predictions = predictions / self._temperature + noise
        actions = decode_actions(self._action_space, predictions)
        self._actions = encode_actions(self._action_space, actions)  # what is done is remembered, not what was meant
        return actions

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Raw rewards `(num_envs,)` and whether the episodes ended; those begin anew with the same target."""
        self._returns_to_go = (self._returns_to_go - rewards) / self._processor.discount
        self._timesteps += 1
        ended = np.flatnonzero(dones)
        if len(ended):
            self._episodes[ended] += np.uint64(1)
            self._begin(ended)

    def select(self, env_indices: np.ndarray) -> None:
        """Go on with these environments only, in this order."""
        env_indices = np.asarray(env_indices)
        for name in ("_timesteps", "_actions", "_targets", "_returns_to_go", "_seeds", "_episodes"):
            setattr(self, name, getattr(self, name)[env_indices])
        with torch.inference_mode():
            self._history.select(torch.from_numpy(env_indices).to(self._model.device))

    def _begin(self, env_indices: np.ndarray) -> None:
        self._timesteps[env_indices] = 0
        self._returns_to_go[env_indices] = self._targets[env_indices]

    def _predict(self, observations: np.ndarray) -> np.ndarray:
        """What the model says, `(num_envs, act_dim)`."""
        device = self._model.device
        inputs = (
            self._actions,
            self._processor.scale_returns(self._returns_to_go[:, None]),
            self._processor.normalize_states(observations),
            np.minimum(self._timesteps, self._model.config.max_ep_len - 1),
        )
        with matmul_precision(self._precision):
            tokens = self._embed(*(torch.from_numpy(values).to(device) for values in inputs))
            return self._head(self._history.step(tokens, self._timesteps)).cpu().numpy()

    def _default_target(self) -> float:
        if self._processor.conditioning == "none":
            return 0.0
        if not self._processor.target_returns:
            raise ValueError(
                "target_return is None and the processor has no target_returns: give the return to ask for."
            )
        return self._processor.target_returns[0]
