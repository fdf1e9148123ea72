"""Shared fixtures: tiny real models, and a guard against every connection that leaves this computer."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_api

from hiper.cli import main
from tests.processes import Outcome

Cli = Callable[..., Outcome]

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: more threads slow down models as small as these
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # its workers would wait for whatever else this computer does

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            pytest.fail(f"a connection to {address} was tried")
        connect(self, address)

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (*LOOPBACK, None):
            pytest.fail(f"the address of {host} was asked for")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


@pytest.fixture(scope="session")
def sd1() -> Any:
    """A backbone that predicts noise, like SD 1; never changed by a test, or it is restored."""
    from hiper.backbones.sd import SdBackbone
    from tests import tiny

    return SdBackbone.from_pipeline(tiny.pipeline("sd1"))


@pytest.fixture(scope="session")
def sd2() -> Any:
    """A backbone that predicts v, like SD 2."""
    from hiper.backbones.sd import SdBackbone
    from tests import tiny

    return SdBackbone.from_pipeline(tiny.pipeline("sd2"))


@pytest.fixture(params=["sd1", "sd2"])
def backbone(request: pytest.FixtureRequest) -> Any:
    """Both kinds in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of the tiny SD 1, to be copied before it is damaged."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("model")
    tiny.pipeline("sd1").save_pretrained(folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Run `hiper` with a cache of its own; the process is afterwards as it was."""
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DIFFUSERS_DISABLE_REMOTE_CODE", "1")

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(status=status, out=out, err=err)

    yield run
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def subject() -> Any:
    """A standing dog."""
    from hiper.images import Subject
    from tests import tiny

    return Subject.from_image(tiny.picture(), caption="a standing dog")


@pytest.fixture(scope="session")
def artifact(sd1: Any, subject: Any) -> Any:
    """What a short fit of the dog on `sd1` has learnt."""
    import hiper

    return hiper.fit(sd1, subject, num_train_steps=12, learning_rate=0.05)


@pytest.fixture(scope="session")
def critters() -> Iterator[Any]:
    """The embedded model, whose weights are what they were when the last test has run."""
    import hiper

    backbone = hiper.load_backbone("critters", device="cpu")
    before = backbone.model_key()
    yield backbone
    assert backbone.model_key() == before


@pytest.fixture(scope="session")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file."""
    from tests import tiny

    path = tmp_path_factory.mktemp("picture") / "dog.png"
    tiny.picture().save(path)
    return path


@pytest.fixture(scope="session")
def tail(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, dog: Path) -> Path:
    """What a short fit has learnt; not to be changed by a test."""
    import hiper

    backbone = hiper.load_backbone(model_folder, device="cpu")
    artifact = hiper.fit(backbone, hiper.Subject.open(dog, caption="a standing dog"), num_train_steps=5)
    return artifact.save(tmp_path_factory.mktemp("tail") / "dog.safetensors")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with nothing in it."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # else it asks for a list of agents
    return cache


@pytest.fixture
def at_hub(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point huggingface_hub at another address, as the environment variable HF_ENDPOINT would."""

    def point(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", address)

    return point


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache without anything."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def vocabulary(hub_cache: Path) -> None:
    """CLIP's vocabulary in the cache, or what stands for it here."""
    from tests import tiny

    words = tiny.tokenizer()
    repository = hub_cache / "models--openai--clip-vit-large-patch14"
    snapshot = repository / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    (snapshot / "vocab.json").write_text(json.dumps(words.get_vocab()))
    merges = json.loads(words.backend_tokenizer.to_str())["model"]["merges"]
    (snapshot / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


@pytest.fixture(scope="session")
def comfy_pack() -> Any:
    """The nodes for ComfyUI, imported as it does: from their folder, under a name of its choice."""
    from tests import comfy_host

    return comfy_host.import_pack()


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comfy_pack: Any) -> Any:
    """The modules that the nodes see of ComfyUI; the tiny models' width belongs to a family of its own."""
    from tests import comfy_host, tiny

    monkeypatch.setitem(comfy_pack.objective.FAMILIES, tiny.EMBED, "sd")
    return comfy_host.Host(tmp_path, monkeypatch)
