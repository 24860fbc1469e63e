"""A few episodes of an agent as one short text, by which two agents can be told apart.

Run as a program on the folder of an agent, it prints that text: the agent has then been loaded by a process that knows
nothing but the folder.
"""

import sys

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.hub.agent import Agent
from hf_seqrl.training.recipe import content_fingerprint

_EPISODES = 4


def replay_fingerprint(agent: Agent) -> str:
    """A hash of every observation, action and reward of a few seeded episodes: equal only if all actions are."""
    episodes = collect(agent, agent.env_id, num_episodes=_EPISODES, num_envs=_EPISODES, seed=0)
    return content_fingerprint(TrajectoryColumns(episodes))


if __name__ == "__main__":
    print(replay_fingerprint(Agent.from_pretrained(sys.argv[1])))
