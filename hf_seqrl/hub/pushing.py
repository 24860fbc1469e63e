"""Pushing a folder to the Hub as one commit on top of a known parent, with errors that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, RevisionNotFoundError

from hf_seqrl.hub.checkpoint import BENCHMARK_RESULTS_NAME, CARD_NAME

_CHANGED_SINCE, _MAY_NOT = 412, (401, 403)


@dataclass(frozen=True)
class Destination:
    """The state of a branch before a push.

    Attributes:
        api: The client, with the token.
        repo_id: With the user's name.
        repo_type: `model`, `dataset` or `space`.
        revision: The branch.
        parent: The commit at its tip.
        card: The text of the card there, or `None`.
    """

    api: HfApi
    repo_id: str
    repo_type: str
    revision: str
    parent: str | None
    card: str | None

    def commit(
        self, folder: str | Path, message: str, stale: list[str], private_files: list[str] | None = None
    ) -> CommitInfo:
        """Upload a folder in one commit.

        Args:
            folder: The new contents of the repository.
            message: The commit's first line.
            stale: Patterns of files that are removed in the same commit unless the folder holds them.
            private_files: Patterns of files in the folder that are not uploaded.

        Raises:
            OSError: the branch has changed since, or the connection was lost.
        """
        ignored = [*(private_files or ()), *_kept_here(Path(folder))]
        with explained(self.repo_id, self.revision):
            return self.api.upload_folder(
                repo_id=self.repo_id,
                repo_type=self.repo_type,
                revision=self.revision,
                folder_path=folder,
                commit_message=message,
                parent_commit=self.parent,
                delete_patterns=stale,
                ignore_patterns=ignored,
            )


def _kept_here(folder: Path) -> list[str]:
    """Hidden files except benchmark results, and symbolic links, whose targets would be copied."""
    hidden = [path.name for path in folder.glob(".*") if path.name != PurePosixPath(BENCHMARK_RESULTS_NAME).parts[0]]
    links = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()]
    return [pattern for name in (*hidden, *links) for pattern in (name, f"{name}/*")]


def open_destination(
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
) -> Destination:
    """Read the state of a repository before a push; it is created if missing.

    Args:
        repo_id: `user/name`, or a name alone for the own account.
        repo_type: `model`, `dataset` or `space`.
        private: Visibility of a new repository; defaults to the account's setting.
        token: Defaults to the one that `hf auth login` stored.
        revision: The branch, which must exist; defaults to `main`.

    Raises:
        OSError: the Hub cannot be reached, does not allow it, or has no such branch.
    """
    api, revision = HfApi(token=token), revision or "main"
    with explained(repo_id, revision):
        sdk = "gradio" if repo_type == "space" else None
        made = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        repo_id = made.repo_id
        parent = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        card = _card_at(api, repo_id, repo_type, parent)
    return Destination(api, repo_id, repo_type, revision, parent, card)


def card_on_hub(repo_id: str, *, token: str | bool | None = None, revision: str | None = None) -> str | None:
    """The text of a model card on the Hub, `None` if there is none."""
    with explained(repo_id, revision or "main"):
        return _card_at(HfApi(token=token), repo_id, "model", revision)


@contextmanager
def explained(repo_id: str, revision: str = "main") -> Iterator[None]:
    """Convert errors of a push into an `OSError` that says what happened and what to do."""
    try:
        yield
    except (HTTPError, RuntimeError) as error:
        # the client wraps what happens while it sends a large file
        reason = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(reason, HTTPError):
            raise
        raise OSError(_sentence(reason, repo_id, revision)) from error


def _sentence(error: HTTPError, repo_id: str, revision: str) -> str:
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repo_id} has no branch {revision!r}: choose one that exists, or make it first, "
            f"huggingface_hub.create_branch({repo_id!r}, branch={revision!r})."
        )
    if not isinstance(error, HfHubHTTPError):  # there was no answer
        return (
            f"the connection to the Hub broke off ({error}). A push is one commit, so {repo_id} holds either all of it "
            "or nothing of it. Push again: files that have arrived are not sent twice."
        )
    status = error.response.status_code
    if status == _CHANGED_SINCE:
        return (
            f"somebody else pushed to {repo_id} while this push was under way, so nothing of this one is there. "
            "Look at what the repository holds now, and push again if it is to be replaced."
        )
    if status in _MAY_NOT:
        return (
            f"the Hub does not let you write to {repo_id} (status {status}): log in with a token that may, "
            "`hf auth login`, or pass token=..., and check the user name in the repository's id."
        )
    return f"the Hub refused the push to {repo_id}: {error}"


def _card_at(api: HfApi, repo_id: str, repo_type: str, revision: str | None) -> str | None:
    try:
        path = api.hf_hub_download(repo_id, CARD_NAME, repo_type=repo_type, revision=revision)
    except EntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")
