"""Seeded mutations of the saved state of a stream: each is refused by a sentence, or the stream goes on."""

from collections import Counter

import numpy as np

from hf_seqrl import Controller


def test_a_mutated_state_is_refused_or_goes_on(tiny_agent, tmp_path):
    rng, found = np.random.default_rng(0), Counter()
    controller = Controller(tiny_agent)
    controller.begin(target_return=30.0)
    controller.step([0.0] * 4)
    content = controller.save(tmp_path / "sound.safetensors").read_bytes()
    for case in range(100):
        mutated = bytearray(content)
        place = int(rng.integers(min(900, len(content)) if case % 2 else len(content)))
        kind = rng.integers(3)
        if kind == 0:
            mutated[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del mutated[place:]
        else:
            mutated[place : place + 9] = rng.bytes(9)
        (tmp_path / "mutated.safetensors").write_bytes(mutated)
        controller = Controller(tiny_agent)
        try:
            controller.load(tmp_path / "mutated.safetensors")
            controller.step([0.0] * 4)
            found["goes on"] += 1
        except (ValueError, OSError):
            found["refused"] += 1
    assert found["refused"] > 50 and sum(found.values()) == 100
