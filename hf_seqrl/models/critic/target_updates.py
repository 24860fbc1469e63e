"""When the target networks of a critic follow its Q-networks."""

from typing import Any

from transformers import TrainerCallback

from hf_seqrl.models.critic.modeling_critic import CriticModel


class TargetUpdateCallback(TrainerCallback):
    """Moves the target networks of a [`CriticModel`] after every update of its Q-networks."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: CriticModel, **kwargs: Any) -> None:
        model.update_targets()
