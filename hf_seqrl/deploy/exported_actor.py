"""An exported agent in the simulator: as an actor that `rollout` takes."""

from copy import copy
from pathlib import Path

import numpy as np

from hf_seqrl.data.spaces import step_shape
from hf_seqrl.data.task import Task
from hf_seqrl.deploy.runner import Runner
from hf_seqrl.models.actor import AUTO, Actor


class ExportedActor(Actor):
    """Acts by the runner of an exported folder, one stream for each environment.

    Args:
        folder: What `agent.export` wrote.
        graph: The name of the graph in it, `step.onnx` for instead of the quantized one; defaults to the folder's own.

    Raises:
        ValueError: it holds a critic, which does not act.

    Example:
        ```python
        rollout(ExportedActor("onnx"), "CartPole-v1", num_episodes=20)
        ```
    """

    def __init__(self, folder: str | Path, graph: str | None = None) -> None:
        self._runner = Runner(folder, graph)
        description = self._runner.description
        if description["kind"] != "acting":
            raise ValueError(f"{folder} holds a {description['family']}, which gives values and chooses no actions.")
        super().__init__(
            Task.from_dict(description["task"]),
            conditioned=description["conditioned"],
            target_returns=description["target_returns"],
            discount=description["discount"],
            missing_values=description["missing_values"],
        )

    def _allocate(self, num_envs: int) -> None:
        self._streams = [copy(self._runner) for _ in range(num_envs)]  # they share the session and nothing else

    def _begin(self, env_indices: np.ndarray) -> None:
        for index in env_indices:
            target = self._target_returns[index] if self.is_conditioned else None
            self._streams[index].begin(AUTO if target is not None and np.isnan(target) else target)

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        chosen = [stream.act(observation) for stream, observation in zip(self._streams, observations, strict=True)]
        space = self.task.actions
        actions = np.stack(chosen).reshape(len(chosen), *step_shape(space))
        return actions.astype(space.dtype if space.dtype is not None else np.float64)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        for stream, action, reward in zip(self._streams, actions, rewards, strict=True):
            stream.tell(reward, np.ravel(action).astype(np.float64))

    def _keep(self, env_indices: np.ndarray) -> None:
        self._streams = [copy(self._streams[index]) for index in env_indices]
