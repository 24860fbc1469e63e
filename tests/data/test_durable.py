"""Whole or not at all: what stands on the disk after errors, kills, and beside a second writer."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from hf_seqrl.data import durable
from hf_seqrl.data.durable import (
    InUseError,
    check_writable,
    remove_leftovers,
    removed_if_empty,
    sole_writer,
    whole_file,
    whole_folder,
    write_whole,
)


def fill(folder, text):
    (folder / "deep").mkdir()
    (folder / "deep" / "one.txt").write_text(text)
    (folder / "two.txt").write_text(text)


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


NEW, OLD = ({"deep/one.txt": text, "two.txt": text} for text in ("new", "old"))


def test_a_file_is_written_with_its_folder(tmp_path):
    path = write_whole(tmp_path / "deep" / "result.json", "{}")
    assert path.read_text() == "{}" and os.listdir(path.parent) == ["result.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    secret = write_whole(tmp_path / "secret", "mine")
    (tmp_path / "README.md").symlink_to(secret)
    write_whole(tmp_path / "README.md", "card")
    assert secret.read_text() == "mine" and (tmp_path / "README.md").read_text() == "card"


def test_an_error_changes_nothing(tmp_path):
    write_whole(tmp_path / "file", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file") as aside:
        aside.write_text("half")
        _ = 1 / 0
    with whole_folder(tmp_path / "folder") as folder:
        fill(folder, "old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder", overwrite=True) as folder:
        fill(folder, "new")
        _ = 1 / 0
    assert (tmp_path / "file").read_text() == "old" and content(tmp_path / "folder") == OLD
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_is_replaced_on_request_only(tmp_path):
    for text in ("old", "new"):
        with whole_folder(tmp_path / "folder", overwrite=text == "new") as folder:
            fill(folder, text)
    assert content(tmp_path / "folder") == NEW
    with pytest.raises(FileExistsError, match="exists already"), whole_folder(tmp_path / "folder"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "file", overwrite=True):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "empty").mkdir()
    write_whole(tmp_path / "home" / "thesis.txt", "mine")
    with (
        pytest.raises(FileExistsError, match=r"home holds other files, which would be lost, and no data\.json"),
        whole_folder(tmp_path / "home", overwrite=True, mark="data.json"),
    ):
        pass
    assert content(tmp_path / "home") == {"thesis.txt": "mine"}
    for _ in range(2):  # an empty folder, and then one of the kind
        with whole_folder(tmp_path / "empty", overwrite=True, mark="data.json") as folder:
            write_whole(folder / "data.json", "{}")
    assert content(tmp_path / "empty") == {"data.json": "{}"}


def test_a_new_folder_is_removed_if_nothing_came_into_it(tmp_path):
    (tmp_path / "old").mkdir()
    for name, fill in (("new", False), ("old", False), ("filled", True)):
        with pytest.raises(ZeroDivisionError), removed_if_empty(tmp_path / name):
            if fill:
                write_whole(tmp_path / name / "file", "x")
            _ = 1 / 0
    assert sorted(os.listdir(tmp_path)) == ["filled", "old"]


def test_everything_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    synced, replaced = set(), []
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))

    def checked(source, target, rename=os.rename):
        inside = [source, *source.rglob("*")] if source.is_dir() else [source]
        assert {path.stat().st_ino for path in inside} <= synced
        replaced.append(target)
        rename(source, target)

    monkeypatch.setattr(durable.os, "rename", checked)
    monkeypatch.setattr(durable.os, "replace", checked)
    with whole_folder(tmp_path / "folder") as folder:
        fill(folder, "new")
    write_whole(tmp_path / "file", "new")
    assert replaced == [tmp_path / "folder", tmp_path / "file"]
    assert tmp_path.stat().st_ino in synced  # and so is the new name


@pytest.mark.parametrize("exchange", [True, False])
def test_without_an_exchange_the_former_folder_is_put_back(tmp_path, monkeypatch, exchange):
    with whole_folder(tmp_path / "folder") as folder:
        fill(folder, "old")
    if not exchange:
        monkeypatch.setattr(durable, "_exchanged", lambda *_: False)
    (tmp_path / "folder").rename(tmp_path / ".folder.0123abcd.former")  # where a kill strikes between two renames
    (tmp_path / ".folder.0123abcd.partial").mkdir()
    remove_leftovers(tmp_path / "folder")
    assert content(tmp_path / "folder") == OLD and os.listdir(tmp_path) == ["folder"]
    with whole_folder(tmp_path / "folder", overwrite=True) as folder:
        fill(folder, "new")
    assert content(tmp_path / "folder") == NEW and os.listdir(tmp_path) == ["folder"]


def test_only_what_was_left_here_is_removed(tmp_path):
    others = [
        ".folder.0123abcd.partial.bak",
        ".folder2.0123abcd.partial",
        "folder.0123abcd.partial",
        ".folder-0123abcd",
    ]
    for name in [*others, ".folder.0123abcd.partial"]:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    (tmp_path / "folder").mkdir()
    (tmp_path / ".folder.lock").write_text("")  # the writer was killed when its folder had just appeared
    remove_leftovers(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "folder"])


_HOLD = """
import sys
from hf_seqrl.data.durable import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_a_killed_one_is_cleared_away(tmp_path):
    target = tmp_path / "folder"
    program = [sys.executable, "-c", _HOLD, str(target)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        remove_leftovers(target)  # they are no leftovers yet
        with pytest.raises(InUseError, match="is being written by another process"), whole_folder(target):
            pass
        assert len(os.listdir(tmp_path)) == 2
        writer.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(target)
    assert os.listdir(tmp_path) == []


def test_a_thread_beside_is_refused_and_calls_may_be_nested(tmp_path):
    refused = []

    def second():
        with pytest.raises(InUseError), sole_writer(tmp_path):
            pass
        refused.append(True)

    with sole_writer(tmp_path), sole_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused and os.listdir(tmp_path) == []
    with sole_writer(tmp_path):
        pass


def test_outputs_that_cannot_be_written_are_found_before_the_work(tmp_path):
    check_writable(None, tmp_path, tmp_path / "new" / "deep", tmp_path / "file.json")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "file")
    for place in (tmp_path / "file" / "deep", "/proc/nowhere/result.json"):
        with pytest.raises(OSError, match=r"cannot write to .*Choose another place"):
            check_writable(place)
