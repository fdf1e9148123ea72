"""Bring a model from the Hub into the local cache, and say in one line why it cannot be had."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hiper.backbones.variants import PICKLES, choose_variant, library_of
from hiper.backbones.weights import read_index, weighted_components
from hiper.errors import BackboneError, UserError

_OTHER_WEIGHTS = (".safetensors", ".msgpack", ".onnx", ".pb", ".h5", ".gguf")
SERVER_FAILS = 500
"""The first HTTP status that tells of trouble at the Hub, not in what was asked (RFC 9110, section 15.6)."""
ANSWER_SECONDS = 10.0
"""Until which the Hub has to answer."""
# The base of every error of the HTTP client underneath, which differs between releases of huggingface_hub
_NETWORK_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def hub_answers(hub_id: str = "", file: str = "", *, revision: str | None = None) -> bool:
    """Whether the Hub says anything within `ANSWER_SECONDS`: a client that does not know waits for minutes.

    Args:
        hub_id: Of the repository with `file`.
        file: Whose first byte is asked for, which may come from another server; "" asks the Hub itself. A refusal is
            an answer, so no token is needed.
        revision: A branch, tag or commit.
    """
    method, url = "HEAD", constants.ENDPOINT
    if file:
        method, url = "GET", hf_hub_url(hub_id, file, revision=revision)
    first = {"Range": "bytes=0-0"}
    try:
        with get_session().stream(method, url, headers=first, timeout=ANSWER_SECONDS) as answer:
            next(answer.iter_raw(), None)
    except (OSError, _NETWORK_ERROR):
        return False
    return True


def fetch_index(hub_id: str, revision: str | None) -> Path:
    """Fetch model_index.json alone; return its folder, which is named after the commit."""
    with explained(hub_id):
        here = not hub_answers(hub_id, "model_index.json", revision=revision)
        file = hf_hub_download(hub_id, "model_index.json", revision=revision, local_files_only=here)
        return Path(file).parent


def fetch_files(hub_id: str, snapshot: Path) -> None:
    """Fetch of a model what is loaded of it: of every component one variant of its weights, as safetensors.

    Where the Hub cannot be asked, what lies in the cache has to do.

    Args:
        hub_id: The model's.
        snapshot: Its folder in the cache, with a model_index.json, named after the commit.

    Raises:
        BackboneError: A component has no such weights, or the Hub refuses.
    """
    names = repository_files(hub_id, snapshot.name)
    if names is None:
        return
    index, wanted = read_index(snapshot), []
    for component, entry in index.items():
        inside = {name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/")}
        if isinstance(entry, list) and any(entry) and inside:
            wanted += [f"{component}/{name}" for name in _chosen(inside, index, component, hub_id)]
    lacking = [name for name in wanted if not (snapshot / name).is_file()]
    if not lacking:
        return
    with explained(hub_id):
        if not hub_answers(hub_id, max(lacking, key=_is_weight), revision=snapshot.name):
            raise BackboneError(_not_cached(hub_id))
        snapshot_download(hub_id, revision=snapshot.name, allow_patterns=[escape(name) for name in wanted])


def repository_files(hub_id: str, revision: str) -> list[str] | None:
    """Return the files of a repository, None where the Hub cannot be asked; BackboneError where it refuses."""
    with explained(hub_id):
        try:
            found = HfApi().model_info(hub_id, revision=revision, timeout=ANSWER_SECONDS)
            return [file.rfilename for file in found.siblings or ()]
        except (OSError, _NETWORK_ERROR) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < SERVER_FAILS:
                raise
            return None


def _is_weight(name: str) -> bool:
    """Weights come from other servers than texts."""
    return name.endswith(".safetensors")


def _chosen(names: Collection[str], index: Mapping[str, Any], component: str, hub_id: str) -> list[str]:
    rest = [name for name in names if not name.lower().endswith((*PICKLES, *_OTHER_WEIGHTS, ".index.json"))]
    if component not in weighted_components(index):
        return rest
    chosen = choose_variant(names, library_of(index, component), f"{hub_id}/{component}")
    return [*rest, *chosen.files, *([chosen.table] if chosen.table else [])]


def cached_folder(hub_id: str, revision: str | None) -> Path:
    """Return the folder of a model in the local cache, without a word to the network."""
    with explained(hub_id):
        found = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    if not isinstance(found, str):
        raise BackboneError(_not_cached(hub_id))
    return Path(found).parent


def _not_cached(hub_id: str) -> str:
    return (
        f"{hub_id} is not complete in the local cache ({constants.HF_HUB_CACHE}) and the Hub was not reached;"
        f" run `hf download {hub_id}` once while online"
    )


@contextmanager
def explained(
    hub_id: str,
    *,
    missing: str = "no model_index.json; a model in diffusers format is needed",
    error: type[UserError] = BackboneError,
) -> Iterator[None]:
    """Turn every refusal of the Hub and of the network into one line; missing: what a repository lacks."""
    try:
        yield
    except (OSError, EntryNotFoundError, HFValidationError, _NETWORK_ERROR) as refusal:
        # diffusers hides the Hub's own answer behind an OSError
        cause = refusal.__cause__ if isinstance(refusal.__cause__, HfHubHTTPError) else refusal
        raise error(_reason(hub_id, cause, missing)) from refusal


def _reason(hub_id: str, error: BaseException, missing: str) -> str:
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{hub_id}"
        return f"{hub_id} is gated: accept its licence at {page}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{hub_id} is neither a folder here nor a model on the Hub; check the spelling,"
            " or log in with `hf auth login` if it is private"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{hub_id} has no such revision; name a branch, a tag or a commit of that model"
    if isinstance(error, LocalEntryNotFoundError):
        return _not_cached(hub_id)
    if isinstance(error, EntryNotFoundError):
        return f"{hub_id} has {missing}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"{hub_id}: the Hub answered {status}; try again later, or log in with `hf auth login`"
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{hub_id} cannot be fetched: {message}"
