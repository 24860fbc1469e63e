"""The table and the plot of `bicycle_comparison.py`, from the cells that it left; may be run again on its own.

python benchmarks/bicycle_report.py bicycle-comparison
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from gymnasium.utils import seeding

from hf_seqrl.envs.bicycle_optimum import optimal_return
from hf_seqrl.envs.bicycle_rules import BicycleConfig, draw_start
from hf_seqrl.evaluation.results import bootstrap_interval

EVALUATION_SEED = 10_000  # of the first episode of every evaluation
METHOD_ORDER = ("dt", "tt", "seq2seq", "bc", "bc10", "reinforce")
DATA_ORDER = ("random", "along", "mix", "own")
DATA_TITLES = {
    "random": "random policy",
    "along": "along a REINFORCE run",
    "mix": "half random, half along",
    "own": "its own episodes",
}
COLORS = {
    "dt": "#2f6fb5",
    "tt": "#c8372d",
    "seq2seq": "#e59f2b",
    "bc": "#9aa3ab",
    "bc10": "#5f6a72",
    "reinforce": "#3f9b5c",
}


def load_rows(cells: Path) -> list[dict[str, Any]]:
    """One row for each world, data set and method, the episodes of all its training seeds put together."""
    found = [json.loads(path.read_text()) for path in sorted(cells.glob("*.json"))]

    def key(cell: dict[str, Any]) -> tuple[Any, ...]:
        order = DATA_ORDER.index(cell["data"]), METHOD_ORDER.index(cell["method"])
        return (cell["starts"], cell["grid"], *order)

    return [_merged(list(group)) for _, group in groupby(sorted(found, key=key), key=key)]


def best_mean_return(grid: int, starts: str, num_episodes: int) -> float:
    """The mean return of the shortest rides from the very cells in which the episodes of an evaluation start."""
    config = BicycleConfig(grid, random_starts=starts == "anywhere")
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + num_episodes)
    cells = [draw_start(config, seeding.np_random(seed)[0]) for seed in seeds]
    return float(np.mean([optimal_return(config, cell) for cell in cells]))


def _merged(cells: list[dict[str, Any]]) -> dict[str, Any]:
    returns = np.concatenate([cell["returns"] for cell in cells])
    first = cells[0]
    optimum = best_mean_return(first["grid"], first["starts"], first["num_episodes"])
    return {
        **{name: first[name] for name in ("grid", "starts", "data", "method", "title")},
        "optimal_return": optimum,
        "seeds": sorted(cell["seed"] for cell in cells),
        "num_episodes": len(returns),
        "mean_return": float(returns.mean()),
        "confidence_interval": list(bootstrap_interval(returns)),
        "fraction_of_optimum": float(returns.mean() / optimum),
        "success_rate": float(np.mean([cell["success_rate"] for cell in cells])),
        "training_seconds": float(np.mean([cell["training_seconds"] for cell in cells])),
        "data_set": first.get("data_set"),
    }


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; returns in raw units, the interval is the bootstrap's 95 % over all episodes, the optimum
    the shortest rides from the cells where these episodes start."""
    lines = [
        "| grid | starts | data | method | mean return | 95 % interval | of the optimum | arrived | seeds x episodes | training s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["confidence_interval"]
        each = row["num_episodes"] // len(row["seeds"])
        lines.append(
            f"| {row['grid']} | {row['starts']} | {DATA_TITLES[row['data']]} | {row['title']} | "
            f"{row['mean_return']:.1f} | {low:.1f} .. {high:.1f} | {row['fraction_of_optimum']:.3f} | "
            f"{100 * row['success_rate']:.0f} % | {len(row['seeds'])} x {each} | {row['training_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each world: the fraction of the optimum, by data set and method, with its interval."""
    worlds = list(dict.fromkeys((row["starts"], row["grid"]) for row in rows))
    figure, axes = plt.subplots(1, len(worlds), figsize=(1.2 + 4.2 * len(worlds), 3.8), squeeze=False)
    for axis, (starts, grid) in zip(axes[0], worlds, strict=True):
        _draw_world(axis, [row for row in rows if (row["starts"], row["grid"]) == (starts, grid)])
        axis.set_title(f"grid {grid}, start {'anywhere' if starts == 'anywhere' else 'in the corner'}")
    axes[0][0].set_ylabel("mean return, fraction of the optimum")
    handles, labels = {}, {}
    for axis in axes[0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = list(handles)
    figure.legend([handles[label] for label in labels], labels, loc="lower center", ncol=3, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _draw_world(axis: plt.Axes, rows: list[dict[str, Any]]) -> None:
    data_sets = [name for name in DATA_ORDER if any(row["data"] == name for row in rows)]
    present = [name for name in METHOD_ORDER if any(row["method"] == name for row in rows)]
    width = 0.8 / max(1, len(present) - ("reinforce" in present))
    for row in rows:
        place = data_sets.index(row["data"])
        if row["method"] != "reinforce":
            place += (present.index(row["method"]) - (len(present) - 2) / 2) * width
        low, high = (bound / row["optimal_return"] for bound in row["confidence_interval"])
        height = row["fraction_of_optimum"]
        axis.bar(place, height, width * 0.92, color=COLORS[row["method"]], label=row["title"])
        axis.errorbar(place, height, [[height - low], [high - height]], color="#20242a", capsize=2, linewidth=1)
    axis.axhline(1.0, color="#20242a", linewidth=0.8, linestyle=":")
    axis.axhline(0.0, color="#20242a", linewidth=0.8)
    short = {"random": "random", "along": "along", "mix": "mix", "own": "own"}
    axis.set_xticks(range(len(data_sets)), [short[name] for name in data_sets])
    axis.spines[["top", "right"]].set_visible(False)


def write_report(folder: Path) -> str:
    """Write `bicycle_comparison.json`, `.md` and `.png` from all cells in `folder`; returns the table."""
    rows = load_rows(folder / "cells")
    (folder / "bicycle_comparison.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "bicycle_comparison.md").write_text(markdown_table(rows))
    draw(rows, folder / "bicycle_comparison.png")
    return markdown_table(rows)


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
