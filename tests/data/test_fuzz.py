"""Every source against what was put into it: it comes out the same, or an error says what is wrong.

Each case draws episodes, writes them into one of the sources with peculiarities that people's files have, and sometimes spoils
one value. What was drawn is the oracle; nothing of the package is used to make the files. `HF_SEQRL_FUZZ_CASES` sets how many
cases the slow test tries, `HF_SEQRL_FUZZ_FIRST` the seed of the first.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from gymnasium.spaces import Box, Discrete

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns

FEW = 300
MANY = int(os.environ.get("HF_SEQRL_FUZZ_CASES", 10_000))
FIRST = int(os.environ.get("HF_SEQRL_FUZZ_FIRST", 0))


@dataclass
class Case:
    """Episodes, and what has been done to them on the way into a source."""

    rng: np.random.Generator
    folder: object
    episodes: list = field(default_factory=list)
    discrete: bool = False
    spoiled: str | None = None
    options: dict = field(default_factory=dict)
    said: list = field(default_factory=list)

    def chance(self, probability=0.5):
        return self.rng.random() < probability

    def one_of(self, *choices):
        chosen = choices[self.rng.integers(len(choices))]
        self.said.append(str(chosen))
        return chosen


def draw(case):
    """A few episodes of different lengths."""
    rng, case.discrete = case.rng, case.chance()
    width = int(rng.integers(1, 4))
    for _ in range(rng.integers(1, 5)):
        length = int(rng.integers(2, 9))
        ended = np.zeros(length, bool)
        ended[-1] = case.chance()
        case.episodes.append(
            {
                "observations": np.round(rng.normal(size=(length, width)) * 10.0 ** rng.integers(-2, 4), 3),
                "actions": rng.integers(0, 4, length)
                if case.discrete
                else np.round(rng.uniform(-1, 1, (length, 2)), 3),
                "rewards": np.round(rng.normal(size=length) * 10, 2),
                "terminations": ended,
                "truncations": ~ended & (np.arange(length) == length - 1),
            }
        )
    if case.discrete:
        case.options["action_space"] = Discrete(4)


def steps_of(case):
    return {name: np.concatenate([episode[name] for episode in case.episodes]) for name in case.episodes[0]}


def peculiar_flags(case, values):
    return {
        "bool": lambda: values,
        "int": lambda: values.astype(int),
        "float": lambda: values.astype(float),
        "column": lambda: values[:, None],
        "text": lambda: np.where(values, "True", "False"),
        "lower": lambda: np.where(values, "true", "false"),
    }[case.one_of("bool", "int", "float", "column", "text", "lower")]()


def peculiar_actions(case, values):
    if not case.discrete:
        return {
            "plain": lambda: values,
            "double": lambda: values.astype(np.float64),
            "fortran": lambda: np.asfortranarray(values),
            "objects": lambda: values.astype(object),
        }[case.one_of("plain", "double", "fortran", "objects")]()
    return {
        "codes": lambda: values,
        "small": lambda: values.astype(np.int8),
        "column": lambda: values[:, None],
        "floats": lambda: values.astype(float),
        "one-hot": lambda: np.eye(4)[values],
        "one-hot integers": lambda: np.eye(4, dtype=int)[values],
    }[case.one_of("codes", "small", "column", "floats", "one-hot", "one-hot integers")]()


def peculiar(case, steps):
    """Arrays as people have them."""
    steps = dict(steps)
    steps["actions"] = peculiar_actions(case, steps["actions"])
    for name in ("terminations", "truncations"):
        steps[name] = peculiar_flags(case, steps[name])
    if case.chance():
        steps["rewards"] = case.one_of(steps["rewards"][:, None], steps["rewards"].astype(object))
    if case.chance(0.3):
        steps["observations"] = np.asfortranarray(steps["observations"])
    return spoiled_arrays(case, steps)


def spoiled_arrays(case, steps):
    """One thing that is wrong, in a fifth of all cases."""
    if not case.chance(0.2):
        return steps
    count = len(steps["rewards"])
    row = int(case.rng.integers(count))
    case.spoiled = case.one_of("nan", "infinite", "short", "flag", "action", "text")
    if case.spoiled in ("nan", "infinite"):
        values = steps["observations"].copy()
        values[row, -1] = np.nan if case.spoiled == "nan" else np.inf
        steps["observations"] = values
    elif case.spoiled == "short":
        name = case.one_of("observations", "rewards", "actions", "terminations")
        steps[name] = steps[name][:-1]
    elif case.spoiled == "flag":
        values = np.zeros(count)
        values[row] = 0.5
        steps["terminations"] = values
    elif case.spoiled == "action":
        if case.discrete:
            steps["actions"] = np.where(np.arange(count) == row, 7, 0)
        else:
            case.options["action_space"] = Box(-1, 1, (2,))
            values = np.zeros((count, 2))
            values[row] = 3.0
            steps["actions"] = values
    else:
        values = steps["rewards"].reshape(count).astype(object)
        values[row] = "n/a"
        steps["rewards"] = values
    return steps


# Sources of arrays


def with_final_observations(case, steps):
    """One observation more in each episode, which has to be stated."""
    if not case.chance(0.2) or case.spoiled or len(steps["observations"]) != sum(map(len_of, case.episodes)):
        return steps
    case.options["final_observations"] = "drop"
    ends = np.cumsum([len_of(episode) for episode in case.episodes])
    return {**steps, "observations": np.insert(steps["observations"], ends, 7.0, axis=0)}


def len_of(episode):
    return len(episode["rewards"])


def as_steps(case):
    steps = with_final_observations(case, peculiar(case, steps_of(case)))
    if case.chance():
        steps = {
            {"terminations": "terminals", "truncations": "timeouts"}.get(name, name): v for name, v in steps.items()
        }
    if case.one_of("memory", "archive") == "archive" and all(values.dtype != object for values in steps.values()):
        np.savez(case.folder / "data.npz", **steps)
        return case.folder / "data.npz"
    return steps


def as_episodes(case):
    bounds = np.cumsum([0, *(len(episode["rewards"]) for episode in case.episodes)])
    steps = peculiar(case, steps_of(case))
    parts = [{name: values[first:end] for name, values in steps.items()} for first, end in pairwise(bounds)]
    if case.chance():
        return parts
    return {name: [part[name] for part in parts] for name in parts[0]}


def as_hdf5(case):
    h5py = pytest.importorskip("h5py")
    steps = peculiar(case, steps_of(case))
    path = case.folder / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in steps.items():
            if values.dtype.kind in "UO":
                try:
                    values = values.astype(float)
                except ValueError:
                    values = values.astype(str).astype(bytes)
            file[{"terminations": "terminals", "truncations": "timeouts"}.get(name, name)] = values
    return path


def as_vector_environments(case):
    length = len(case.episodes[0]["rewards"])
    case.episodes = [
        {name: values[:length] for name, values in episode.items()}
        for episode in case.episodes
        if len(episode["rewards"]) >= length
    ]
    for episode in case.episodes:
        episode["truncations"] = ~episode["terminations"] & (np.arange(length) == length - 1)
    axis = case.one_of("time_env", "env_time")
    case.options["layout"] = axis
    stacked = {name: np.stack([episode[name] for episode in case.episodes]) for name in case.episodes[0]}
    return {name: values.swapaxes(0, 1) if axis == "time_env" else values for name, values in stacked.items()}


def as_rows(case):
    """A data set with one row an episode."""
    rows = {name: [episode[name].tolist() for episode in case.episodes] for name in case.episodes[0]}
    spoil_rows(case, rows)
    kind = case.one_of("dataset", "parquet", "saved", "frame", "renamed")
    if kind == "renamed":
        case.options |= {"observation": "state", "reward": "gain"}
        rows = {{"observations": "state", "rewards": "gain"}.get(name, name): values for name, values in rows.items()}
    if kind == "frame":
        return pd.DataFrame(rows)
    dataset = Dataset.from_dict(rows)
    if kind == "saved":
        dataset.save_to_disk(case.folder / "saved")
        return case.folder / "saved"
    if kind == "parquet":
        dataset.to_parquet(case.folder / "rows.parquet")
        return case.folder / "rows.parquet"
    return dataset


def spoil_rows(case, rows):
    if not case.chance(0.2):
        return
    episode = int(case.rng.integers(len(rows["rewards"])))
    case.spoiled = case.one_of("nan reward", "early end", "ragged", "unequal")
    if case.spoiled == "nan reward":
        rows["rewards"][episode][0] = float("nan")
    elif case.spoiled == "early end":
        rows["terminations"][episode][0] = True
    elif case.spoiled == "ragged":
        rows["observations"][episode][0] = rows["observations"][episode][0] + [1.0]
    else:
        rows["actions"][episode].pop()


# Sources of tables


def as_table(case):
    frame = frame_of(case)
    spoil_table(case, frame)
    frame = frame.drop(columns=[name for name in frame if name.startswith("_")])
    write = {
        "frame": lambda: frame,
        "csv": lambda: written(case, frame, "log.csv"),
        "gz": lambda: written(case, frame, "log.csv.gz"),
        "tsv": lambda: written(case, frame, "log.tsv", sep="\t"),
        "semicolons": lambda: written(case, frame, "log.csv", sep=";", decimal=","),
        "lines": lambda: lines(case, frame),
        "parquet": lambda: parquet(case, frame),
        "dataset": lambda: Dataset.from_pandas(frame, preserve_index=False),
        "parts": lambda: parts(case, frame),
    }
    return write[case.one_of(*write)]()


def frame_of(case):
    """One row a step, perhaps shuffled, with steps of several kinds."""
    steps = steps_of(case)
    lengths = [len(episode["rewards"]) for episode in case.episodes]
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    within = np.concatenate([np.arange(length) for length in lengths])
    frame = pd.DataFrame({f"x{i}": column for i, column in enumerate(steps["observations"].T)})
    case.options |= {"episode": "run", "observation": list(frame.columns), "reward": "r", "termination": "done"}
    labels = {"numbers": numbers, "names": [f"run {n}" for n in numbers], "floats": numbers.astype(float)}
    frame["run"] = labels[case.one_of(*labels)]
    if case.discrete:
        frame["a"] = steps["actions"].astype(case.one_of("int64", "float64"))
        case.options["action"] = "a"
    else:
        frame["a0"], frame["a1"] = steps["actions"].T
        case.options["action"] = ["a0", "a1"]
    frame["r"] = steps["rewards"]
    frame["done"] = peculiar_flags(case, steps["terminations"]).reshape(-1)
    days = pd.Timestamp("2023-12-30") + pd.to_timedelta(within, unit="D")
    kinds = {
        "counted": within,
        "text": [str(step + 7) for step in within],
        "iso": [day.strftime("%Y-%m-%d") for day in days],
        "zoned": [day.strftime("%Y-%m-%dT%H:%M:%S+02:00") for day in days],
        "stated": [day.strftime("%d.%m.%Y") for day in days],
        "times": days,
        "none": None,
    }
    kind = case.one_of(*kinds)
    if kinds[kind] is not None:
        frame["t"], case.options["step"] = kinds[kind], "t"
        if kind == "stated":
            case.options["time_format"] = "%d.%m.%Y"
        frame["_first"] = numbers
        order = case.rng.permutation(len(frame))
        frame = frame.iloc[order]
        firsts = pd.unique(frame["_first"])  # episodes come in the order of their first rows
        case.episodes = [case.episodes[number] for number in firsts]
    return frame.reset_index(drop=True)


def spoil_table(case, frame):
    if not case.chance(0.2):
        return
    row = int(case.rng.integers(len(frame)))
    kinds = ["missing value", "missing episode", "flag", "text"] + (["twice", "missing step"] if "t" in frame else [])
    case.spoiled = case.one_of(*kinds)
    if case.spoiled == "missing value":
        frame.loc[row, "r"] = np.nan
    elif case.spoiled == "missing episode":
        frame["run"] = frame["run"].astype(object)
        frame.loc[row, "run"] = None
    elif case.spoiled == "missing step":
        frame["t"] = frame["t"].astype(object)
        frame.loc[row, "t"] = None
    elif case.spoiled == "flag":
        frame["done"] = 0.0
        frame.loc[row, "done"] = 0.5
    elif case.spoiled == "text":
        frame["r"] = frame["r"].astype(object)
        frame.loc[row, "r"] = "broken"
        frame["r"] = frame["r"].astype(str)
    else:
        mates = np.flatnonzero(frame["run"] == frame["run"][row])
        other = int(next(mate for mate in mates if mate != row))
        frame.loc[row, "t"] = frame["t"][other]


def written(case, frame, name, **options):
    frame.to_csv(case.folder / name, index=False, **options)
    return case.folder / name


def lines(case, frame):
    frame.to_json(case.folder / "log.jsonl", orient="records", lines=True, date_format="iso", double_precision=15)
    return case.folder / "log.jsonl"


def parquet(case, frame):
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), case.folder / "log.parquet", row_group_size=3)
    return str(case.folder / "log.parquet")


def parts(case, frame):
    """A folder of numbered files, more than nine of them where there are rows enough."""
    folder = case.folder / "parts"
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), min(len(frame), 12))):
        frame.iloc[rows].to_parquet(folder / f"part-{number}.parquet")
    case.options["files"] = "continue"
    return folder


# Sources of other libraries


def as_minari(case):
    """Minari's own writer, which keeps the observation after the last action."""
    minari = pytest.importorskip("minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    width = case.episodes[0]["observations"].shape[1]
    bounds = Box(-np.inf, np.inf, (width,), np.float64)
    buffers = []
    for episode in case.episodes:
        final = case.rng.normal(size=(1, width))
        buffers.append(
            EpisodeBuffer(
                observations=np.concatenate([episode["observations"], final]),
                actions=episode["actions"] if case.discrete else episode["actions"].astype(np.float32),
                rewards=episode["rewards"],
                terminations=episode["terminations"],
                truncations=episode["truncations"],
            )
        )
    stored = minari.create_dataset_from_buffers(
        f"fuzz/case{case.folder.name}-v0",
        buffers,
        observation_space=bounds,
        action_space=Discrete(4) if case.discrete else Box(-1, 1, (2,)),
    )
    return stored if case.one_of("object", "id") == "object" else f"minari://{stored.spec.dataset_id}"


def as_load_dataset(case):
    """A folder as people upload it to the Hub, opened by `datasets.load_dataset`, whole or streamed."""
    rows = {name: [episode[name].tolist() for episode in case.episodes] for name in case.episodes[0]}
    spoil_rows(case, rows)
    folder = case.folder / "repository"
    (folder / "data").mkdir(parents=True)
    count = case.one_of(1, min(2, len(case.episodes)))
    dataset = Dataset.from_dict(rows)
    for number in range(count):
        shard = dataset.shard(count, number, contiguous=True)
        shard.to_parquet(folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet")
    kind = case.one_of("folder", "splits", "streamed")
    if kind == "folder":
        return folder
    opened = load_dataset(str(folder), cache_dir=str(case.folder / "cache"), streaming=kind == "streamed")
    return opened["train"] if kind == "streamed" else opened


# Trying


SOURCES = [
    as_steps,
    as_episodes,
    as_hdf5,
    as_vector_environments,
    as_rows,
    as_table,
    as_table,
    as_minari,
    as_load_dataset,
]


def equals(dataset, case):
    """Whether the data set holds exactly the episodes that were drawn."""
    columns = TrajectoryColumns(dataset)
    everything = np.arange(columns.num_steps)
    if np.diff(columns.episode_offsets).tolist() != [len(episode["rewards"]) for episode in case.episodes]:
        return False
    for name, expected in steps_of(case).items():
        found = getattr(columns, name).take(everything)
        if found.shape != expected.shape or not np.array_equal(found, expected.astype(found.dtype)):
            return False
    return True


def try_one(seed, folder):
    """`"right"`, `"refused"` (a spoiled one), or `"wrong"` and `"refused though sound"`, with what was done."""
    case = Case(np.random.default_rng(seed), folder)
    draw(case)
    write = case.one_of(*SOURCES)
    source = write(case)
    try:
        dataset = load_trajectories(source, **case.options)
    except ValueError as error:
        outcome = "refused" if case.spoiled and len(str(error)) > 20 else "refused though sound"
        return outcome, f"{case.said} {error}"
    if case.spoiled is None and equals(dataset, case):
        return "right", ""
    return "wrong", f"{case.said}"


def fuzz(count, tmp_path, capsys, first=0):
    outcomes, failures = Counter(), []
    for seed in range(first, first + count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, what = try_one(seed, folder)
        shutil.rmtree(folder)
        outcomes[outcome] += 1
        if outcome not in ("right", "refused"):
            failures.append(f"seed {seed}: {outcome}: {what}")
    with capsys.disabled():
        print(
            f"\n{count} sources tried: {outcomes['right']} loaded right, {outcomes['refused']} refused, "
            f"{outcomes['refused though sound']} refused though sound, {outcomes['wrong']} loaded wrong"
        )
    assert not failures, "\n".join(failures[:10])
    assert outcomes["right"] > count / 2 and outcomes["refused"] > count / 20


@pytest.fixture(autouse=True)
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.mark.filterwarnings("ignore")
def test_what_was_put_in_comes_out_or_is_refused(tmp_path, capsys):
    fuzz(FEW, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_was_put_in_comes_out_or_is_refused_thousands_of_times(tmp_path, capsys):
    fuzz(MANY, tmp_path, capsys, FIRST)
