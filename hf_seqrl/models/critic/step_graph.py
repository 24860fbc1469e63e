"""A critic as a graph: the values of an observation and an action."""

from gymnasium.spaces import Box
from torch import Tensor, nn

from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticProcessor
from hf_seqrl.models.step_graph import ActionCodec, Standardized, StepGraph, step_inputs


def step_graph(model: CriticModel, processor: CriticProcessor) -> StepGraph:
    """See `ModelFamily.step_graph`. The action is an input, `action` `(1, entries)`; the outputs are `q_values`
    `(1, num_critics)` and, of implicit Q-learning, `state_value` `(1,)` and `advantage` `(1,)`, in discounted raw returns."""
    examples = step_inputs(processor, "observation", "last_action")
    inputs = {"observation": examples["observation"], "action": examples["last_action"]}
    outputs = ("q_values",) if model.v is None else ("q_values", "state_value", "advantage")
    return StepGraph(CriticStep(model, processor), inputs, outputs, "nothing: values belong to one step")


class CriticStep(nn.Module):
    """What the critic expects."""

    def __init__(self, model: CriticModel, processor: CriticProcessor) -> None:
        super().__init__()
        self.model = model
        self.actions = ActionCodec(processor)
        is_box = isinstance(processor.task.observations, Box)
        statistics = (processor.observation_mean, processor.observation_std) if is_box else (None, None)
        self.standardized = Standardized(*statistics)

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        """Of one step each."""
        states, actions = self.standardized(observation), self.actions.encode(action)
        q_values = self.model.q_values(states, actions)
        if self.model.v is None:
            return (q_values,)
        return q_values, self.model.state_values(states), self.model.advantages(states, actions)
