import pytest
from datasets import Dataset, load_from_disk

from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata

METADATA = TrajectoryMetadata(
    env_id="Hopper-v5",
    action_space={"type": "Box", "shape": [3], "dtype": "float32", "low": -1.0, "high": "inf"},
    reference_returns=(-20.3, 3234.3),
    max_episode_steps=1000,
    provenance={"policy": "random\n{}", "seed": 7},
)


@pytest.fixture
def dataset():
    return with_metadata(Dataset.from_dict({"rewards": [[1.0], [2.0], [3.0], [4.0]]}), METADATA)


def test_it_survives_what_people_do_to_data_sets(dataset, tmp_path):
    dataset.save_to_disk(tmp_path)
    parts = dataset.train_test_split(0.5, seed=0)
    for derived in (
        dataset.select([2, 0]),
        dataset.shuffle(seed=1),
        parts["train"],
        parts["test"],
        dataset.map(lambda row: row),
        dataset.with_format("numpy"),
        load_from_disk(tmp_path),
    ):
        assert metadata_of(derived) == METADATA


def test_a_data_set_without_it_has_empty_metadata():
    assert metadata_of(Dataset.from_dict({"rewards": [[1.0]]})) == TrajectoryMetadata()


def test_attaching_leaves_the_original_alone_and_shares_its_data():
    plain = Dataset.from_dict({"rewards": [[1.0]]})
    described = with_metadata(plain, METADATA)
    assert metadata_of(plain) == TrajectoryMetadata()
    assert described.data.table is plain.data.table


def test_a_description_in_words_is_kept(dataset):
    dataset.info.description = "Collected by hand.\n" + dataset.info.description
    changed = with_metadata(dataset, TrajectoryMetadata(env_id="CartPole-v1"))
    assert metadata_of(changed) == TrajectoryMetadata(env_id="CartPole-v1")
    assert changed.info.description.startswith("Collected by hand.\n")
    assert "Hopper" not in changed.info.description


def test_references_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"expected \(random, expert\)"):
        TrajectoryMetadata(reference_returns=(3234.3, -20.3))
