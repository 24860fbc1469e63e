"""The figures of the README, the pages and the notebooks are those of the records that they come from.

Nothing here knows a figure: a record that is made anew asks for new texts. A row marked with a dagger has no record.
"""

import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hf_seqrl import RolloutResult
from hf_seqrl.evaluation.results import bootstrap_interval
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.training.comparison import Comparison

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BICYCLE = json.loads((RESULTS / "bicycle_comparison.json").read_text())
UNRECORDED = "\N{DAGGER}"
COLUMNS_OF_GRIDS = {  # in the tables by grid: title and data of the recorded row
    "Decision Transformer": ("Decision Transformer", "random"),
    "Trajectory Transformer, planning": ("Trajectory Transformer, planning", "random"),
    "encoder-decoder": ("Encoder-decoder Transformer", "random"),
    "cloning": ("Behavior cloning", "random"),
    "cloning the best 10 %": ("Behavior cloning, best 10 %", "random"),
    "REINFORCE, its own episodes": ("REINFORCE", "own"),
}


@dataclass(frozen=True)
class Record:
    """Measured episodes: the data set, the target, and by the headers of our tables what they show."""

    data: str
    target: float | None
    figures: dict[str, float]
    interval: tuple[float, float]


def _record(data: str, target: float | None, figures: dict[str, float | None], interval: list[float]) -> Record:
    return Record(data, target, {name: value for name, value in figures.items() if value is not None}, tuple(interval))


def _of_cards() -> Iterator[Record]:
    for folder in sorted(path.parent for path in ROOT.glob("model_cards/*/evaluation.json")):
        evaluation = RolloutResult.load(folder / "evaluation.json")
        data = Path(RunRecord.load(folder / "training_run.json").data.get("name", evaluation.env_id)).name
        for part in evaluation.summary()["by_target"]:
            figures = {"mean return": part["mean_return"], "median": part["median_return"]}
            figures["score"] = part["normalized_score"]
            yield _record(data, part["target_return"], figures, part["confidence_interval"])


def _of_the_bicycle() -> Iterator[Record]:
    for row in BICYCLE:
        figures = {"mean return": row["mean_return"], "of the optimum": row["fraction_of_optimum"]}
        figures |= {"arrived": 100 * row["success_rate"], "training s": row["training_seconds"]}
        if row["starts"] == "anywhere":
            yield _record(f"bicycle, grid {row['grid']}", None, figures, row["confidence_interval"])


def _of_benchmarks() -> Iterator[Record]:
    """Lists of runs `{"data": ..., "method": ..., "returns": {target: [...]}}`: each, and all seeds of a method together."""
    for path in sorted(RESULTS.glob("*.json")):
        runs = json.loads(path.read_text())
        pooled = {}
        for run in runs if isinstance(runs, list) else []:
            for target, returns in run.get("returns", {}).items() if "data" in run else ():
                pooled.setdefault((run["data"], run.get("seed"), run.get("method"), target), []).extend(returns)
                pooled.setdefault((run["data"], "all seeds", run.get("method"), target), []).extend(returns)
        for (data, _, _, target), returns in pooled.items():
            values = np.array(returns)
            asked = None if target == "none" else float(target)
            yield _record(data, asked, {"mean return": float(values.mean())}, bootstrap_interval(values))


def _of_policies() -> Iterator[Record]:
    """`policy_quality.jsonl`: by data, method, options, first start and target each seed, and all together."""
    pooled = {}
    for run in map(json.loads, (RESULTS / "policy_quality.jsonl").read_text().splitlines()):
        what = run["data"], run["method"], json.dumps([run.get("options"), run.get("arguments")])
        for start, by_target in run["returns"].items():
            for target, returns in by_target.items():
                for seed in (run["seed"], "all seeds"):
                    pooled.setdefault((*what, seed, start, target), []).extend(returns)
    for (data, *_, target), returns in pooled.items():
        values = np.array(returns)
        asked = None if target == "none" else float(target)
        yield _record(data, asked, {"mean return": float(values.mean())}, bootstrap_interval(values))


def _of_comparisons() -> Iterator[Record]:
    """`compare_*.json`, written by `hf-seqrl compare`."""
    for path in sorted(RESULTS.glob("compare_*.json")):
        for method in Comparison.load(path).methods:
            figures = {"mean return": method.mean, "interquartile mean": method.interquartile[0]}
            yield _record("", None, figures | {"minutes a run": method.minutes}, method.interval)


RECORDS = [*_of_policies(), *_of_cards(), *_of_the_bicycle(), *_of_benchmarks(), *_of_comparisons()]


