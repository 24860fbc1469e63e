"""A double of the Hugging Face Hub on the loopback interface: the real client talks to it over HTTP.

    with Hub() as hub:  # hub.url is what HF_ENDPOINT must be before huggingface_hub is imported
        ...

The other half, HTTP itself, is `loopback_http.py`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from loopback_http import Answer, Handler, Interruption, Request
from loopback_repository import Blob, HubError, Repository

_LARGE = re.compile(r"\.(safetensors|bin|pt|npz|npy|parquet|arrow|h5|hdf5|mp4|png|gif)$")

_SPACE_CARD = """---
title: {name}
sdk: {sdk}
app_file: app.py
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


class Hub:
    """The state of the double.

    Attributes:
        user, token: The only account and the token that proves it.
        repositories: By kind (`model`, `dataset`, `space`) and id.
        requests: `(method, path)` of everything that was asked, in order.
        interruptions: What goes wrong on purpose, see `interrupt`.
    """

    def __init__(self, user: str = "tester", token: str = "hf_loopback") -> None:
        self.user, self.token = user, token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by sha256, whether a commit names them or not
        self.requests: list[tuple[str, str]] = []
        self.interruptions: list[Interruption] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        """Forget everything but the address."""
        for state in (self.repositories, self.objects, self.requests, self.interruptions):
            state.clear()

    def interrupt(self, method: str, path: str, action: Callable[[], None] | None = None) -> None:
        """From now on, requests whose path matches the pattern meet trouble.

        Without an action the connection is dropped with no answer, every time. With one, it is called once, before
        the request is served.
        """
        self.interruptions.append(Interruption(method, re.compile(path), action))

    def put(self, kind: str, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
        """What somebody else put there: a repository with these files on `main`."""
        repository = self.repositories.setdefault((kind, repo_id), Repository(repo_id, kind, private))
        blobs = {path: Blob(data, lfs=bool(_LARGE.search(path))) for path, data in files.items()}
        repository.add_commit("main", "by somebody else", repository.at("main").files | blobs)
        return repository

    def answer(self, request: Request) -> Answer:
        """Serve one request."""
        for method, pattern, function in _ROUTES:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                names = {name: value for name, value in match.groupdict().items() if value is not None}
                if "kind" in pattern.groupindex:
                    names.setdefault("kind", "model")
                with self.lock:
                    return function(self, request, **names)
        raise HubError(404, "UnknownRoute", f"{request.method} {request.path} is not part of the loopback Hub")

    def repository(self, request: Request, kind: str, id: str) -> Repository:
        """What the one who asks may see: the Hub does not tell a private repository from one that does not exist."""
        repository = self.repositories.get((kind, id))
        may_see = request.token == self.token
        if repository is None or (repository.private and not may_see):
            raise HubError(404 if may_see else 401, "RepoNotFound", "Repository not found")
        return repository

    def writer(self, request: Request) -> None:
        if request.token != self.token:
            raise HubError(401, "", "Invalid username or password.")


def _who_am_i(hub: Hub, request: Request) -> Answer:
    hub.writer(request)
    token = {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}}
    return Answer({"type": "user", "name": hub.user, "fullname": hub.user, "orgs": [], "auth": token})


def _create(hub: Hub, request: Request) -> Answer:
    hub.writer(request)
    kind = request.json.get("type") or "model"
    repo_id = f"{request.json.get('organization') or hub.user}/{request.json['name']}"
    url = f"{hub.url}/{_page(kind, repo_id)}"
    if (kind, repo_id) in hub.repositories:
        return Answer({"error": "You already created this repo", "url": url}, status=409)
    repository = Repository(repo_id, kind, private=request.json.get("visibility") == "private")
    if kind == "space":  # the Hub gives a Space a card with its first commit
        repository.commits[0].files["README.md"] = Blob(_SPACE_CARD.format(**request.json).encode())
    hub.repositories[kind, repo_id] = repository
    return Answer({"url": url, "name": repo_id, "id": repo_id})


