"""One step as a module of tensors: over whole episodes, the actions are those of the family's actor."""

import numpy as np
import pytest
import torch
from step_cases import ACTIONS, CASES, OBSERVATIONS, WINDOW, agent_of, data, played

from hf_seqrl import Agent
from hf_seqrl.models.registry import family_named
from hf_seqrl.models.step_graph import MEMORY


def eager(graph):
    """The module itself as the `step` of `played`."""
    zeros = {name: example for name, example in graph.inputs.items() if name.startswith(MEMORY)}

    @torch.no_grad()
    def step(inputs):
        given = zeros | {name: torch.from_numpy(values) for name, values in inputs.items()}
        outputs = graph.module(*[given[name] for name in graph.inputs])
        return {name: values.numpy() for name, values in zip(graph.outputs, outputs, strict=True)}

    return step


@pytest.mark.parametrize(("family", "options", "actions", "observations"), CASES)
def test_a_graph_acts_as_the_agent_does(family, options, actions, observations):
    agent = agent_of(family, options, actions, observations)
    graph = agent.family.step_graph(agent.model.eval(), agent.processor)
    expected, found = played(agent, eager(graph))
    assert len(np.unique(expected.round(4), axis=0)) > 1
    choices = agent.processor.task.actions.dtype
    if choices is not None and choices.kind == "i":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize(("family", "options", "actions", "observations"), CASES)
def test_a_compiled_agent_acts_as_the_agent_does(family, options, actions, observations):
    torch.compiler.reset()
    agent = agent_of(family, options, actions, observations)
    compiled = Agent(agent.model, agent.processor, compile="eager").actor
    compiled.reset(1, 150.0 if agent.is_conditioned else None)

    def step(inputs):
        if inputs["timestep"]:
            compiled.observe(np.zeros(1), np.zeros(1, bool), inputs["last_action"].reshape(compiled._chosen.shape))
            compiled._returns_to_go[:] = inputs["return_to_go"]
        seen = inputs["observation"].astype(agent.processor.task.observations.dtype)
        return {"action": compiled.act(seen).reshape(1, -1)}

    expected, found = played(agent, step)
    if agent.processor.task.actions.dtype is not None and agent.processor.task.actions.dtype.kind == "i":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("method", ["iql", "fqe"])
def test_a_critic_values_as_the_model_does(method):
    family = family_named("critic")
    dataset = data(ACTIONS["box"], OBSERVATIONS["vector"])
    processor = family.processor_class.from_dataset(dataset)
    model = family.model_class(processor.model_config(hidden_size=16, method=method)).eval()
    graph = family.step_graph(model, processor)
    seen, done = np.array([[0.5, -1.0, 2.0]]), np.array([[1.5, 100.0]])
    outputs = dict(zip(graph.outputs, graph.module(torch.from_numpy(seen), torch.from_numpy(done)), strict=True))
    encoded = (torch.from_numpy(processor.encode_observations(seen)), torch.from_numpy(processor.encode_actions(done)))
    torch.testing.assert_close(outputs["q_values"], model.q_values(*encoded))
    if method == "iql":
        torch.testing.assert_close(outputs["state_value"], model.state_values(encoded[0]))
        torch.testing.assert_close(outputs["advantage"], model.advantages(*encoded))


def test_other_backbones_are_refused():
    agent = agent_of("decision-transformer", WINDOW | {"backbone": "llama"}, "discrete", "vector")
    with pytest.raises(ValueError, match="'llama': only a model with its own encoder"):
        agent.family.step_graph(agent.model, agent.processor)
