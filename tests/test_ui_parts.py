"""What the web page rests on, without a browser: jobs, sessions, the library, seed search, previews."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from torch.nn.modules.module import register_module_forward_hook

import hiper
from hiper.analysis import CrittersRanker, demo_scene
from hiper.artifacts import Artifact, Library, default_folder
from hiper.artifacts.library import thumbnail
from hiper.cli import main
from hiper.critters import bare_caption, describe, named_attributes, render
from hiper.errors import ArtifactError, Interrupted, OptionError, UserError
from hiper.images import pixels_sha256
from hiper.inference import Preview, Score, evenly, fit_with_previews, preview_steps, search_seeds, text_first
from hiper.methods import HiPer
from hiper.training import CheckpointFile, FitControl
from hiper.web import Similarity, markup
from hiper.web.guard import Guard, names_of
from hiper.web.handlers import Reported
from hiper.web.jobs import BackgroundJob, JobProgress, JobQueue, JobStopped
from hiper.web.service import CANVAS, DrawRequest, EditedPart, Service, _Stoppable
from hiper.web.sessions import MOST, Sessions
from hiper.web.uploads import Uploads
from tests import tiny
from tests.test_images import as_nobody

CAPTION = "a standing dog"


@pytest.fixture(scope="module")
def tail(sd1: Any, subject: hiper.Subject) -> Artifact:
    return hiper.fit(sd1, subject, num_train_steps=4)


# previews


def _fitted(sd1: Any, subject: hiper.Subject, path: Path, at: tuple[int, ...], stop_at: int = 0) -> Any:
    steps: list[int] = []
    shown: list[Preview] = []
    artifact = fit_with_previews(
        sd1,
        subject,
        HiPer().options(num_train_steps=12),
        at=at,
        on_preview=shown.append,
        control=FitControl(
            checkpoint=CheckpointFile(path=path, resume=True),
            callback=lambda record: steps.append(record.step),
            should_stop=lambda: 2 if stop_at and steps and steps[-1] >= stop_at else None,
        ),
    )
    return artifact, steps, shown


@pytest.mark.slow
def test_previews_do_not_change_the_fit(sd1: Any, subject: hiper.Subject, tmp_path: Path) -> None:
    plain = hiper.fit(sd1, subject, preset="default", num_train_steps=12)
    artifact, steps, shown = _fitted(sd1, subject, tmp_path / "fit", (3, 6, 9))
    assert torch.equal(artifact.tensors["tail"], plain.tensors["tail"])
    assert steps == list(range(1, 13))
    assert [each.step for each in shown] == [3, 6, 9]
    assert shown[0].image.size == (sd1.resolution, sd1.resolution)
    assert shown[0].image.tobytes() != shown[2].image.tobytes()


@pytest.mark.slow
def test_a_stop_is_no_preview(sd1: Any, subject: hiper.Subject, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        _fitted(sd1, subject, tmp_path / "fit", (3,), stop_at=5)
    _, steps, shown = _fitted(sd1, subject, tmp_path / "fit", (3, 4, 9))
    assert steps[0] == 6
    assert [each.step for each in shown] == [6, 9]


def test_steps_of_previews_lie_inside() -> None:
    assert preview_steps(200, 4) == (40, 80, 120, 160)
    assert preview_steps(3, 4) == (1, 2)
    assert preview_steps(1, 4) == ()


# seed search


class Redness:
    """A ranker whose scores can be computed by hand."""

    def score(self, picture: Image.Image, sentence: str) -> Score:
        red, green, _ = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
        return Score(text=0.0, identity=float(red - green))

    def order(self, scores: Any) -> list[int]:
        return text_first(scores)


@pytest.mark.slow
def test_search_draws_the_best_of_the_quick_draws(sd1: Any, tail: Artifact) -> None:
    found = search_seeds(
        sd1,
        tail,
        "a sitting dog",
        Redness(),
        first_seed=5,
        candidates=6,
        quick_steps=2,
        best=2,
        num_inference_steps=4,
    )
    quick = hiper.edit(sd1, tail, "a sitting dog", seeds=range(5, 11), num_inference_steps=2)
    scores = [Redness().score(image, "").identity for image in quick.images]
    expected = sorted(range(6), key=lambda i: -scores[i])
    assert [each.seed for each in found.candidates] == [5 + i for i in expected]
    assert found.drawn.seeds == tuple(5 + i for i in expected[:2])
    full = hiper.edit(sd1, tail, "a sitting dog", seeds=found.drawn.seeds, num_inference_steps=4)
    assert [each.tobytes() for each in found.drawn.images] == [each.tobytes() for each in full.images]


@pytest.mark.parametrize("amount", [{"candidates": 0}, {"candidates": 257}, {"candidates": 2, "best": 3}])
def test_search_refuses_impossible_numbers(sd1: Any, tail: Artifact, amount: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="allowed are whole numbers"):
        search_seeds(sd1, tail, "a dog", Redness(), **amount)  # type: ignore[arg-type]


def test_orders_of_scores() -> None:
    scores = [Score(text=t, identity=i) for t, i in ((1, 0.2), (0.5, 0.9), (1, 0.3), (0, 1))]
    assert text_first(scores) == [2, 0, 1, 3]
    assert evenly(scores)[0] == 1  # good in both counts for more than the best of one
    assert evenly([Score(text=1, identity=1)] * 3) == [0, 1, 2]


def test_critters_are_ranked_by_the_sentence_first_then_by_colours() -> None:
    scene = demo_scene(3)
    sitting = replace(scene, pose="sitting")
    other = replace(sitting, identity=demo_scene(4).identity)
    ranker = CrittersRanker(render(scene))
    sentence = f"a sitting {scene.species}"
    scores = [ranker.score(render(each), sentence) for each in (scene, other, sitting)]
    assert [score.text for score in scores] == [0.5, 1, 1]
    assert scores[0].identity == 0
    assert ranker.order(scores) == [2, 1, 0]
    assert ranker.score(render(scene), "something else").text == 1


def test_attributes_named_in_free_words() -> None:
    assert named_attributes("A  fox sitting on the beach, or so") == {"species": "fox", "pose": "sitting"}
    assert named_attributes("a pencil sketch of a cat in the city") == {
        "species": "cat",
        "style": "sketch",
        "background": "city",
    }
    for seed in range(5):
        scene = demo_scene(seed)
        assert describe(render(scene)) == bare_caption(scene)


# library


def test_library_keeps_subjects(tmp_path: Path, tail: Artifact) -> None:
    library = Library(tmp_path / "new" / "library")
    assert library.listing().entries == ()
    entry = library.add(tail, tiny.picture())
    assert entry.artifact.to_bytes() == tail.to_bytes()
    assert entry.picture is not None
    assert entry.picture.tobytes() == tiny.picture().tobytes()
    assert library.add(tail, None).name == entry.name
    later = replace(tail, created="2999-01-01T00:00:00+00:00", caption="../..")
    assert library.add(later, None).tail.parent.parent == library.folder
    names = [each.artifact.caption for each in library.listing().entries]
    assert names == ["../..", CAPTION]


def test_a_damaged_subject_keeps_no_other_back(tmp_path: Path, tail: Artifact) -> None:
    library = Library(tmp_path)
    entry = library.add(tail, None)
    broken = tmp_path / "broken" / "tail.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"no tail")
    listing = library.listing()
    assert [each.name for each in listing.entries] == [entry.name]
    assert "broken" in listing.damaged[0]
    with pytest.raises(ArtifactError):
        library.open("broken")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


def _to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _another_schema(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b'"hiper.schema":"1"') == 1
    path.write_bytes(data.replace(b'"hiper.schema":"1"', b'"hiper.schema":"9"'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "picture cut": lambda entry: _cut(entry / "source.png"),
    "picture that is none": lambda entry: (entry / "source.png").write_text("Dear Sir"),
    "picture that is a folder": lambda entry: _instead(entry / "source.png", Path.mkdir),
    "picture that leads nowhere": lambda entry: _instead(entry / "source.png", _to_nowhere),
    "tail cut": lambda entry: _cut(entry / "tail.safetensors"),
    "tail of another schema": lambda entry: _another_schema(entry / "tail.safetensors"),
    "tail that is a folder": lambda entry: _instead(entry / "tail.safetensors", Path.mkdir),
    "tail that leads nowhere": lambda entry: _instead(entry / "tail.safetensors", _to_nowhere),
    "no tail": lambda entry: (entry / "tail.safetensors").unlink(),
    "copy": lambda entry: entry.rename(entry.with_name("damaged (copy)")),
    "file": lambda entry: _instead(entry, lambda path: path.write_text("no folder")),
    "link to nowhere": lambda entry: _instead(entry, _to_nowhere),
    "link to itself": lambda entry: _instead(entry, lambda path: path.symlink_to(path)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_lies_in_the_library_keeps_no_subject_back(
    tmp_path: Path, tail: Artifact, kind: str
) -> None:
    library = Library(tmp_path / "library")
    sound = library.add(tail, tiny.picture())
    shutil.copytree(sound.tail.parent, library.folder / "damaged")
    (library.folder / ".DS_Store").write_text("a file manager's own")
    DAMAGE[kind](library.folder / "damaged")
    listing = library.listing()
    assert [each.name for each in listing.entries] == [sound.name]
    assert len(listing.damaged) == 1
    assert "damaged" in listing.damaged[0]
    assert "\n" not in listing.damaged[0]
    assert str(tmp_path) not in listing.damaged[0]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX permissions here")
@pytest.mark.parametrize("part", ["", "source.png", "tail.safetensors"])
def test_a_subject_without_permission_is_named(tail: Artifact, part: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        library = Library(Path(place))
        sound = library.add(tail, tiny.picture())
        shutil.copytree(sound.tail.parent, library.folder / "secret")
        (library.folder / "secret" / part).chmod(0)
        with as_nobody():
            listing = library.listing()
        assert [each.name for each in listing.entries] == [sound.name]
        assert "secret" in listing.damaged[0]
        assert "ermission" in listing.damaged[0]


@pytest.mark.parametrize("name", ["", ".", "..", "../library", "/etc", "a/b", "a\0b", "nobody"])
def test_names_are_no_paths(tmp_path: Path, tail: Artifact, name: str) -> None:
    library = Library(tmp_path / "library")
    library.add(tail, None)
    with pytest.raises(OptionError, match="no subject"):
        library.open(name)


def test_thumbnails_of_strangers(tail: Artifact) -> None:
    assert thumbnail(tail) is not None
    for url in ("", "https://example.com/x.jpg", "data:image/jpeg;base64,AAAA", "data:image/jpeg;base64,%%"):
        assert thumbnail(replace(tail, thumbnail=url)) is None


def test_folder_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPER_LIBRARY", "/a")
    monkeypatch.setenv("XDG_DATA_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert default_folder() == Path("/a")
    monkeypatch.delenv("HIPER_LIBRARY")
    assert default_folder() == Path("/b/hiper/library")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_folder() == Path("/c/.local/share/hiper/library")


# jobs and sessions


def endless(job: BackgroundJob[None]) -> None:
    for step in range(10**9):
        job.report("working", step, 10**9)


def test_jobs_take_turns_and_a_stopped_one_gives_way(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    first = sessions.start("a", endless)
    while not first.progress.done:
        first.wait(0.001)
    second = sessions.start("b", lambda job: "done")
    assert not second.wait(0.05)
    assert (first.before, second.before) == (0, 1)
    unwanted = sessions.start("c", endless)
    sessions.stop("c")
    assert unwanted.wait(60)
    sessions.stop("a")
    assert second.wait(60)
    assert second.result() == "done"
    with pytest.raises(JobStopped):
        first.result()
    with pytest.raises(JobStopped):
        unwanted.result()


def test_no_more_jobs_than_the_line_holds(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    for number in range(MOST):
        sessions.start(str(number), endless)
    with pytest.raises(UserError, match=f"^{MOST} jobs wait for the model already"):
        sessions.start("one more", endless)
    sessions.close()
    assert sessions.start("one more", lambda job: "done").wait(60)


def test_a_job_is_stopped_before_it_is_there(tmp_path: Path) -> None:
    """Reading a large picture takes a second in which Stop can be pressed, or the tab be closed."""
    sessions = Sessions(tmp_path)
    sessions.ask("a")
    sessions.stop("a")
    sessions.ask("b")
    sessions.forget("b")
    for job in (sessions.start("a", endless), sessions.start("b", endless)):
        assert job.wait(60)
        with pytest.raises(JobStopped):
            job.result()
    for session in "ab":  # pressed again, and a connection that is there again
        sessions.ask(session)
        again = sessions.start(session, lambda job: "done")
        assert again.wait(60)
        assert again.result() == "done"


def test_a_long_job_gives_way_and_goes_on_behind_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hiper.web.jobs.SLICE", 0.02)
    sessions, turns = Sessions(tmp_path), []

    def long(job: BackgroundJob[None]) -> None:
        turns.append(job.progress.done)
        while not job.stop_request():
            job.progress.report("working", job.progress.done + 1, 10**9)
            time.sleep(0.001)
        raise Interrupted("asked to")

    first = sessions.start("a", long)
    while not first.progress.done:
        first.wait(0.001)
    others = [sessions.start(name, lambda job: "done") for name in "bc"]
    for other in others:
        assert other.wait(60)
        assert other.result() == "done"
    reached = turns[-1]
    assert not first.wait(0.2)
    assert len(turns) > 1  # its work was called again
    assert first.progress.done > reached
    sessions.stop("a")
    assert first.wait(60)
    with pytest.raises(Interrupted):
        first.result()


@pytest.mark.slow
def test_fits_that_take_turns_are_bit_for_bit_their_own(
    sd1: Any, subject: hiper.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hiper.web.jobs.SLICE", 0.0)
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    service = Service(sd1, Library(tmp_path / "library"), Sessions(tmp_path), Similarity())
    options = [HiPer().options(num_train_steps=5, seed=seed) for seed in (0, 1)]
    jobs = [service.learn(str(each.seed), subject, each, previews=False)[0] for each in options]
    assert all(job.wait(60) for job in jobs)
    for job, each in zip(jobs, options, strict=True):
        alone = HiPer().fit(sd1, subject, each)
        assert torch.equal(job.result().artifact.tensors["tail"], alone.tensors["tail"])


def test_a_fit_is_stopped_while_a_preview_is_drawn(sd1: Any, subject: hiper.Subject, tmp_path: Path) -> None:
    shown: list[Preview] = []
    steps = [0]
    asked: list[int] = []

    def should_stop() -> int | None:
        asked.append(steps[-1])
        return 2 if asked.count(3) > 1 else None

    with pytest.raises(Interrupted, match="while a preview"):
        fit_with_previews(
            sd1,
            subject,
            HiPer().options(num_train_steps=12),
            at=(3,),
            on_preview=shown.append,
            control=FitControl(
                checkpoint=CheckpointFile(path=tmp_path / "fit", resume=True),
                callback=lambda record: steps.append(record.step),
                should_stop=should_stop,
            ),
        )
    assert shown == []
    assert steps[-1] == 3


def test_a_search_is_stopped_between_two_pictures_that_are_ranked() -> None:
    job = BackgroundJob(endless, JobQueue())
    ranker = _Stoppable(Redness(), partial(job.report, "ranking"))
    assert ranker.score(tiny.picture(), "a dog") == Redness().score(tiny.picture(), "a dog")
    job.stop()
    with pytest.raises(JobStopped):
        ranker.score(tiny.picture(), "a dog")
    assert job.wait(60)


# what comes from outside


OWN = "127.0.0.1:7860"


def asked(headers: dict[str, str], *, host: str = "127.0.0.1", method: str = "POST", path: str = "/x") -> int:
    """What a guarded page answers; 200: it was let through."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("welcome")(scope, receive, send)

    local = host in ("127.0.0.1", "localhost")
    guard = Guard(
        page, names=names_of(host), addresses=not local, max_file_bytes=1000, after_upload=lambda: None
    )
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "query_string": b""}
    asyncio.run(guard(scope, receive, send))
    return statuses[0]


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": OWN}, 200),  # no browser
        ({"host": OWN, "origin": f"http://{OWN}", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
        ({"host": "[::1]:7860", "origin": "http://[::1]:7860"}, 200),
        ({"host": OWN, "origin": "https://evil.example"}, 403),
        ({"host": OWN, "origin": "http://127.0.0.1:8000"}, 403),  # another server of this computer
        ({"host": OWN, "origin": "http://localhost:7860"}, 403),
        ({"host": OWN, "origin": "null"}, 403),
        ({"host": OWN, "origin": "http://["}, 403),
        ({"host": OWN, "sec-fetch-site": "cross-site"}, 403),
        ({"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, 400),  # rebinding
        ({"host": "192.168.0.9:7860"}, 400),
        ({"host": ""}, 400),
        ({"host": "["}, 400),
    ],
)
def test_another_site_can_send_nothing(headers: dict[str, str], status: int, path: str) -> None:
    assert asked({**headers, "content-length": "2"}, path=path) == status


def test_links_lead_to_the_page_but_nothing_of_it_is_embedded_elsewhere() -> None:
    elsewhere = {"host": OWN, "sec-fetch-site": "cross-site"}
    assert asked({**elsewhere, "sec-fetch-mode": "navigate"}, method="GET") == 200
    assert asked({**elsewhere, "sec-fetch-mode": "no-cors"}, method="GET") == 403


def test_a_page_for_several_is_reached_by_address_and_own_name_alone() -> None:
    own = socket.gethostname()
    for name in (
        "192.168.0.9:7860",
        "[fe80::1]:7860",
        f"{own}:7860",
        "studio.example:7860",
        "localhost:7860",
    ):
        headers = {"host": name, "origin": f"http://{name}", "content-length": "2"}
        assert asked(headers, host="studio.example") == 200
    rebound = {"host": "evil.example:7860", "origin": "http://evil.example:7860", "content-length": "2"}
    assert asked(rebound, host="0.0.0.0") == 400


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/gradio_api/upload", "66000", 200),
        ("/gradio_api/upload", "67000", 413),
        ("/gradio_api/upload/", "67000", 413),
        ("/gradio_api/queue/join", str(2**20), 200),
        ("/gradio_api/component_server", "2", 403),
        ("/gradio_api/component_server/", "2", 403),
        ("/gradio_api/queue/join", str(2**20 + 1), 413),
        ("/gradio_api/upload", "", 411),
        ("/gradio_api/upload", "-1", 411),
    ],
)
def test_requests_are_bounded(path: str, length: str, status: int) -> None:
    assert asked({"host": OWN, "content-length": length}, path=path) == status