def _tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a page as rows by header; an empty cell of the first column repeats the one above."""
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines(True))
        first, found = "", []
        for cells in rows:
            first = cells[0] if cells[0] and not cells[0].startswith("the same") else first
            found.append(dict(zip(header, [first, *cells[1:]], strict=True)))
        yield found


def _named(row: dict[str, str], *names: str) -> str | None:
    return next((row[name] for name in row if name.split(" (")[0] in names), None)


def _is_quoted(text: str, value: float) -> bool:
    """Whether a cell shows a value, to as many digits as it has."""
    number = text.rstrip(" %").replace(",", "")
    decimals = len(number.partition(".")[2])
    return abs(float(number) - value) <= 0.5 * 10**-decimals + 1e-6


def _shows(row: dict[str, str], mean: str, target: float | None, record: Record) -> bool:
    data, interval = _named(row, "data", "environment"), row["95 % interval"]
    if data and not data.startswith(record.data.removesuffix("-v1")):
        return False
    if target is not None and record.target not in (None, target):
        return False
    low, high = record.interval
    if interval.startswith("within "):
        fits = max(high - float(mean), float(mean) - low) <= float(interval.removeprefix("within ")) + 0.05
    else:
        fits = all(_is_quoted(text, bound) for text, bound in zip(interval.split(" .. "), (low, high), strict=True))
    others = [name for name in record.figures if name != "mean return" and row.get(name)]
    return (
        fits
        and _is_quoted(mean, record.figures["mean return"])
        and all(_is_quoted(row[name], record.figures[name]) for name in others)
    )


def _measured_rows(page: Path) -> list[dict[str, str]]:
    return [
        row
        for table in _tables(page.read_text(encoding="utf-8"))
        for row in table
        if {"mean return", "95 % interval"} <= row.keys()
    ]


PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "hf_seqrl" / "models" / "trajectory_transformer" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_shows_a_record(page):
    rows = _measured_rows(page)
    assert rows
    missing = []
    for row in rows:
        if UNRECORDED in "".join(row.values()):
            continue
        means = re.sub(r" \(.*\)", "", row["mean return"]).split(", ")
        targets = re.findall(r"-?[\d.]+", _named(row, "target", "target return") or "") or [None]
        for mean, target in zip(means, targets, strict=True):
            asked = None if target is None else float(target)
            if not any(_shows(row, mean.strip(), asked, record) for record in RECORDS):
                missing.append(" | ".join(row.values()))
    assert missing == [], "no record under model_cards/ or benchmarks/results/ gives these rows"


def test_rows_without_a_record_are_the_same_on_both_pages():
    """The README repeats rows of docs/results.md; a dagger there is a dagger here."""
    marked = {row["mean return"] for row in _measured_rows(ROOT / "docs" / "results.md") if UNRECORDED in str(row)}
    means = {re.sub(r" \(.*\)| ?†", "", mean) for mean in marked}
    for row in _measured_rows(ROOT / "README.md"):
        if UNRECORDED in str(row):
            assert re.sub(r" ?†", "", row["mean return"]) in means, row


def test_the_table_of_the_bicycle_is_the_one_of_its_record():
    report = runpy.run_path(str(ROOT / "benchmarks" / "bicycle_report.py"))
    assert report["markdown_table"](BICYCLE) in (ROOT / "docs" / "bicycle.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_fractions_of_the_optimum_are_recorded(page):
    recorded = {
        (row["grid"], row["title"], row["data"]): row["fraction_of_optimum"]
        for row in BICYCLE
        if row["starts"] == "anywhere"
    }
    tables = [table for table in _tables((ROOT / page).read_text(encoding="utf-8")) if "grid" in table[0]]
    (table,) = tables
    assert len(table) >= 3
    for row in table:
        grid = int(row.pop("grid"))
        for header, cell in row.items():
            assert _is_quoted(cell, recorded[(grid, *COLUMNS_OF_GRIDS[header])]), (grid, header)


def test_the_quickstart_prints_the_table_of_the_readme():
    """`benchmarks/results/quickstart_evaluation.json` is `outputs/quickstart/agent/evaluation.json` after `make quickstart`."""
    recorded = RolloutResult.load(RESULTS / "quickstart_evaluation.json")
    (shown,) = re.findall(r"```text\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert shown == recorded.table()


def _numbers(text: str) -> set[str]:
    """Figures with decimals or four digits; links, code and counts are none, and commas part thousands."""
    prose = re.sub(r"```.*?```|\[[^\]]*\]\([^)]*\)|`[^`]*`|\(?\d{4}\)", " ", text, flags=re.DOTALL)
    prose = re.sub(r"(?<=\d),(?=\d{3})", "", prose)
    return set(re.findall(r"(?<![\w.])-?(?:\d+\.\d+|\d{4,})(?![\w.]*\w)(?!\s+(?:episodes|steps|updates))", prose))


@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_figures_in_the_prose_are_those_of_the_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "README.md":
        text = text.partition("## Results")[2].partition("Speed on one thread")[0]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("results.md", "bicycle.md"))
    assert _numbers(prose) <= _numbers(pages.replace("|", " "))


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_figures_in_a_notebooks_prose_are_its_own_or_recorded(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    own = json.dumps([[cell["outputs"], cell["source"]] for cell in cells if cell["cell_type"] == "code"])
    for number in sorted(set().union(*map(_numbers, texts))):
        recorded = any(_is_quoted(number, record.figures["mean return"]) for record in RECORDS)
        assert number in own.replace(",", "").replace("_", "") or recorded, number
