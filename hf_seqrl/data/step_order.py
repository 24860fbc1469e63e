"""What the steps of an episode are sorted by: numbers and times, also where a table holds them as text."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?\s?(Z|[+-]\d{2}:?\d{2})?)?")
_ZONE = re.compile(r"(Z|[+-]\d{2}:?\d{2})$")
_DATES = (
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d.%m.%y",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d %Y",
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")


def sort_keys(
    column: pa.ChunkedArray,
    name: str,
    time_format: str | None = None,
    places: Callable[[np.ndarray], str] = str,
) -> tuple[np.ndarray, str | None]:
    """A step column as numbers or `datetime64[ns]` that sort in the order of the steps `(rows,)`.

    Args:
        column: Numbers, times, or text that holds one of them; without missing values.
        name: For messages.
        time_format: How text is read, as in `datetime.strptime`; without it numbers and ISO dates are understood.
        places: Says rows in words, for messages.

    Returns:
        The keys, and how text was read where it was not stated.

    Raises:
        ValueError: the column holds something else, or text that can be read in several ways.

    Example:
        >>> sort_keys(pa.chunked_array([["8", "9", "10"]]), "t")[0]
        array([ 8,  9, 10])
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if time_format is not None and not pa.types.is_temporal(kind):
        words = np.asarray(column.cast(pa.string()).to_pylist(), dtype=object)
        return _formatted(words, name, time_format, places), None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_text(np.asarray([word.strip() for word in column.to_pylist()], dtype=object), name, places)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ns", getattr(kind, "tz", None))).to_numpy().astype("datetime64[ns]"), None
    if pa.types.is_temporal(kind):
        return pc.cast(column, pa.int32() if pa.types.is_time32(kind) else pa.int64()).to_numpy(), None
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ValueError(f"column {name!r}, which was named as step, holds {kind} values: expected numbers or times.")
    keys = column.to_numpy()
    wrong = np.flatnonzero(~np.isfinite(keys))
    if len(wrong):
        raise ValueError(
            f"column {name!r}, which was named as step, is {keys[wrong[0]]} at {places(wrong)}: expected finite numbers."
        )
    return keys.astype(np.int64) if keys.dtype.kind in "iu" and keys.dtype.itemsize < 8 else keys, None


def _of_text(words: np.ndarray, name: str, places: Callable[[np.ndarray], str]) -> tuple[np.ndarray, str]:
    numbers = _numbers(words)
    if numbers is not None:
        return numbers, "text that holds numbers, sorted as numbers"
    iso = np.array([bool(_ISO.fullmatch(word)) for word in words])
    if iso.all():
        return _iso(words, name), "text that holds ISO dates, sorted as dates"
    fitting = [form for form in _forms() if _fits(words, form)]
    if len(fitting) > 1:
        remedy = (
            f"they can be read as {' or as '.join(map(repr, fitting[:3]))}: state which, time_format={fitting[0]!r}"
        )
    elif fitting:
        remedy = f"give time_format={fitting[0]!r} if that is how they are written"
    else:
        odd = np.flatnonzero(~iso) if iso.any() else np.arange(len(words))
        remedy = f"expected numbers or ISO dates (2024-01-31 08:15); give time_format=, or a column of numbers; {places(odd)}"
    raise ValueError(
        f"column {name!r}, which was named as step, holds text such as {words[0]!r}, which would be sorted letter by letter: {remedy}."
    )


def _numbers(words: np.ndarray) -> np.ndarray | None:
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _iso(words: np.ndarray, name: str) -> np.ndarray:
    zoned = [bool(_ZONE.search(word[10:])) for word in words]
    if any(zoned) and not all(zoned):
        raise ValueError(
            f"column {name!r} holds times with a time zone, such as {words[zoned.index(True)]!r}, and without one, such as "
            f"{words[zoned.index(False)]!r}: expected one kind."
        )
    times = pd.to_datetime(pd.Series(words), format="ISO8601", utc=all(zoned))
    return (
        times.dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
        if all(zoned)
        else times.to_numpy().astype("datetime64[ns]")
    )


def _formatted(words: np.ndarray, name: str, form: str, places: Callable[[np.ndarray], str]) -> np.ndarray:
    times = pd.to_datetime(pd.Series(words), format=form, errors="coerce", utc="%z" in form)
    wrong = np.flatnonzero(times.isna().to_numpy())
    if len(wrong):
        raise ValueError(
            f"column {name!r} is {words[wrong[0]]!r} at {places(wrong)}: expected the time_format {form!r} in every row; {len(wrong)} "
            "rows have another."
        )
    if times.dt.tz is not None:
        times = times.dt.tz_localize(None)
    return times.to_numpy().astype("datetime64[ns]")


def _forms() -> Sequence[str]:
    return [*(date + time for date in _DATES for time in _TIMES), "%H:%M", "%H:%M:%S", "%H:%M:%S.%f"]


def _fits(words: np.ndarray, form: str) -> bool:
    sample = pd.Series(words[:1000])
    if pd.to_datetime(sample[:1], format=form, errors="coerce").isna().any():
        return False
    return not pd.to_datetime(pd.Series(words), format=form, errors="coerce").isna().any()