def test_uploads_go_when_they_are_read_or_pile_up(tmp_path: Path) -> None:
    def upload(name: str, age: float = 0) -> str:
        path = tmp_path / name / "picture.png"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - age,) * 2)
        uploads.paths.add(str(path))
        return str(path)

    uploads = Uploads(tmp_path, most=250)
    first, second, third = (upload(str(age), age=age) for age in (30, 20, 10))
    uploads.prune()
    assert [Path(each).exists() for each in (first, second, third)] == [False, True, True]
    with uploads.taken(second):
        assert Path(second).read_bytes() == bytes(100)
    assert not Path(second).parent.exists()
    old, strange = upload("old", age=3600), tmp_path / "strange.png"
    strange.touch()
    with uploads.taken(str(strange)):
        pass
    uploads.prune()
    assert strange.exists()
    assert not Path(old).exists()
    assert uploads.paths == {third}


def test_the_same_picture_of_another_session_stays_and_what_broke_off_goes(tmp_path: Path) -> None:
    """The server names a folder by what a file holds; what it has not taken in whole lies beside these."""
    uploads = Uploads(tmp_path, most=250)
    (tmp_path / "content").mkdir()
    mine, theirs = (tmp_path / "content" / name for name in ("dog.png", "rex.png"))
    broken = [tmp_path / f"tmp{i}" for i in range(4)]
    for age, path in enumerate([theirs, mine, *reversed(broken)]):
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - age,) * 2)
    uploads.paths |= {str(mine), str(theirs)}
    with uploads.taken(str(mine)):
        pass
    assert [mine.exists(), theirs.exists()] == [False, True]
    uploads.prune()
    assert theirs.exists()
    assert [path.exists() for path in broken] == [False, False, False, True]


