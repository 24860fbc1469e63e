"""Seeded damage to the contents of files."""

import json

import numpy as np

VALUES = [
    None,
    True,
    -1,
    0,
    2,
    1e308,
    float("nan"),
    10**30,
    "",
    "x",
    "payload:x",
    "../x",
    [],
    [1],
    {},
    {"a": 1},
    [[[]]],
    "\x00",
]


def mutated(content: bytes, rng: np.random.Generator, at_ends: float = 0.0) -> bytes:
    """The bytes of a file with a flipped bit, a cut, a repeated or an inserted part.

    Args:
        content: Not empty.
        rng: Chooses the damage.
        at_ends: The share of cases in which it is near the beginning or the end, where many formats keep their structure.
    """
    changed = bytearray(content)
    place, length = int(rng.integers(len(changed))), int(rng.integers(1, 40))
    if rng.random() < at_ends:
        place = int(rng.integers(min(800, len(changed))))
        place = len(changed) - 1 - place if rng.random() < 0.5 else place
    kind = rng.integers(5)
    if kind == 0:
        changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        del changed[place : place + length]
    elif kind == 3:
        changed[place:place] = changed[place : place + length]
    else:
        changed[place : place + length] = rng.bytes(length)
    return bytes(changed)


def with_another_value(content: bytes, rng: np.random.Generator) -> bytes:
    """A JSON file in which one value, at any depth, is another one or is missing."""
    values = json.loads(content)
    part = values
    while True:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = keys[rng.integers(len(keys))]
        if isinstance(part[key], dict | list) and part[key] and rng.random() < 0.7:
            part = part[key]
            continue
        if rng.random() < 0.2:
            del part[key]
        else:
            part[key] = VALUES[rng.integers(len(VALUES))]
        return json.dumps(values).encode()
