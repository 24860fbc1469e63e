"""A part of the fault campaign; `make test-faults` strikes at every write event."""

import pytest
from campaign import agents_of, campaign, collect_operation, convert_operation, save_operation, train_operation


@pytest.mark.parametrize("fault", ["kill", "disk full"])
@pytest.mark.parametrize(("name", "every"), [("save", 5), ("convert", 5), ("collect", 4), ("train", 40)])
def test_what_is_left_is_the_old_the_new_or_nothing(cartpole_dataset, fault, name, every):
    operation = {
        "save": lambda: save_operation(agents_of(cartpole_dataset)),
        "convert": lambda: convert_operation(agents_of(cartpole_dataset)),
        "collect": collect_operation,
        "train": lambda: train_operation(cartpole_dataset),
    }[name]()
    found = campaign(operation, fault, every)
    assert sum(found.values()) >= 2
    assert not [state for state in found if state.startswith("bad")]
