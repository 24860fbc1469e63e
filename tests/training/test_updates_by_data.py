"""The number of updates follows from the data where nobody asked for one."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_seqrl import Agent
from hf_seqrl.training.run import Judgement, train_agent


@pytest.mark.parametrize(("by_data", "updates"), [(True, 3), (False, 6)])
def test_the_updates_of_a_family_replace_those_that_nobody_asked_for(
    family, options, arguments, cartpole_dataset, by_data, updates
):
    def prepare(dataset, options):
        return replace(family.prepare(dataset, options), updates=(3, "there is little to learn"))

    training = arguments()
    train_agent(
        replace(family, prepare=prepare),
        cartpole_dataset,
        options,
        training,
        judgement=Judgement(num_episodes=0),
        updates_by_data=by_data,
    )
    record = Agent.from_pretrained(training.output_dir).run
    assert record.updates == updates
    assert ("3 updates: there is little to learn." in record.chosen) == by_data


def _episodes(count):
    generator = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "observations": [generator.normal(size=(5, 2)).tolist() for _ in range(count)],
            "actions": [generator.normal(size=(5, 1)).tolist() for _ in range(count)],
            "rewards": [generator.normal(size=5).tolist() for _ in range(count)],
            "dones": [[False] * 4 + [True]] * count,
        }
    )


@pytest.mark.parametrize(
    ("count", "changes", "updates"),
    [
        (40, {}, (2_500, "steps come as from 40 episodes")),
        (400, {}, None),
        (40, {"recipe": "paper"}, None),
        (400, {"best_fraction": 0.1}, (2_500, "steps come as from 40 episodes")),
    ],
)
def test_few_episodes_are_trained_on_for_fewer_updates(family, count, changes, updates):
    options = family.options_class(**{"env_id": None, "return_temperature": 0.0, **changes})
    assert family.prepare(_episodes(count), options).updates == updates
