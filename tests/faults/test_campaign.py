"""A part of the fault campaign; `make test-faults` strikes at every write event."""

import pytest
from campaign import campaign
from fault_operations import (
    agents_of,
    collect_operation,
    convert_operation,
    results_operation,
    save_operation,
)
from fault_runs import train_operation


@pytest.mark.parametrize(
    ("name", "fault", "every"),
    [
        ("save", "kill", 5),
        ("save", "full disk", 9),
        ("save", "I/O error", 9),
        ("convert", "kill", 9),
        ("collect", "kill", 4),
        ("collect", "Ctrl-C", 4),
        ("results", "kill", 9),
        ("train", "kill", 40),
        ("train", "Ctrl-C", 45),
    ],
)
def test_what_is_left_is_the_old_the_new_or_nothing(cartpole_dataset, name, fault, every):
    operation = {
        "save": lambda: save_operation(agents_of(cartpole_dataset)),
        "convert": lambda: convert_operation(agents_of(cartpole_dataset)),
        "collect": collect_operation,
        "results": lambda: results_operation(agents_of(cartpole_dataset), cartpole_dataset),
        "train": lambda: train_operation(cartpole_dataset),
    }[name]()
    found = campaign(operation, fault, every)
    assert sum(found.values()) >= 2
    assert not [state for state in found if state.startswith("bad")], found
