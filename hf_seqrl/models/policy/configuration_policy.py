"""The shape of a policy network and the weights of its loss."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class PolicyGradientConfig(PreTrainedConfig):
    r"""Configuration of a [`PolicyGradientModel`], a multilayer perceptron that maps one observation to a distribution
    over actions. `PolicyGradientProcessor.model_config` fills in what follows from the environment.

    Args:
        observation_size (`int`, *optional*, defaults to `4`):
            Numbers in one encoded observation.
        num_choices (`list[int]`, *optional*, defaults to `[2]`):
            Choices of each component of an action: one entry for `Discrete`, one a component for `MultiDiscrete`, none
            for `Box`, whose actions are drawn from a Gaussian with a learned standard deviation.
        action_size (`int`, *optional*, defaults to `2`):
            Outputs of the policy: the sum of `num_choices`, or the entries of a `Box` action.
        hidden_size (`int`, *optional*, defaults to `64`):
            Width of the hidden layers.
        num_hidden_layers (`int`, *optional*, defaults to `2`):
            Hidden layers of the policy, and of the baseline beside it.
        hidden_act (`str`, *optional*, defaults to `"tanh"`):
            Activation function, by its name in transformers.
        use_baseline (`bool`, *optional*, defaults to `True`):
            Whether a second network of the same shape learns the return to expect, which is taken off the return seen.
        entropy_coef (`float`, *optional*, defaults to `0.01`):
            Weight of the entropy bonus, in nats a step; 0 for none.
        baseline_coef (`float`, *optional*, defaults to `0.5`):
            Weight of the baseline's squared error, on returns that were normalised over the update.
        initial_log_std (`float`, *optional*, defaults to `-0.5`):
            First logarithm of the standard deviation of `Box` actions, in half widths of the action's bounds.
    """

    model_type = "policy_gradient"

    observation_size: int = 4
    num_choices: list[int] | None = None
    action_size: int = 2
    hidden_size: int = 64
    num_hidden_layers: int = 2
    hidden_act: str = "tanh"
    use_baseline: bool = True
    entropy_coef: float | int = 0.01
    baseline_coef: float | int = 0.5
    initial_log_std: float | int = -0.5

    def __post_init__(self, **kwargs) -> None:
        if self.num_choices is None:
            self.num_choices = [self.action_size]
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Runs when the configuration is made and when it is saved."""
        if self.num_choices and sum(self.num_choices) != self.action_size:
            raise ValueError(
                f"num_choices {self.num_choices} add up to {sum(self.num_choices)}, action_size is {self.action_size}: "
                "expected equal numbers (or an empty list for continuous actions)."
            )
