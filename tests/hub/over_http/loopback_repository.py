"""Repositories as the loopback Hub keeps them: files, commits, branches and tags, in memory."""

import hashlib
import re
import time
from dataclasses import dataclass, field
from typing import Any

import yaml


class HubError(Exception):
    """What the Hub answers when it refuses; `code` is what the client tells its exceptions apart by."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Blob:
    """The contents of a file; `lfs` is whether it went through large file storage."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """Git's id of the file, or of the pointer that git keeps for a large one."""
        data = self.data
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n"
            data = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """How a listing shows it."""
        row = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.lfs:
            row["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return row


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    time: float = field(default_factory=time.time)

    @property
    def stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.time))


@dataclass
class Repository:
    """One repository; a new one has a commit without files."""

    id: str
    kind: str
    private: bool = False
    commits: list[Commit] = field(default_factory=list)  # oldest first
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add_commit("main", "initial commit", {})

    @property
    def files(self) -> dict[str, bytes]:
        """What stands on `main`."""
        return {path: blob.data for path, blob in self.at("main").files.items()}

    def add_commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        oid = hashlib.sha1(f"{self.id} {len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, files))
        self.branches[branch] = oid
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or an id names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def info(self, revision: str = "main") -> dict[str, Any]:
        """What `HfApi.repo_info` is told."""
        commit = self.at(revision)
        card = card_metadata(commit.files)
        return {
            "_id": commit.oid[:24],
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.oid,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags", []),
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
            "cardData": card,
            "model-index": card.get("model-index"),
            "createdAt": self.commits[0].stamp,
            "lastModified": commit.stamp,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    def listing(self, revision: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders below `folder`."""
        base, rows = f"{folder}/" if folder else "", {}
        for path, blob in sorted(self.at(revision).files.items()):
            if not path.startswith(base):
                continue
            *parents, _ = path[len(base) :].split("/")
            for depth in range(1, len(parents) + 1 if recursive else min(2, len(parents) + 1)):
                rows.setdefault(*_folder_entry(base + "/".join(parents[:depth])))
            if recursive or not parents:
                rows[path] = blob.entry(path)
        if folder and not rows:
            raise HubError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return list(rows.values())


def card_metadata(files: dict[str, Blob]) -> dict[str, Any]:
    """The metadata block of the card, empty where there is none."""
    block = re.match(rb"---\n(.*?)\n---", files["README.md"].data, re.S) if "README.md" in files else None
    return (yaml.safe_load(block[1]) or {}) if block else {}


def _folder_entry(path: str) -> tuple[str, dict[str, Any]]:
    return path, {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
