"""What is asked over a network and does not answer: one line, soon; never ten minutes of silence."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hiper.artifacts import Artifact
from hiper.backbones import hub, load_backbone
from hiper.batch.store import open_store
from hiper.cli import main
from hiper.engines import EngineSettings, check_reachable, open_engine, reachable
from hiper.engines.base import Task
from hiper.errors import OptionError, OutputError, UserError
from hiper.metrics import ClipSimilarity
from tests import local_hub, processes
from tests.engine_work import Order, make_work

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs hiper[ray]")


@pytest.fixture
def closed() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that takes connections and never answers."""
    monkeypatch.setattr(reachable, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def website() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("kind", ["closed", "silent", "website"])
def test_where_no_ray_is_one_line_says_so(kind: str, scheme: str, request: pytest.FixtureRequest) -> None:
    address = f"{scheme}127.0.0.1:{request.getfixturevalue(kind)}"
    begun = time.monotonic()
    with pytest.raises(OptionError, match=address) as refused:
        check_reachable(address)
    assert time.monotonic() - begun < 15
    assert "\n" not in str(refused.value)


@needs_ray
def test_a_name_that_nobody_has(tmp_path: Path) -> None:
    """In a process of its own, for tests ask for no names."""
    address = ("--engine", "ray", "--address", "head.invalid:6379")
    outcome = processes.run(tmp_path, "batch", jobs_in(tmp_path), "--out", tmp_path / "out", *address)
    assert outcome.status == 2
    assert "head.invalid:6379" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def jobs_in(folder: Path) -> Path:
    jobs = folder / "jobs.jsonl"
    jobs.write_text(json.dumps({"image": "dog.png", "caption": "a dog", "sentences": ["a cat"]}))
    return jobs


def test_names_that_take_for_ever_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "_SECONDS_IN_ALL", 0.2)
    never = threading.Event()

    def connect(*_: object, **__: object) -> None:
        never.wait(30)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OptionError, match="no answer"):
        check_reachable("head:6379")
    never.set()


@pytest.mark.parametrize(
    "address", ["head", "head:", "head:port", "head:99999", "http://head:8265", ":6379", "a b"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="allowed are HOST:PORT"):
        check_reachable(address)


def test_auto_is_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch, closed: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    with pytest.raises(OptionError, match=str(closed)):
        check_reachable("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    check_reachable("auto")


@needs_ray
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_commands_stop_before_any_work(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, out = request.getfixturevalue(kind), str(tmp_path / "out")
    elsewhere = ["--engine", "ray", "--address", f"127.0.0.1:{port}", "--out", out]
    for command in (["batch", str(jobs_in(tmp_path))], ["bench", "run", "critters", "--methods", "none"]):
        begun = time.monotonic()
        assert main([*command, *elsewhere]) == 2
        assert time.monotonic() - begun < 30
        lines = capsys.readouterr().err.splitlines()
        assert str(port) in lines[-1]
        assert not any("Traceback" in line for line in lines)


HEAD = """
import ray, sys
ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=1, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def head() -> Iterator[str]:
    """A cluster of somebody else, who asks for no token."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    words, pipe = [sys.executable, "-c", HEAD], subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip().rpartition(':')[2]}"
        process.stdin.close()


@needs_ray
@pytest.mark.slow
def test_a_real_head_is_reached_also_after_a_cluster_of_our_own(head: str) -> None:
    """Ray remembers the token of the first."""
    check_reachable(head)
    for address in (None, head):
        engine = open_engine(EngineSettings(name="ray", address=address, gpus=False))
        tasks = deque([Task(payload=Order(do="square", number=3))])
        (result,) = engine.run(tasks, make_work, lambda: None)
        assert result.unwrapped().square == 9


def test_a_store_that_cannot_be_reached_is_named(closed: int) -> None:
    with pytest.raises(OutputError, match=str(closed)) as refused:
        open_store(f"ftp://127.0.0.1:{closed}/results")
    assert "\n" not in str(refused.value)


def test_a_hub_that_never_answers_is_told_soon_and_what_is_cached_is_used(
    silent: int,
    model_folder: Path,
    at_hub: Callable[[str], None],
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with local_hub.serve(model_folder, "owner/model") as address:
        at_hub(address)
        weights = load_backbone("owner/model", device="cpu").weights_sha256()
    at_hub(f"http://127.0.0.1:{silent}")
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
    begun = time.monotonic()
    assert load_backbone("owner/model", device="cpu").weights_sha256() == weights
    asked: list[Callable[[], object]] = [
        lambda: load_backbone("owner/other", device="cpu"),
        lambda: ClipSimilarity.load("owner/other", local_only=False, device="cpu"),
        lambda: Artifact.from_pretrained("owner/other"),
    ]
    for ask in asked:
        with pytest.raises(UserError, match=r"Hub.* was not reached") as refused:
            ask()
        assert "\n" not in str(refused.value)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_hub_that_sends_no_file_is_told_soon(
    ending: str,
    model_folder: Path,
    at_hub: Callable[[str], None],
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what there is; files come from other servers."""
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
    with local_hub.serve(model_folder, "owner/model", silent=ending) as address:
        at_hub(address)
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"Hub.* was not reached") as refused:
            load_backbone("owner/model", device="cpu")
        assert time.monotonic() - begun < 5
    assert "\n" not in str(refused.value)
