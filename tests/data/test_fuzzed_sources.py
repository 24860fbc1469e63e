"""Seeded mutations of the files of data sets: each is refused by a sentence, or gives trajectories that pass every check.

Values that are other values of the same kind cannot be told from sound ones, as these formats hold no checksums.
"""

import json
import os
import shutil
import warnings
from collections import Counter
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from mutations import mutated, with_another_value

from hf_seqrl import load_trajectories, save_trajectories, to_minari
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import returns_of_episodes

FEW = 60
MANY = int(os.environ.get("HF_SEQRL_FUZZ_CASES", 3_000))
COLUMNS = {"episode": "run", "observation": ["x", "y"], "action": "act", "reward": "reward"}


def _folder(dataset, place):
    save_trajectories(dataset, place)


def _parquet(dataset, place):
    place.mkdir()
    dataset.to_parquet(place / "0.parquet")
    (place / "episodes.json").write_text(json.dumps({"info": {"env": "CartPole-v1", "seed": 3}, "episodes": []}))


def _steps(dataset):
    columns = {name: np.concatenate([np.asarray(one) for one in dataset[name]]) for name in dataset.column_names}
    return columns, np.repeat(np.arange(len(dataset)), [len(one) for one in dataset["rewards"]])


def _npz(dataset, place):
    place.mkdir()
    columns, _ = _steps(dataset)
    np.savez(place / "0.npz", **columns)


def _hdf5(dataset, place):
    import h5py

    place.mkdir()
    columns, _ = _steps(dataset)
    columns["terminals"], columns["timeouts"] = columns.pop("terminations"), columns.pop("truncations")
    with h5py.File(place / "0.hdf5", "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, fletcher32=False)


def _csv(dataset, place):
    import pandas as pd

    place.mkdir()
    columns, episodes = _steps(dataset)
    x, y = columns["observations"][:, :2].T
    table = pd.DataFrame({"run": episodes, "x": x, "y": y, "act": columns["actions"], "reward": columns["rewards"]})
    table.to_csv(place / "0.csv", index=False)


def _minari(dataset, place):
    place.mkdir()
    with _minari_folder(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari misses facts about authors
        to_minari(dataset, "toys/fuzzed-v0", author="Ada")


def _minari_folder(place):
    return patch.dict(os.environ, MINARI_DATASETS_PATH=str(place))


WRITERS = {"folder": _folder, "parquet": _parquet, "npz": _npz, "hdf5": _hdf5, "csv": _csv, "minari": _minari}


def _with_other_metadata(content, rng):
    """`dataset_info.json` with a mutation in the metadata that its description holds as text."""
    info = json.loads(content)
    line = info["description"].splitlines()[-1].encode()
    other = with_another_value(line, rng) if rng.random() < 0.7 else mutated(line, rng, at_ends=0.6)
    return json.dumps(info | {"description": other.decode(errors="replace")}).encode()


def _source(kind, folder):
    if kind == "minari":
        return "minari://toys/fuzzed-v0"
    return str(folder) if kind in ("folder", "parquet") else str(next(folder.glob(f"*.{kind}")))


def load_and_use(kind, folder):
    """What every user does with a data set first."""
    with _minari_folder(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = load_trajectories(_source(kind, folder), **(COLUMNS if kind == "csv" else {}))
        columns = TrajectoryColumns.of(dataset)
        assert np.isfinite(returns_of_episodes(columns)).all()
        assert metadata_of(dataset).env_id in (None, "CartPole-v1") or ":" not in metadata_of(dataset).env_id
        assert columns.observations.take(np.arange(columns.episode_offsets[-1])).ndim == 2


def mutate(kind, folder, rng):
    """Change one of the files, whose name is returned."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size > 2 and path.suffix not in (".md", ".lock")
    )
    path = files[rng.integers(len(files))]
    change = partial(mutated, at_ends=0.6)
    if path.suffix == ".json" and rng.random() < 0.7:
        change = (
            _with_other_metadata if path.name == "dataset_info.json" and rng.random() < 0.6 else with_another_value
        )
    path.write_bytes(change(path.read_bytes(), rng))
    return path.name


def _fuzz(kind, dataset, place, number, seed):
    rng, found, wrong = np.random.default_rng(seed), Counter(), []
    WRITERS[kind](dataset, place / "sound")
    load_and_use(kind, place / "sound")
    for case in range(number):
        shutil.copytree(place / "sound", place / "mutated")
        name = mutate(kind, place / "mutated", rng)
        try:
            load_and_use(kind, place / "mutated")
            found["sound"] += 1
        except (ValueError, OSError):
            found["refused"] += 1
        except Exception as error:  # whatever it is, it is a finding
            wrong.append(f"{case}: {name}: {error!r}")
        shutil.rmtree(place / "mutated")
    return found, wrong


@pytest.fixture(autouse=True)
def with_minari(request):
    if "kind" in request.fixturenames and request.getfixturevalue("kind") == "minari":
        pytest.importorskip("minari")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_mutated_data_set_is_refused_or_sound(cartpole_dataset, tmp_path, kind):
    found, wrong = _fuzz(kind, cartpole_dataset.select(range(4)), tmp_path, FEW, 1)
    assert found["refused"] > FEW / 5 and not wrong, wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_many_mutated_data_sets_are_refused_or_sound(cartpole_dataset, tmp_path, kind):
    found, wrong = _fuzz(kind, cartpole_dataset.select(range(4)), tmp_path, MANY // len(WRITERS), 2)
    print(f"{kind}: {dict(found)}, {len(wrong)} wrong loads")
    assert not wrong, wrong
