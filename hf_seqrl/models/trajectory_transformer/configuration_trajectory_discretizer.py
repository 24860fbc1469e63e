"""Configuration of the trajectory discretizer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

STRATEGIES = ("quantile", "uniform")


@strict
class TrajectoryDiscretizerConfig(PreTrainedConfig):
    r"""
    The sizes of a [`TrajectoryDiscretizer`].

    Args:
        num_bins (`int`, *optional*, defaults to 100):
            Bins of every dimension; the `vocab_size` of the model that reads the tokens.
        observation_dim (`int`, *optional*, defaults to 17):
            Entries of an observation, one token each.
        action_dim (`int`, *optional*, defaults to 6):
            Entries of an action, one token each.
        strategy (`str`, *optional*, defaults to `"quantile"`):
            How the bins were fitted: `"quantile"` (each bin holds as many values of the data as the next) or
            `"uniform"` (each bin is as wide as the next).

    Example:

    ```python
    >>> from hf_seqrl import TrajectoryDiscretizerConfig

    >>> TrajectoryDiscretizerConfig(observation_dim=11, action_dim=3).transition_dim
    16

    ```
    """

    model_type = "trajectory_discretizer"

    num_bins: int = 100
    observation_dim: int = 17
    action_dim: int = 6
    strategy: str = "quantile"

    @property
    def transition_dim(self) -> int:
        """Entries of a transition: the observation, the action, the reward and the value-to-go."""
        return self.observation_dim + self.action_dim + 2

    def validate_bins(self) -> None:
        """Raises `ValueError` where there could be no bins."""
        if self.num_bins < 2:
            raise ValueError(f"num_bins is {self.num_bins}: at least 2 are needed (the original has 100).")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}, expected one of {', '.join(STRATEGIES)}.")
