"""A rollout's result as a table, in text and in HTML."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_seqrl.evaluation.result import RolloutResult


def text_table(result: "RolloutResult") -> str:
    """One line a target: the return that was asked for, the mean that was achieved, its 95 % bootstrap interval, the spread,
    the episodes and the seeds; the normalised score where it is known."""
    return aligned_text(_rows(result))


def html_table(result: "RolloutResult") -> str:
    """The same table for notebooks."""
    header, *rows = _rows(result)
    lines = ["".join(f"<th>{cell}</th>" for cell in header)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def _rows(result: "RolloutResult") -> list[list[str]]:
    summary = result.summary()
    scored = summary["normalized_score"] is not None
    header = ["target", "mean return", "95 % interval", "std", "median", "min", "max", "steps", "episodes", "seeds"]
    rows = [_cells(row, scored) for row in summary["by_target"]]
    return [header[:3] + (["score"] if scored else []) + header[3:], *rows]


def _cells(row: dict[str, Any], scored: bool) -> list[str]:
    interval, seeds = row["confidence_interval"], row["seeds"]
    numbers = [
        f"{row[name]:.1f}" for name in ("std_return", "median_return", "min_return", "max_return", "mean_length")
    ]
    return [
        "-" if row["target_return"] is None else f"{row['target_return']:g}",
        f"{row['mean_return']:.1f}",
        f"{interval[0]:.1f} .. {interval[1]:.1f}" if interval else "-",
        *([f"{row['normalized_score']:.1f}"] if scored else []),
        *numbers,
        str(row["num_episodes"]),
        f"{seeds[0]}-{seeds[1]}" if seeds else "-",
    ]


def aligned_text(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as lines of columns that end at the same place."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
