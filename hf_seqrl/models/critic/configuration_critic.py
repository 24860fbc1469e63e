"""The sizes of a critic and what it estimates."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CriticConfig(PreTrainedConfig):
    r"""Configuration of a [`CriticModel`]. `CriticProcessor.model_config` fills in what follows from the data.

    Args:
        method (`str`, *optional*, defaults to `"iql"`):
            `"iql"`: implicit Q-learning, of a policy that is better than the one behind the data; `"fqe"`: fitted Q evaluation,
            of a policy whose actions are given.
        observation_size (`int`, *optional*, defaults to `4`):
            Entries of an encoded observation.
        action_size (`int`, *optional*, defaults to `2`):
            Entries of an encoded action.
        hidden_size (`int`, *optional*, defaults to `128`):
            Width of the hidden layers.
        num_hidden_layers (`int`, *optional*, defaults to `2`):
            Number of hidden layers.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function, by its name in transformers.
        layer_norm (`bool`, *optional*, defaults to `True`):
            Whether each hidden layer is normalized before its activation.
        num_critics (`int`, *optional*, defaults to `2`):
            Q-networks that are trained beside each other.
        expectile (`float`, *optional*, defaults to `0.7`):
            Of the values of the data's actions that the state value stands for (`"iql"`): 0.5 is their mean, towards 1 their
            maximum.
        discount (`float`, *optional*, defaults to `0.99`):
            Weight of a reward one step later.
        target_update (`float`, *optional*, defaults to `0.05`):
            Share of the Q-networks that enters the target networks at each update. A reward travels one step back in about
            `1 / target_update` updates: training should last several times `1 / (target_update * (1 - discount))`.
        value_shift, value_scale (`float`, *optional*, default to 0 and 1):
            Values are `value_shift + value_scale * output`, in discounted raw returns.
        return_expectile (`float`, *optional*, defaults to `0.0`):
            Of the returns that the episodes of the data achieve from a state and a time on, which one more network learns; 0 for
            no such network.
        return_discount (`float`, *optional*, defaults to `1.0`):
            Of these returns.
        return_shift, return_scale (`float`, *optional*, default to 0 and 1):
            They are `return_shift + return_scale * output`, raw.
    """

    model_type = "critic"

    method: str = "iql"
    observation_size: int = 4
    action_size: int = 2
    hidden_size: int = 128
    num_hidden_layers: int = 2
    hidden_act: str = "relu"
    layer_norm: bool = True
    num_critics: int = 2
    expectile: float = 0.7
    discount: float | int = 0.99
    target_update: float | int = 0.05
    value_shift: float | int = 0.0
    value_scale: float | int = 1.0
    return_expectile: float | int = 0.0
    return_discount: float | int = 1.0
    return_shift: float | int = 0.0
    return_scale: float | int = 1.0

    def validate_ranges(self) -> None:
        """Runs when the configuration is made and when it is saved."""
        if self.method not in ("iql", "fqe"):
            raise ValueError(f"method is {self.method!r}: expected 'iql' or 'fqe'.")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile is {self.expectile}: expected a number between 0 and 1.")
        if not 0 <= self.return_expectile < 1:
            raise ValueError(f"return_expectile is {self.return_expectile}: expected a number >= 0 and below 1.")
        for name in ("discount", "return_discount"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a number between 0 and 1.")
        if self.num_critics < 1:
            raise ValueError(f"num_critics is {self.num_critics}: expected at least 1.")