def test_an_upload_that_breaks_off_is_tidied_up_as_well() -> None:
    calls: list[str] = []

    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    guard = Guard(
        breaks_off,
        names=names_of("127.0.0.1"),
        addresses=False,
        max_file_bytes=1000,
        after_upload=lambda: calls.append("tidied"),
    )
    headers = [(b"host", OWN.encode()), (b"content-length", b"10")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    with pytest.raises(ClientDisconnect):
        asyncio.run(guard(scope, None, None))  # type: ignore[arg-type]  # neither is called
    assert calls == ["tidied"]


def test_leaving_the_ticks_stops_the_job() -> None:
    job = BackgroundJob(endless, JobQueue())
    ticks = job.ticks(0.01)
    next(ticks)
    del ticks  # as when a tab is closed: the generator is thrown away
    assert job.wait(60)


def test_an_error_in_a_job_is_raised_where_its_result_is_asked_for() -> None:
    def fails(job: BackgroundJob[None]) -> None:
        raise OptionError("no")

    job = BackgroundJob(fails, JobQueue())
    assert job.wait(60)
    with pytest.raises(OptionError, match="no"):
        job.result()


def test_a_session_that_ends_takes_its_files_along(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    mine, theirs = sessions.new_folder("../../me"), sessions.new_folder("you")
    assert mine.parent.parent == tmp_path
    sessions.forget("../../me")
    assert not mine.parent.exists()
    assert theirs.exists()


def test_progress_knows_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hiper.web.jobs.time.monotonic", lambda: now[0])
    progress = JobProgress()
    progress.report("fit", 10, 20)
    assert "left" not in markup.bar(progress)
    now[0] = 104.0
    progress.report("fit", 12, 20)
    assert progress.seconds_left == 16.0
    assert "12 of 20, about 16 s left" in markup.bar(progress)


def test_markup_escapes_what_comes_from_outside(tail: Artifact, tmp_path: Path) -> None:
    evil = "<script>'\"&"
    entry = Library(tmp_path).add(replace(tail, caption=evil, backbone=evil), None)
    progress = JobProgress()
    progress.report(evil, 1, 2)
    pieces = (
        markup.subject(entry),
        markup.bar(progress),
        markup.message(evil),
        markup.heading(evil, embedded=True),
    )
    for piece in pieces:
        assert "<script>" not in piece
        assert "&lt;script&gt;&#x27;&quot;&amp;" in piece


# the service


@pytest.mark.slow
def test_service_works_with_any_model_and_says_what_its_search_needs(
    sd1: Any, subject: hiper.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    service = Service(sd1, Library(tmp_path / "library"), Sessions(tmp_path), Similarity())
    options = HiPer().options(num_train_steps=4)
    fit, watch = service.learn("me", subject, options, previews=True)
    assert fit.wait(60)
    assert fit.result().artifact.options["num_train_steps"] == 4
    assert [each.step for each in watch.previews] == [1, 2, 3]
    again, watch = service.learn("me", subject, options, previews=True)
    assert again.wait(60)
    assert again.result().name == fit.result().name
    assert watch.records == []  # the finished fit was taken as it is
    wish = DrawRequest(
        sentences=["a sitting dog", "a jumping dog"],
        images=2,
        first_seed=3,
        strength=0.8,
        guidance_scale=3.0,
        num_inference_steps=2,
        scheduler="ddim",
        negative_prompt="",
    )
    drawing, drawn = service.draw("me", fit.result().name, wish)
    assert drawing.wait(60)
    assert [each.caption for each in drawn.pictures][1:3] == [
        "a sitting dog · seed 4",
        "a jumping dog · seed 3",
    ]
    assert all(each.path.is_relative_to(tmp_path) and each.path.is_file() for each in drawn.pictures)
    with pytest.raises(OptionError, match="--clip FOLDER"):
        service.search("me", fit.result().name, wish, candidates=8)
    with pytest.raises(OptionError, match="at a time 1 to 64"):
        service.draw("me", fit.result().name, replace(wish, images=33))
    with pytest.raises(OptionError, match="no subject is chosen"):
        service.draw("me", "", wish)


@pytest.fixture(scope="module")
def listed(sd1: Any, tail: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, str, str]:
    """A service, and a subject with its picture of another size than the model's, and one without."""
    folder = tmp_path_factory.mktemp("parts")
    service = Service(sd1, Library(folder / "library"), Sessions(folder), Similarity())
    picture = Image.effect_noise((150, 90), 99).convert("RGB")
    whole = service.library.add(replace(tail, image_sha256=pixels_sha256(picture)), picture)
    return service, whole.name, service.library.add(replace(tail, created="2000"), None).name


WISH = DrawRequest(
    sentences=["a sitting dog", "a lying dog"],
    images=2,
    first_seed=0,
    strength=0.8,
    guidance_scale=3.0,
    num_inference_steps=1,
    scheduler=None,
    negative_prompt="",
    keep=0.5,
)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_painted_over_a_copy_is_a_region_of_the_picture(
    listed: tuple[Service, str, str], tail: Artifact, sd1: Any, own: bool
) -> None:
    service, with_picture, without = listed
    name = with_picture if own else without
    assert tail.source is not None
    picture = service.library.open(name).picture if own else sd1.decode(tail.source.float())[0]
    assert isinstance(picture, Image.Image)
    canvas = service.canvas(name)
    assert max(canvas.size) == CANVAS
    assert canvas.width / canvas.height == pytest.approx(picture.width / picture.height, rel=0.01)
    layer = Image.new("RGBA", canvas.size)
    layer.paste("#d40000", (0, 0, canvas.width // 2, canvas.height))
    middle = picture.width // 2
    part = EditedPart(layers=[layer]) if own else EditedPart(layers=[], box=f"0,0,{middle},{picture.height}")
    calls = Counter[str]()
    hook = register_module_forward_hook(lambda module, *_: calls.update([type(module).__name__]))
    try:
        job, drawn = service.draw("me", name, replace(WISH, part=part, show_mask=True))
        assert job.wait(60)
        job.result()
    finally:
        hook.remove()
    assert calls["Encoder"] == own  # once for both sentences
    assert calls["Decoder"] == 4 + (not own)
    assert [each.is_mask for each in drawn.pictures] == [False, True] * 4
    for each in drawn.pictures:
        with Image.open(each.path) as image:
            right = (middle, 0, *picture.size)
            assert image.size == picture.size
            assert image.crop(right).tobytes() == picture.crop(right).tobytes()
            assert image.tobytes() != picture.tobytes()
    with Image.open(drawn.pictures[0].path) as image:
        assert json.loads(image.info["hiper"])["given"] == ["source", "region"][not own :]


@pytest.mark.parametrize(
    ("part", "match"),
    [
        (EditedPart(layers=[]), "no part is painted"),
        (EditedPart(layers=[Image.new("RGBA", (CANVAS, 307))]), "no part is painted"),
        (EditedPart(layers=[Image.new("RGBA", (9, 9), "red")]), "another picture"),
        (EditedPart(layers=[Image.new("RGBA", (CANVAS, 307), "red")], box="0,0,9,9"), "clear one"),
        (EditedPart(layers=[], box="0,0,9"), "whole pixels"),
        (EditedPart(layers=[], box="mask.png"), "whole pixels"),
        (EditedPart(layers=[], box="0,0,151,9"), "within"),
    ],
)
def test_a_part_that_is_none_is_refused_before_the_job(
    listed: tuple[Service, str, str], part: EditedPart, match: str
) -> None:
    service, name, _ = listed
    assert service.canvas(name).size == (CANVAS, 307)
    with pytest.raises(OptionError, match=match):
        service.draw("me", name, replace(WISH, part=part))


def test_a_whole_picture_is_a_part_and_none_is_kept_at_zero(listed: tuple[Service, str, str]) -> None:
    service, name, _ = listed
    everything = EditedPart(layers=[Image.new("RGBA", service.canvas(name).size, "red")])
    job, drawn = service.draw("me", name, replace(WISH, part=everything))
    assert job.wait(60)
    job.result()
    assert len(drawn.pictures) == 4
    job, _ = service.draw("me", name, replace(WISH, part=everything, keep=0.0))
    assert job.wait(60)
    with pytest.raises(OptionError, match="keep is 0"):
        job.result()


def test_no_part_of_a_picture_that_is_nowhere(listed: tuple[Service, str, str], tail: Artifact) -> None:
    service = listed[0]
    bare = service.library.add(replace(tail, source=None), None)
    with pytest.raises(OptionError, match="without its picture"):
        service.canvas(bare.name)


# the command


def test_without_gradio_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["ui"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert 'pip install "hiper[ui]"' in err


def test_the_curve_is_drawn_of_records_that_grow_meanwhile() -> None:
    from hiper.training import ProgressEvent
    from hiper.web.learning import _curve

    class Growing(list[ProgressEvent]):
        def __iter__(self) -> Any:
            yield from list(self[:])
            self.append(ProgressEvent(step=len(self) + 1, steps=9, loss=1.0, seconds=0.0))

    records = Growing([ProgressEvent(step=1, steps=9, loss=1.0, seconds=0.0)])
    assert list(_curve(records)["step"]) == [1]


def test_a_lack_of_memory_is_told_in_words() -> None:
    with pytest.warns(UserWarning, match="out of memory; what was saved stays"), Reported():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="size mismatch"), Reported():
        raise RuntimeError("size mismatch")
