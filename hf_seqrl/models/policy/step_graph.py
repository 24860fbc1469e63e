"""A policy network's step as a graph: the mode of the policy at one observation."""

from gymnasium.spaces import Box
from torch import Tensor, nn

from hf_seqrl.models.policy.modeling_policy import PolicyModel
from hf_seqrl.models.policy.processing_policy import OBSERVATION_CLIP, PolicyProcessor
from hf_seqrl.models.step_graph import ActionCodec, ReturnReader, Standardized, StepGraph, step_inputs


def step_graph(model: PolicyModel, processor: PolicyProcessor) -> StepGraph:
    """See `ModelFamily.step_graph`."""
    returns = ["return_to_go", "timestep"] if processor.is_conditioned else []
    inputs = step_inputs(processor, "observation", *returns)
    return StepGraph.acting(PolicyStep(model, processor), inputs, {}, "nothing but the current observation")


class PolicyStep(nn.Module):
    """The likeliest choices, or the mean of the Gaussian."""

    def __init__(self, model: PolicyModel, processor: PolicyProcessor) -> None:
        super().__init__()
        self.model = model
        self.actions = ActionCodec(processor)
        self.returns = ReturnReader(processor)
        if processor.observation_mean is None or not isinstance(processor.task.observations, Box):
            self.standardized = Standardized(None, None)
        else:
            self.standardized = Standardized(processor.observation_mean, processor.observation_std, OBSERVATION_CLIP)

    def forward(
        self, observation: Tensor, return_to_go: Tensor | None = None, timestep: Tensor | None = None
    ) -> tuple[Tensor]:
        """The inputs of a step; the last two where the policy is conditioned."""
        asked = None if return_to_go is None else self.returns(return_to_go, timestep)
        return (self.actions.decode(self.model.logits(self.standardized(observation), asked)),)
