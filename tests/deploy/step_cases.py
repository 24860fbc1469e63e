"""Small agents of every family and mode, by action and observation spaces, and an episode of them."""

import numpy as np
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from hf_seqrl import Agent
from hf_seqrl.data.composite_spaces import flat_actions, flat_values
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.spaces import step_shape
from hf_seqrl.models.registry import family_named
from hf_seqrl.models.step_graph import NEXT

STEPS, LIMIT = 40, 25  # of an episode, and the time limit of the data, which the episode passes
ACTIONS = {
    "box": Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 500.0], np.float32)),
    "wide": Box(-1e5, 3e5, (2,), np.float64),
    "whole": Box(0, 20, (2,), np.int64),
    "discrete": Discrete(4, start=1),
    "multi": MultiDiscrete([3, 2], start=[1, 0]),
    "hybrid": Tuple((Box(-1, 1, (1,), np.float32), Discrete(3), Box(0, 9, (1,), np.float32))),
}
OBSERVATIONS = {
    "vector": Box(-np.inf, np.inf, (3,), np.float32),
    "clock": Box(1.7e9, 1.8e9, (3,), np.float64),
    "state": Discrete(5),
    "dict": Dict(goal=Box(-1, 1, (2,), np.float32), mode=Discrete(2)),
    "image": Box(0, 255, (12, 12, 3), np.uint8),
}
WINDOW = {"context_length": 4, "hidden_size": 16, "n_layer": 2, "n_head": 2}
SEQ2SEQ = {"context_length": 4, "hidden_size": 16, "conditioning": "return"}
CASES = [
    ("decision-transformer", WINDOW, "box", "vector"),
    ("decision-transformer", WINDOW | {"context_length": 1}, "discrete", "clock"),
    ("decision-transformer", WINDOW | {"conditioning": "none"}, "wide", "vector"),
    ("decision-transformer", WINDOW | {"recipe": "weighted"}, "box", "dict"),
    ("decision-transformer", WINDOW, "hybrid", "vector"),
    ("decision-transformer", WINDOW, "box", "image"),
    ("decision-transformer", WINDOW | {"sliding": True}, "multi", "vector"),
    ("decision-transformer", WINDOW | {"sliding": True, "recipe": "weighted"}, "box", "vector"),
    ("trajectory-seq2seq", SEQ2SEQ | {"backbone": "gru"}, "box", "clock"),
    ("trajectory-seq2seq", SEQ2SEQ | {"backbone": "gru"}, "multi", "state"),
    ("trajectory-seq2seq", SEQ2SEQ | {"backbone": "transformer", "conditioning": "none"}, "whole", "vector"),
    ("trajectory-seq2seq", SEQ2SEQ | {"backbone": "transformer"}, "multi", "vector"),
    ("cloning", {"hidden_size": 16}, "whole", "vector"),
    ("cloning", {"hidden_size": 16, "conditioning": "return"}, "multi", "state"),
]


def data(actions, observations):
    """Random episodes."""
    rng = np.random.default_rng(0)
    rows = {"observations": [], "actions": [], "rewards": [], "terminations": [], "truncations": []}
    for space in (actions, observations):
        space.seed(0)
    for length in (LIMIT, 12, 9):
        seen = [observations.sample() for _ in range(length)]
        done = [actions.sample() for _ in range(length)]
        if isinstance(actions, Tuple):
            done = flat_actions(actions, tuple(np.stack([one[part] for one in done]) for part in range(3)))
        if isinstance(observations, Dict):
            columns = {name: np.stack([one[name] for one in seen]) for name in observations}
            seen = flat_values(observations, columns)
        elif isinstance(observations, Discrete):
            seen = flat_values(observations, np.array(seen))
        rows["observations"].append(np.asarray(seen).tolist())
        rows["actions"].append(np.asarray(done).tolist())
        rows["rewards"].append(rng.uniform(0, 20, length).tolist())
        rows["terminations"].append([False] * (length - 1) + [True])
        rows["truncations"].append([False] * length)
    composite = isinstance(observations, Dict | Discrete)
    flat = Box(-np.inf, np.inf, np.shape(rows["observations"][0][0]), np.float32)
    metadata = TrajectoryMetadata(
        observation_space=flat if composite else observations,
        source_observation_space=observations if composite else None,
        action_space=actions,
        max_episode_steps=LIMIT,
    )
    return with_metadata(Dataset.from_dict(rows), metadata)


def agent_of(family, options, actions, observations):
    """A small agent whose weights are far from zero, so that everything that goes in matters."""
    family = family_named(family)
    torch.manual_seed(0)
    prepared = family.prepare(data(ACTIONS[actions], OBSERVATIONS[observations]), family.options_class(**options))
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return Agent(prepared.model, prepared.processor)


def played(agent, step):
    """Actions of the agent and of `step(inputs)`, which gives outputs by name, over the same episode; every third action is
    overruled."""
    rng = np.random.default_rng(1)
    task = agent.processor.task
    space, target = task.observations, 150.0 if agent.is_conditioned else None
    agent.reset(1, target)
    to_go, last = target or 0.0, np.zeros(int(np.prod(step_shape(task.actions))))
    memory, pairs = {}, []
    actions = agent.processor.task.actions
    actions.seed(2)
    for timestep in range(STEPS):
        seen = rng.normal(size=space.shape) if space.dtype.kind == "f" and space.low.min() < 0 else _inside(space, rng)
        seen = np.asarray(seen, space.dtype)
        chosen = agent.act(seen[None])
        inputs = {
            "observation": seen[None].astype(np.float64),
            "last_action": last[None],
            "return_to_go": np.array([to_go]),
            "timestep": np.array([timestep]),
        }
        outputs = step(inputs | memory)
        memory = {name.removeprefix(NEXT): values for name, values in outputs.items() if name.startswith(NEXT)}
        pairs.append((np.ravel(chosen).astype(np.float64), outputs["action"][0]))
        executed, reward = chosen, rng.uniform(0, 20)
        if timestep % 3 == 0:
            sample = actions.sample()
            if isinstance(actions, Tuple):
                sample = flat_actions(actions, tuple(np.asarray(part)[None] for part in sample))[0]
            executed = np.asarray(sample)[None]
        agent.observe(np.array([reward]), np.array([False]), executed)
        last, to_go = np.ravel(executed).astype(np.float64), (to_go - reward) / agent.processor.discount
    return (np.stack(part) for part in zip(*pairs))


def _inside(space, rng):
    return rng.uniform(space.low, space.high)