def _preupload(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    hub.writer(request)
    files = hub.repository(request, kind, id).at(revision).files

    def row(path: str) -> dict[str, Any]:
        mode = "lfs" if _LARGE.search(path) else "regular"
        return {
            "path": path,
            "uploadMode": mode,
            "shouldIgnore": False,
            "oid": (path in files and files[path].etag) or None,
        }

    return Answer({"files": [row(file["path"]) for file in request.json["files"]]})


def _lfs_batch(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    hub.writer(request)

    def row(wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in hub.objects:
            return wanted
        address = f"{hub.url}/lfs/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}}

    wanted = [{"oid": one["oid"], "size": one["size"]} for one in request.json["objects"]]
    return Answer({"transfer": "basic", "objects": [row(one) for one in wanted]})


def _lfs_put(hub: Hub, request: Request, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(422, "LfsMismatch", "sha256 does not match")
    hub.objects[oid] = request.body
    return Answer({})


def _lfs_verify(hub: Hub, request: Request, oid: str) -> Answer:
    if len(hub.objects.get(oid, b"")) != request.json["size"]:
        raise HubError(404, "LfsNotFound")
    return Answer({})


def _commit(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    """All of it or nothing, and only on top of the commit that the client has seen, if it names one."""
    hub.writer(request)
    repository = hub.repository(request, kind, id)
    parent, title = repository.at(revision), ""
    files = dict(parent.files)
    for line in request.body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "header":
            title = value["summary"]
            if value.get("parentCommit") not in (None, parent.oid):
                raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
        elif operation["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            files[value["path"]] = Blob(hub.objects[value["oid"]], lfs=True)
        elif operation["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise HubError(400, "", f"unknown operation {operation['key']}")
    oid = repository.add_commit(revision, title, files).oid
    address = f"{hub.url}/{_page(kind, id)}/commit/{oid}"
    return Answer({"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""})


def _branch(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    hub.writer(request)
    repository = hub.repository(request, kind, id)
    repository.branches[revision] = repository.at((request.json or {}).get("startingPoint") or "main").oid
    return Answer({})


def _tag(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    hub.writer(request)
    repository = hub.repository(request, kind, id)
    repository.tags[request.json["tag"]] = repository.at(revision).oid
    return Answer({})


def _info(hub: Hub, request: Request, kind: str, id: str, revision: str = "main") -> Answer:
    return Answer(hub.repository(request, kind, id).info(revision))


def _tree(hub: Hub, request: Request, kind: str, id: str, revision: str, path: str = "") -> Answer:
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    return Answer(hub.repository(request, kind, id).listing(revision, path, recursive))


def _paths_info(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    rows = hub.repository(request, kind, id).listing(revision, "", recursive=True)
    return Answer([row for row in rows if row["path"] in request.json["paths"]])


def _refs(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    repository = hub.repository(request, kind, id)
    row = lambda where, name, oid: {"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid}  # noqa: E731
    branches = [row("heads", name, oid) for name, oid in repository.branches.items()]
    return Answer(
        {"branches": branches, "tags": [row("tags", *tag) for tag in repository.tags.items()], "converts": []}
    )


def _resolve(hub: Hub, request: Request, kind: str, id: str, revision: str, path: str) -> Answer:
    commit = hub.repository(request, kind, id).at(revision)
    if path not in commit.files:
        raise HubError(404, "EntryNotFound", f"{path} is not in {id}@{revision}")
    blob = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
    return Answer(blob.data, headers=headers)


def _page(kind: str, repo_id: str) -> str:
    return repo_id if kind == "model" else f"{kind}s/{repo_id}"


_API, _REVISION = r"/api/(?P<kind>model|dataset|space)s/(?P<id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_PAGE = r"/(?:(?P<kind>dataset|space)s/)?(?P<id>[^/]+/[^/]+)"
_ROUTES = [
    (method, re.compile(pattern), function)
    for method, pattern, function in [
        ("GET", "/api/whoami-v2", _who_am_i),
        ("POST", "/api/repos/create", _create),
        ("POST", "/api/validate-yaml", lambda hub, request: Answer({"errors": [], "warnings": []})),
        ("GET", "/api/agent-harnesses", lambda hub, request: Answer({})),  # which every client asks for
        ("POST", f"{_API}/preupload/{_REVISION}", _preupload),
        ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", _lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w{64})", _lfs_put),
        ("POST", r"/lfs/(?P<oid>\w{64})/verify", _lfs_verify),
        ("POST", f"{_API}/commit/{_REVISION}", _commit),
        ("POST", f"{_API}/branch/{_REVISION}", _branch),
        ("POST", f"{_API}/tag/{_REVISION}", _tag),
        ("GET", _API, _info),
        ("GET", f"{_API}/revision/{_REVISION}", _info),
        ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", _tree),
        ("POST", f"{_API}/paths-info/{_REVISION}", _paths_info),
        ("GET", f"{_API}/refs", _refs),
        ("GET", rf"{_PAGE}/resolve/{_REVISION}/(?P<path>.+)", _resolve),
    ]
]
