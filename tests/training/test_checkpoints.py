import json

from hf_seqrl.training.checkpoints import checkpoints, last_complete_checkpoint


def _checkpoint(folder, step, state=None):
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    if state is not None:
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state)


def test_the_newest_is_found_by_number_not_by_name(tmp_path):
    for step in (900, 1000, 20):
        _checkpoint(tmp_path, step, json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-900", "checkpoint-1000"]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1000"


def test_half_written_checkpoints_are_passed_over(tmp_path):
    _checkpoint(tmp_path, 10, json.dumps({"global_step": 10}))
    _checkpoint(tmp_path, 20)
    _checkpoint(tmp_path, 30, '{"global_st')
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "absent") is None
