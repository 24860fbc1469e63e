"""The sizes of a policy network and the weights of its loss."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class PolicyConfig(PreTrainedConfig):
    r"""Configuration of a [`PolicyModel`], a multilayer perceptron from one observation to a distribution over actions.
    `PolicyProcessor.model_config` fills in what follows from the task.

    Args:
        observation_size (`int`, *optional*, defaults to `4`):
            Entries of an encoded observation.
        num_choices (`list[int]`, *optional*, defaults to `[action_size]`):
            Choices of each component of an action: one entry for `Discrete`, one a component for `MultiDiscrete`, none for
            `Box`, whose actions are Gaussian with a learned standard deviation.
        action_size (`int`, *optional*, defaults to `2`):
            Outputs of the network: the sum of `num_choices`, or the entries of a `Box` action.
        conditioned (`bool`, *optional*, defaults to `False`):
            Whether the network also reads a return, as one more input.
        hidden_size (`int`, *optional*, defaults to `128`):
            Width of the hidden layers.
        num_hidden_layers (`int`, *optional*, defaults to `2`):
            Number of hidden layers.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function, by its name in transformers.
        layer_norm (`bool`, *optional*, defaults to `True`):
            Whether each hidden layer is normalized before its activation.
        num_members (`int`, *optional*, defaults to `1`):
            Networks whose outputs are averaged. They differ in their initial weights, and each is trained on its own loss.
        entropy_coef (`float`, *optional*, defaults to `0.0`):
            Weight of the entropy bonus, in nats a step.
        initial_log_std (`float`, *optional*, defaults to `0.0`):
            Initial logarithm of the standard deviation of `Box` actions, in the units of encoded actions.
    """

    model_type = "policy"

    observation_size: int = 4
    num_choices: list[int] | None = None
    action_size: int = 2
    conditioned: bool = False
    hidden_size: int = 128
    num_hidden_layers: int = 2
    hidden_act: str = "relu"
    layer_norm: bool = True
    num_members: int = 1
    entropy_coef: float | int = 0.0
    initial_log_std: float | int = 0.0

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
        if self.num_members < 1:
            raise ValueError(f"num_members is {self.num_members}: expected at least 1 network.")


@strict
class PolicyGradientConfig(PolicyConfig):
    r"""Configuration of a [`PolicyGradientModel`]: smaller, without layer norm, and with a baseline.

    Args:
        use_baseline (`bool`, *optional*, defaults to `True`):
            Whether a second network of the same shape predicts the return, which is subtracted from the return achieved.
        baseline_coef (`float`, *optional*, defaults to `0.5`):
            Weight of the baseline's squared error, on returns normalized over the update.
        hidden_size (`int`, *optional*, defaults to `64`):
            As for [`PolicyConfig`].
        hidden_act (`str`, *optional*, defaults to `"tanh"`):
            As for [`PolicyConfig`].
        layer_norm (`bool`, *optional*, defaults to `False`):
            As for [`PolicyConfig`].
        entropy_coef (`float`, *optional*, defaults to `0.01`):
            As for [`PolicyConfig`].
        initial_log_std (`float`, *optional*, defaults to `-0.5`):
            As for [`PolicyConfig`].
        kwargs:
            The other fields of [`PolicyConfig`].
    """

    model_type = "policy_gradient"

    hidden_size: int = 64
    hidden_act: str = "tanh"
    layer_norm: bool = False
    entropy_coef: float | int = 0.01
    initial_log_std: float | int = -0.5
    use_baseline: bool = True
    baseline_coef: float | int = 0.5
