"""The web page, used by a person: everything here happens in a real browser against a real server."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, expect

import hiper
from hiper.analysis import demo_scene
from hiper.artifacts import Artifact, Library
from hiper.critters import render
from hiper.images import png_bytes
from tests.browser import Visit, launched, serving

pytestmark = pytest.mark.slow

CAPTION = "a standing cat in a meadow"
LONG = 100_000
"""Steps of a fit that nobody waits for."""
SCRIPT = "a sitting cat <img src=x onerror=alert(1)><script>alert(2)</script>"
LARGEST_MB = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, critters: Any) -> Path:
    """Where the server keeps its files; one subject is in the library, with a caption that means harm."""
    folder = tmp_path_factory.mktemp("ui")
    picture = render(demo_scene(7))
    subject = hiper.Subject.from_image(picture, caption=f"{CAPTION} <b onclick=alert(3)>")
    with pytest.warns(hiper.HiperWarning, match="onclick"):  # no words of the toy world
        artifact = hiper.fit(critters, subject)
    Library(folder / "library").add(artifact, picture)
    artifact.save(folder / "elsewhere.safetensors")
    (folder / "critter.png").write_bytes(png_bytes(picture))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder, "--device", "cpu", "--max-upload-mb", str(LARGEST_MB)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    """A visit; afterwards nothing has popped up, and nothing was asked from elsewhere."""
    person = Visit(browser, url)
    yield person
    assert person.dialogs == []
    assert [each for each in person.requests if not each.startswith((url, "data:", "blob:"))] == []
    person.close()


def choose_subject(visit: Visit) -> None:
    visit.tab("Library")
    visit.page.locator(".hiper-shelf .thumbnail-item").last.click()
    visit.shows(CAPTION)


def learn_forever(visit: Visit) -> None:
    visit.button("Give me an example picture").click()
    expect(visit.page.get_by_label("What the picture shows", exact=True)).not_to_have_value("")
    visit.set("How to learn", Steps=LONG)
    visit.button("Learn this subject").click()
    visit.shows(f"of {LONG}, about")


def test_from_a_picture_to_downloaded_files(
    visit: Visit, folder: Path, tmp_path: Path, critters: Any
) -> None:
    page = visit.page
    page.locator(".hiper-upload input[type=file]").set_input_files(folder / "critter.png")
    caption = page.get_by_label("What the picture shows")
    expect(caption).to_have_value(demo_caption())
    page.get_by_role("button", name="How to learn").click()
    page.get_by_label("Show previews while learning").check()
    visit.set("How to learn", Steps=20)
    visit.button("Learn this subject").click()
    visit.shows("Learning: ")
    visit.shows("Learnt “")
    assert page.locator(".hiper-strip .thumbnail-item").count() == 4
    expect(page.locator(".hiper-loss svg, .hiper-loss canvas").first).to_be_visible()

    visit.button("Go on: draw with it").click()
    page.get_by_label("Sentences, one on each line").fill(f"{SCRIPT}\n\na sleeping cat")
    visit.set("More settings", number_input_for_Drawing_steps=4, number_input_for_Pictures_per_sentence=2)
    visit.button("Draw").click()
    visit.shows("Drawn: 4 pictures")
    assert page.locator(".hiper-drawn .thumbnail-item").count() == 4
    visit.shows(f"{SCRIPT} · seed 0")
    page.locator(".hiper-drawn .thumbnail-item").nth(3).click()
    visit.shows("Before and after: a sleeping cat · seed 1")

    with page.expect_download() as tail:
        visit.button("Download its tail file").click()
    tail.value.save_as(tmp_path / "tail.safetensors")
    artifact = Artifact.load(tmp_path / "tail.safetensors")
    assert artifact.caption == demo_caption()
    assert artifact.options["num_train_steps"] == 20
    with page.expect_download() as pictures:
        visit.button("Download all pictures (ZIP)").click()
    pictures.value.save_as(tmp_path / "pictures.zip")
    with zipfile.ZipFile(tmp_path / "pictures.zip") as bundle:
        names = bundle.namelist()
        drawn = [Image.open(io.BytesIO(bundle.read(name))) for name in names]
    assert names[2:] == ["03-a-sleeping-cat-0.png", "04-a-sleeping-cat-1.png"]
    again = hiper.edit(critters, artifact, "a sleeping cat", seeds=[0, 1], num_inference_steps=4)
    assert [image.tobytes() for image in drawn[2:]] == [image.tobytes() for image in again.images]
    assert all("hiper" in image.info for image in drawn)


def demo_caption() -> str:
    from hiper.critters import bare_caption

    return bare_caption(demo_scene(7))


def test_seed_search_draws_the_best_of_many(visit: Visit) -> None:
    choose_subject(visit)
    visit.page.get_by_label("Sentences, one on each line").fill("a sitting cat on the beach")
    visit.set(
        "More settings",
        number_input_for_Drawing_steps=4,
        number_input_for_Seeds_to_search=8,
        number_input_for_Pictures_per_sentence=2,
    )
    visit.button("Search for good seeds").click()
    visit.shows("Drawn: 2 pictures")
    visit.shows("text ")
    visit.shows("likeness -")


def drawn_files(visit: Visit, path: Path) -> dict[str, Image.Image]:
    with visit.page.expect_download() as pictures:
        visit.button("Download all pictures (ZIP)").click()
    pictures.value.save_as(path)
    with zipfile.ZipFile(path) as bundle:
        return {name: Image.open(io.BytesIO(bundle.read(name))) for name in bundle.namelist()}


def test_only_what_is_painted_changes(visit: Visit, folder: Path, tmp_path: Path) -> None:
    page = visit.page
    choose_subject(visit)
    page.get_by_label("Sentences, one on each line").fill("a standing cat on the beach")
    page.get_by_label("Change only a part").check()
    canvas = page.locator(".hiper-painting canvas").last
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1000)  # the canvas takes its size from the picture
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    assert place is not None
    middle, height = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(middle - 50, height)
    page.mouse.down()
    page.mouse.move(middle + 50, height, steps=10)
    page.mouse.up()
    visit.set("More settings", number_input_for_Drawing_steps=4, number_input_for_Pictures_per_sentence=1)
    page.get_by_label("Show where each picture could change").check()
    visit.button("Draw").click()
    visit.shows("Drawn: 1 pictures")
    visit.shows("where it could change · seed 0")
    edited, veiled = drawn_files(visit, tmp_path / "pictures.zip").values()
    before, after, veil = (
        np.asarray(image.convert("RGB")) for image in (Image.open(folder / "critter.png"), edited, veiled)
    )
    changed, free = ((each != after).any(2) for each in (before, veil))
    assert before.shape == after.shape
    assert changed.any()
    assert free.any()
    rows, columns = np.nonzero(changed | free)
    side = len(before)
    assert rows.min() > 0.35 * side
    assert rows.max() < 0.65 * side
    assert columns.min() > 0.1 * side
    assert columns.max() < 0.9 * side


def test_a_part_is_a_box_for_who_has_no_pointer_and_what_is_wrong_with_it_is_said(
    visit: Visit, folder: Path, tmp_path: Path
) -> None:
    page = visit.page
    visit.tab("Draw")
    expect(page.get_by_label("Change only a part")).to_be_disabled()
    choose_subject(visit)
    page.get_by_label("Sentences, one on each line").fill("a sitting cat")
    page.get_by_label("Change only a part").focus()
    page.keyboard.press("Space")
    box = page.get_by_label("Or a box")
    visit.set("More settings", number_input_for_Drawing_steps=2, number_input_for_Pictures_per_sentence=1)
    for wrong, words in (
        ("", "no part is painted"),
        ("0,0,9", "left,top,right,bottom"),
        ("/etc/passwd", "left,top,right,bottom"),
        ("0,0,9999,9", "within the picture's"),
    ):
        box.fill(wrong)
        visit.button("Draw").click()
        toast = page.get_by_test_id("toast-body").filter(has_text=words)
        expect(toast).to_be_visible()
        toast.get_by_test_id("toast-close").click()
        expect(visit.button("Draw")).to_be_enabled()
    source = Image.open(folder / "critter.png")
    width, height = source.size
    box.fill(f"0,0,{width // 2},{height}")
    visit.button("Draw").click()
    visit.shows("Drawn: 1 pictures")
    (edited,) = drawn_files(visit, tmp_path / "pictures.zip").values()
    right = (width // 2, 0, width, height)
    assert edited.convert("RGB").crop(right).tobytes() == source.convert("RGB").crop(right).tobytes()
    assert edited.convert("RGB").tobytes() != source.convert("RGB").tobytes()
    choose_subject(visit)
    expect(page.get_by_label("Change only a part")).not_to_be_checked()
    expect(box).to_be_hidden()


def test_stopping_frees_the_model_and_keeps_what_was_reached(visit: Visit) -> None:
    learn_forever(visit)
    visit.button("Stop").first.click()
    visit.shows("Learn again to go on from there")
    status = visit.page.locator(".hiper-status").first.inner_text()
    reached = int(status.split("step ")[1].split()[0])
    visit.button("Learn this subject").click()
    visit.shows(f"of {LONG}, about")
    going_on = int(visit.page.locator(".hiper-progress p").inner_text().split()[1])
    assert going_on > reached
    visit.button("Stop").first.click()
    visit.shows("Learn again")


def test_stop_right_after_learn_on_a_large_photograph(visit: Visit, tmp_path: Path) -> None:
    """Reading 12 million pixels takes longer than reaching for the button."""
    Image.effect_noise((400, 300), 9).convert("RGB").resize((4000, 3000)).save(
        tmp_path / "photo.jpg", quality=20
    )
    visit.page.locator(".hiper-upload input[type=file]").set_input_files(tmp_path / "photo.jpg")
    expect(visit.page.get_by_alt_text("The picture that is learnt")).to_be_visible()
    visit.page.get_by_label("What the picture shows").fill("a grey cloud")
    visit.set("How to learn", Steps=LONG)
    visit.button("Learn this subject").click()
    visit.button("Stop").first.click()
    visit.shows("Stopped")
    expect(visit.button("Learn this subject")).to_be_enabled()
    choose_subject(visit)  # the model is free
    visit.page.get_by_label("Sentences, one on each line").fill("a sitting cat")
    visit.set("More settings", number_input_for_Drawing_steps=2)
    visit.button("Draw").click()
    visit.shows("Drawn: 4 pictures")


def test_another_site_in_the_same_browser_can_send_nothing(
    browser: Browser, url: str, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<p>a harmless page</p>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        answers: dict[str, int] = {}
        page.on("response", lambda answer: answers.update({answer.url: answer.status}))
        send = """async ([url, file]) => {
            const body = new FormData(); body.append("files", new Blob(["x".repeat(1000)]), "a.png");
            await fetch(url, {method: "POST", mode: "no-cors", body: file ? body : "{}"});
        }"""
        for path in ("gradio_api/upload", "gradio_api/queue/join", "gradio_api/cancel"):
            page.evaluate(send, [url + path, path.endswith("upload")])
            assert answers[url + path] == 403
        page.close()
        other.shutdown()


def test_drawing_can_be_stopped_and_begun_again(visit: Visit) -> None:
    choose_subject(visit)
    visit.page.get_by_label("Sentences, one on each line").fill("a sitting cat")
    visit.set("More settings", number_input_for_Drawing_steps=100, number_input_for_Pictures_per_sentence=8)
    visit.button("Draw").click()
    visit.shows("Drawing, sentence 1 of 1")
    visit.button("Stop").last.click()
    visit.shows("Stopped.")
    expect(visit.button("Draw")).to_be_enabled()
    visit.set("More settings", number_input_for_Drawing_steps=2)
    visit.button("Draw").click()
    visit.shows("Drawn: 8 pictures")


def test_two_tabs_take_turns_and_a_closed_one_gives_way(browser: Browser, url: str, visit: Visit) -> None:
    first = Visit(browser, url)
    learn_forever(first)
    choose_subject(visit)
    visit.page.get_by_label("Sentences, one on each line").fill("a sitting cat")
    visit.set("More settings", number_input_for_Drawing_steps=2)
    visit.button("Draw").click()
    visit.shows("Waiting: 1 other job first")
    first.close()
    visit.shows("Drawn: 4 pictures")


def test_a_reloaded_page_starts_afresh_and_the_library_remembers(visit: Visit) -> None:
    learn_forever(visit)
    visit.open()
    visit.shows("Nothing learnt yet")
    choose_subject(visit)
    expect(visit.button("Download its tail file")).to_be_enabled()


def test_bad_files_are_refused_in_a_line(visit: Visit, folder: Path, tmp_path: Path) -> None:
    page, upload = visit.page, visit.page.locator(".hiper-upload input[type=file]")
    whole = (folder / "critter.png").read_bytes()
    bad = {
        "letter <img src=x onerror=alert(4)>.png": (b"Dear Sir", "not a picture"),
        "cut.png": (whole[: len(whole) // 2], "damaged or cut short"),
        "empty.png": (b"", "empty"),
    }
    for name, (data, words) in bad.items():
        (tmp_path / name).write_bytes(data)
        upload.set_input_files(tmp_path / name)
        toast = page.get_by_test_id("toast-body").filter(has_text=words)
        expect(toast).to_be_visible()
        assert str(folder) not in toast.inner_text()
        assert "/gradio" not in toast.inner_text()
        toast.get_by_test_id("toast-close").click()
    (tmp_path / "large.png").write_bytes(whole + bytes(LARGEST_MB * 1024 * 1024))
    upload.set_input_files(tmp_path / "large.png")
    visit.shows("maximum")
    visit.button("Learn this subject").click()
    visit.shows("no picture yet")
    visit.tab("Library")
    page.locator("input[type=file][accept='.safetensors']").set_input_files(
        shutil.copy(folder / "critter.png", tmp_path / "no.safetensors")
    )
    visit.shows("'no.safetensors': ")


def test_a_tail_from_elsewhere_is_taken_in(visit: Visit, folder: Path) -> None:
    visit.tab("Library")
    visit.page.locator("input[type=file][accept='.safetensors']").set_input_files(
        folder / "elsewhere.safetensors"
    )
    visit.shows(f"{CAPTION} <b onclick=alert(3)>")


def test_everything_fits_on_a_phone(browser: Browser, url: str) -> None:
    visit = Visit(browser, url, width=390, height=844)
    for name in ("Learn", "Draw", "Library"):
        visit.tab(name)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.close()


def test_the_keyboard_is_enough(visit: Visit) -> None:
    def reach(name: str) -> None:
        for _ in range(60):
            if visit.page.evaluate("document.activeElement.innerText || ''").strip() == name:
                return
            visit.page.keyboard.press("Tab")
        raise AssertionError(f"{name} cannot be reached with the Tab key")

    reach("Give me an example picture")
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_label("What the picture shows")).not_to_have_value("")
    reach("Learn this subject")
    visit.page.keyboard.press("Enter")
    visit.shows("Learning: ")
    reach("Stop")
    visit.page.keyboard.press("Space")
    visit.shows("Learn again")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_no_serious_barrier(visit: Visit, scheme: Literal["light", "dark"], width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.page.emulate_media(color_scheme=scheme)
    visit.open()
    visit.button("Give me an example picture").click()
    visit.page.get_by_role("button", name="How to learn").click()
    choose_subject(visit)
    visit.page.get_by_role("button", name="More settings").click()
    visit.page.get_by_label("Change only a part").check()
    expect(visit.page.locator(".hiper-painting canvas").last).to_be_visible()
    found = {}
    for name in ("Draw", "Library", "Learn"):
        visit.tab(name)
        for each in Axe().run(visit.page).response["violations"]:
            if each["impact"] in ("serious", "critical"):
                found[f"{name}: {each['id']}"] = [node["html"][:300] for node in each["nodes"]]
    assert found == {}


def fetched(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_file_outside_is_readable(url: str, folder: Path) -> None:
    tail = next((folder / "library").glob("*/tail.safetensors"))
    outside = [
        "/etc/passwd",
        str(tail),
        str(folder / "critter.png"),
        str(Path("pyproject.toml").resolve()),
        "pyproject.toml",
        "../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "file:///etc/passwd",
        "http://127.0.0.1:9/",
        "https://example.com/",
        "//example.com/",
    ]
    for path in outside:
        for quoted in (path, urllib.parse.quote(path, safe="%")):
            assert fetched(f"{url}gradio_api/file={quoted}") in (403, 404), path
    assert fetched(f"{url}gradio_api/proxy=https://example.com/") == 403
    assert fetched(url, Host="evil.example") == 400
    assert fetched(url) == 200


def forged_painting(file: dict[str, Any]) -> dict[str, Any]:
    return {"background": None, "layers": [file], "composite": None}


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/x.png", "https://example.com/x.png"])
@pytest.mark.parametrize(("kind", "given"), [("file", dict), ("imageeditor", forged_painting)])
def test_a_forged_upload_reads_nothing(url: str, path: str, kind: str, given: Any) -> None:
    with urllib.request.urlopen(f"{url}config") as answer:
        config = json.load(answer)
    (part,) = (each["id"] for each in config["components"] if each["type"] == kind)
    event = next(each for each in config["dependencies"] if part in each["inputs"])
    forged = given({"path": path, "meta": {"_type": "gradio.FileData"}})
    body = {
        "data": [forged if each == part else None for each in event["inputs"]],
        "fn_index": event["id"],
        "session_hash": "forged",
    }
    request = urllib.request.Request(
        f"{url}gradio_api/queue/join",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request):
        pass
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=forged") as stream:
        answer = next(line for line in stream if b"process_completed" in line).decode()
    assert '"success":false' in answer.replace(" ", "")
    assert "root:" not in answer
