"""Pushing an exported model to a repository on the Hugging Face Hub."""

from pathlib import Path

from slowfast.utils.hub import LOG_IN, Repository, hub_errors, server_address


def prepare_repository(repository: Repository, *, private: bool) -> None:
    """Create a repository, and its branch, unless it exists.

    Args:
        repository: The repository. Its revision is a branch, "" for the main one.
        private: Whether the repository must be private. Otherwise a new one is as the owner's
            default on the Hub is, which is public for a person.

    Raises:
        FileExistsError: If the repository must be private and is public.
        OSError: If the Hub does not answer or refuses, or if there is no token.
    """
    from huggingface_hub import HfApi, get_token

    problem = f"{repository}: cannot be pushed to"
    with hub_errors(problem):
        if get_token() is None:
            raise PermissionError(f"there is no token. {LOG_IN}")

        api = HfApi()
        api.create_repo(repository.name, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repository.name).private
        if repository.revision and not is_public:
            api.create_branch(repository.name, branch=repository.revision, exist_ok=True)
    if is_public:
        raise FileExistsError(
            f"{problem}: it exists and is public. Make it private on its page, or push without "
            "--private"
        )


def push_folder(folder: Path, repository: Repository) -> str:
    """Push all files of a folder as one commit, and return the hash of the commit.

    Args:
        folder: The folder.
        repository: The repository, see `prepare_repository`.

    Raises:
        OSError: If the Hub does not answer or refuses. The repository is then as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with hub_errors(f"{repository}: cannot be pushed to"):
        commit = HfApi().create_commit(
            repository.name,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
            commit_message="Upload a video classifier",
            revision=repository.revision or None,
        )
    oid: str = commit.oid
    return oid


def page_address(repository: Repository) -> str:
    """Return the address of the page of a repository."""
    return f"{server_address()}/{repository.name}"
