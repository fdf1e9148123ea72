"""Job files: what is read from them, and how a mistake is refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hiper.batch import Defaults, read_jobs
from hiper.batch.jobs import Asked, EditOptions, Job, Refused
from hiper.batch.messages import ModelFacts, plan
from hiper.batch.store import open_store
from hiper.errors import ImageError, OptionError, OutputError
from tests import tiny

DEFAULTS = Defaults(
    sentences=("a sitting dog",), seeds=(0, 1), backbone="some/model", options={"num_train_steps": "7"}
)
FACTS = ModelFacts(weights_sha256="0", objective="epsilon", device="cpu", dtype="float32")


def jsonl(folder: Path, *lines: Any) -> list[Asked]:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_jobs(path, DEFAULTS)


def only_job(asked: list[Asked]) -> Job:
    (job,) = asked
    assert isinstance(job, Job)
    return job


def test_a_line_says_what_it_wants_and_takes_the_rest_from_the_command(tmp_path: Path) -> None:
    job = only_job(jsonl(tmp_path, {"image": "a/dog.png", "caption": "a dog"}, ""))
    assert (job.name, job.image, job.place) == ("dog", "a/dog.png", tmp_path)
    assert (job.sentences, job.seeds, job.backbone) == (("a sitting dog",), (0, 1), "some/model")
    assert job.resolved_options().num_train_steps == 7
    own = only_job(
        jsonl(
            tmp_path,
            {
                "name": "Rex",
                "image": "dog.png",
                "mask": "mask.png",
                "caption": "a dog",
                "sentences": ["a cat", "a cow", "a cat"],
                "seeds": [5],
                "backbone": "critters",
                "preset": "paper",
                "options": {"num_train_steps": 9},
                "edit": {"guidance_scale": 2, "scheduler": "euler"},
                "negative_prompt": "blurry",
            },
        )
    )
    assert (own.name, own.mask, own.sentences, own.seeds) == ("Rex", "mask.png", ("a cat", "a cow"), (5,))
    assert own.edit == EditOptions(guidance_scale=2.0, scheduler="euler")
    assert (own.resolved_options().num_train_steps, own.resolved_options().batch) == (9, 1)


def test_a_csv_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "\ufeffimage,caption,sentences,seeds,options.num_train_steps,edit.guidance_scale,name\r\n"
        'dog.png,"a dog, standing",a cat | a cow,5|6,9,2.5,Rex\r\n'
        "cat.png,a cat,,,,,\r\n"
    )
    first, second = read_jobs(path, DEFAULTS)
    line = {
        "image": "dog.png",
        "caption": "a dog, standing",
        "sentences": ["a cat", "a cow"],
        "seeds": [5, 6],
        "options": {"num_train_steps": "9"},
        "edit": {"guidance_scale": 2.5},
        "name": "Rex",
    }
    assert first == only_job(jsonl(tmp_path, line))
    assert isinstance(second, Job)
    assert (second.sentences, second.seeds, second.name) == (("a sitting dog",), (0, 1), "cat")


def test_a_folder_has_captions_beside_its_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text(" a red dog\n")
    (tmp_path / "b.txt").write_text("a blue cat")
    a, b, c = read_jobs(tmp_path, DEFAULTS)
    assert isinstance(a, Job)
    assert isinstance(b, Job)
    assert isinstance(c, Refused)
    assert [(each.name, each.image, each.caption) for each in (a, b)] == [
        ("a.JPG", "a.JPG", "a red dog"),
        ("b.png", "b.png", "a blue cat"),
    ]
    assert "no caption; write it to 'c.txt'" in str(c.reason)


def test_what_a_system_put_into_a_folder_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "rex.jpg")
    (tmp_path / "rex.txt").write_text("a dog")
    for name in ("._rex.jpg", "._rex.txt", ".hidden.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "folder.png").mkdir()
    assert [each.name for each in read_jobs(tmp_path, DEFAULTS)] == ["rex.jpg"]


@pytest.mark.parametrize(
    ("picture", "caption", "data"),
    [
        ("UP.PNG", "UP.TXT", b"a dog"),
        ("up.png", "UP.Txt", b"a dog"),
        ("UP.PNG", "up.txt", b"a dog"),
        ("dog.png", "dog.caption", b"a dog"),
        ("dog.png", "DOG.CAPTION", b"a dog"),
        ("dog.png", "dog.txt", "\ufeffa dog".encode()),
        ("dog.png", "dog.txt", "\ufeffa dog\r\n".encode("utf-16-le")),
        ("dog.png", "dog.txt", "\ufeffa dog".encode("utf-16-be")),
    ],
)
def test_a_caption_is_found_whatever_its_spelling(
    tmp_path: Path, picture: str, caption: str, data: bytes
) -> None:
    (tmp_path / picture).write_bytes(b"")
    (tmp_path / caption).write_bytes(data)
    assert only_job(read_jobs(tmp_path, DEFAULTS)).caption == "a dog"


def test_of_two_captions_the_own_one_counts_and_a_difference_is_told(tmp_path: Path) -> None:
    for name in ("dog.png", "Dog.png", "cat.png"):
        (tmp_path / name).write_bytes(b"")
    for name, text in {
        "dog.txt": "small",
        "Dog.txt": "large",
        "cat.txt": "one",
        "cat.caption": "two",
    }.items():
        (tmp_path / name).write_text(text)
    large, cat, small = read_jobs(tmp_path, DEFAULTS)
    assert isinstance(large, Job)
    assert isinstance(small, Job)
    assert (large.name, large.caption, small.caption) == ("Dog.png", "large", "small")
    assert isinstance(cat, Refused)
    assert "two captions, 'cat.caption' and 'cat.txt'" in str(cat.reason)


def test_a_caption_of_another_encoding_is_told(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_bytes("ein Hündchen".encode("cp1252"))
    (tmp_path / "b.txt").write_text("a dog")
    refused, job = read_jobs(tmp_path, DEFAULTS)
    assert isinstance(job, Job)
    assert isinstance(refused, Refused)
    assert "not UTF-8 (byte 5 is 0xfc)" in str(refused.reason)


TABLE = "image,caption,sentences,seeds\nrex.png,ein Hündchen,a cat | a cow,5|6\n"
SHEETS = {
    "semicolons": TABLE.replace(",", ";").encode(),
    "tabs": TABLE.replace(",", "\t").encode(),
    "a byte order mark": b"\xef\xbb\xbf" + TABLE.replace(",", ";").encode(),
    "UTF-16, as Unicode text": TABLE.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
    "a line that names the mark": b"sep=;\r\n" + TABLE.replace(",", ";").encode(),
    "that line with a mark before it": b"\xef\xbb\xbfsep=\t\r\n" + TABLE.replace(",", "\t").encode(),
    "rows and columns of nothing": TABLE.replace(",", ";").replace("\n", ";;\n").encode() + b";;;;;\n;;;;;\n",
    "blanks and quotes": b'"image"; "caption";sentences;seeds\nrex.png;"ein H\xc3\xbcndchen";a cat | a cow;5|6\n',
}


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.TSV"])
@pytest.mark.parametrize("data", SHEETS.values(), ids=SHEETS)
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    job = only_job(read_jobs(tmp_path / name, DEFAULTS))
    assert (job.image, job.caption, job.sentences, job.seeds) == (
        "rex.png",
        "ein Hündchen",
        ("a cat", "a cow"),
        (5, 6),
    )


def test_a_table_that_cannot_be_read_says_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes("image;caption\nrex.png;ein Hündchen\n".encode("cp1252"))
    with pytest.raises(OptionError, match=r"not UTF-8 \(byte 27 is 0xfc\)"):
        read_jobs(path, DEFAULTS)
    path.write_text("Bild;Text\nrex.png;a dog\n")
    with pytest.raises(OptionError, match=r"reads 'Bild;Text'; image and caption are needed"):
        read_jobs(path, DEFAULTS)
    path.write_text("sep=;\nimage;caption\nrex.png;a dog\nrex.png;a;dog\n")
    _, refused = read_jobs(path, DEFAULTS)
    assert refused.name == "line 4"


def test_places_are_meant_from_the_list_and_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, place = tmp_path / "home", tmp_path / "lists"
    home.mkdir()
    place.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PHOTOS", str(home / "photos"))
    monkeypatch.chdir(home)
    lines = [
        {**GOOD, "image": name, "mask": name}
        for name in (
            "~/x.png",
            "$PHOTOS/x.png",
            "${PHOTOS}/x.png",
            "sub/x.png",
            "~nobody-here/x.png",
            "~odd.png",
        )
    ]
    (place / "~odd.png").write_bytes(b"")
    jobs = [each for each in jsonl(place, *lines) if isinstance(each, Job)]
    expected = [
        *(home / "x.png", home / "photos" / "x.png", home / "photos" / "x.png"),
        *(place / "sub" / "x.png", place / "~nobody-here" / "x.png", place / "~odd.png"),
    ]
    assert [each.image_path for each in jobs] == [each.mask_path for each in jobs] == expected
    assert jobs[0].as_record()["image"] == "~/x.png"


def test_a_job_that_asks_for_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    many = {**GOOD, "sentences": [f"a dog {i}" for i in range(200)], "seeds": list(range(200))}
    refused, _ = jsonl(tmp_path, many, GOOD)
    assert isinstance(refused, Refused)
    assert "200 sentences with 200 seeds" in str(refused.reason)


GOOD = {"image": "dog.png", "caption": "a dog"}


def test_a_seed_of_thousands_of_digits_is_told(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(f"image,caption,seeds\ndog.png,a dog,{'9' * 5000}\ndog.png,a dog,7\n")
    refused, job = read_jobs(path, DEFAULTS)
    assert isinstance(refused, Refused)
    assert "allowed is a list of whole numbers" in str(refused.reason)
    assert isinstance(job, Job)
    assert list(job.seeds) == [7]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": ', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"edit": {"guidance_scale": NaN}}', "no JSON (NaN is no finite number)"),
        ('{"edit": {"guidance_scale": 1e999}}', "no JSON"),
        ("[1]", "no JSON object"),
        ({"caption": "a dog"}, "no image"),
        ({"image": "dog.png"}, "no caption"),
        ({**GOOD, "captoin": "x"}, "no field 'captoin' (did you mean caption?)"),
        ({**GOOD, "place": "/"}, "no field 'place'"),
        ({**GOOD, "caption": 3}, "caption is 3; allowed are texts"),
        ({**GOOD, "image": ["a.png", "b.png"]}, "see hiper average"),
        ({**GOOD, "caption": "a \ud800 dog"}, r"caption holds '\ud800', half a character"),
        ({**GOOD, "sentences": ["a cat", "\udfff"]}, r"sentences holds '\udfff'"),
        ({**GOOD, "negative_prompt": "\udcff"}, "negative_prompt holds"),
        ({**GOOD, "options": {"target": "\ud800"}}, "options holds"),
        ({**GOOD, "backbone": "\ud800"}, "backbone holds"),
        ({**GOOD, "sentences": "a cat"}, "sentences is 'a cat'; allowed is a list of texts"),
        ({**GOOD, "seeds": [-1]}, "seeds is [-1]; allowed is a list of whole numbers"),
        ({**GOOD, "seeds": []}, "seeds is []"),
        ({**GOOD, "method": "hipper"}, "did you mean hiper?"),
        ({**GOOD, "preset": "papper"}, "did you mean paper?"),
        (
            {**GOOD, "options": {"num_train_stepps": 3}},
            "no option 'num_train_stepps' (did you mean num_train_steps?)",
        ),
        ({**GOOD, "options": {"seed": -1}}, "give a seed of 0 or more"),
        ({**GOOD, "options": 3}, "options is 3; allowed is an object"),
        (
            {**GOOD, "edit": {"guidance_scale": "much"}},
            "guidance_scale is 'much'; allowed are numbers from 0 to 100",
        ),
        ({**GOOD, "edit": {"scheduler": "heun"}}, "scheduler is 'heun'; allowed are ddim"),
    ],
)
def test_a_line_that_is_no_job_is_told_and_leaves_the_others(tmp_path: Path, line: Any, words: str) -> None:
    refused, job = jsonl(tmp_path, line, GOOD)
    assert isinstance(refused, Refused)
    assert isinstance(job, Job)
    assert refused.name == "line 1"
    assert words in str(refused.reason)
    with pytest.raises(OptionError, match="holds no job that can be done; line 1: "):
        jsonl(tmp_path, line)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("jobs.json", b"{}", "allowed are a .jsonl file, a .csv file and a folder"),
        ("none.jsonl", None, "cannot be read: No such file"),
        ("jobs.jsonl", b"\n \n", "holds no job"),
        ("jobs.jsonl", b"{\xff\xfe", "is not UTF-8"),
        ("jobs.csv", b"picture,caption\n", "image and caption are needed"),
        ("jobs.csv", b"image,caption\na.png,x,y\n", "more cells than columns"),
        ("jobs.csv", b'image,caption\n"a.png,x\n', "is no CSV"),
        ("jobs.csv", b"image\0,caption\nx,y\n", "image and caption are needed"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError) as refused:
        read_jobs(tmp_path / name, DEFAULTS)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_folder_holds_no_job(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"in a folder a picture with a \.txt beside it"):
        read_jobs(tmp_path, DEFAULTS)


# what decides a result, and where it goes


def planned_key(folder: Path, facts: ModelFacts = FACTS, **change: Any) -> str:
    return plan(only_job(jsonl(folder, {**GOOD, **change})), facts).key


def test_the_key_is_of_all_that_decides_the_result_and_of_nothing_else(tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "dog.png")
    tiny.picture().save(tmp_path / "copy.png")
    tiny.picture(72).save(tmp_path / "other.png")
    plain = planned_key(tmp_path)
    assert planned_key(tmp_path, name="Rex", image="copy.png", options={"num_train_steps": 7}) == plain
    changes: list[dict[str, Any]] = [
        {"image": "other.png"},
        {"mask": "copy.png"},
        {"caption": "a cat"},
        {"sentences": ["a cow"]},
        {"seeds": [1, 0]},
        {"preset": "paper"},
        {"options": {"tail": 4}},
        {"edit": {"num_inference_steps": 3}},
        {"negative_prompt": "blurry"},
        {"facts": ModelFacts(weights_sha256="1", objective="epsilon", device="cpu", dtype="float32")},
    ]
    keys = {planned_key(tmp_path, **change) for change in changes}
    assert len(keys | {plain}) == len(changes) + 1


@pytest.mark.parametrize("name", ["none.png", "", "nul\0.png", "https://host/dog.png"])
def test_a_picture_that_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError):
        planned_key(tmp_path, image=name)


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "..", "", "a\0b", "C:\\x", "\udc80", "n" * 999])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    tiny.picture().save(tmp_path / "dog.png")
    job = only_job(jsonl(tmp_path, {**GOOD, "name": name, "sentences": ["../../up", "a/b"]}))
    root = Path("/somewhere/store")
    for file in [*plan(job, FACTS).files(), f"failed/{job.id}.json"]:
        path = Path(f"{root}/{file}")
        assert path.resolve() == path
        assert path.is_relative_to(root)
        assert all(len(part.encode()) <= 255 for part in path.parts)


# stores


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_store_keeps_files_by_name(tmp_path: Path, kind: str) -> None:
    store = open_store(
        {"folder": str(tmp_path / "a"), "file": f"file://{tmp_path}/a", "memory": f"memory://{tmp_path}"}[
            kind
        ]
    )
    assert store.sizes() == {}
    assert not store.exists("x/y.json")
    store.write("x/y.json", b"1")
    store.write("x/y.json", b"2")
    store.write("z", b"3")
    assert store.sizes() == {"x/y.json": 1, "z": 1}
    assert store.exists("x/y.json")
    assert store.read("x/y.json") == b"2"
    store.remove("z")
    store.remove("z")
    assert open_store(store.place).sizes().keys() == {"x/y.json"}
    with pytest.raises(OutputError):
        store.read("none")
    with store.locked():
        pass


def test_a_url_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be used"):
        open_store("nosuch://bucket/x")


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("x/y.json", b"whole")
    (tmp_path / "x" / ".hiper-0123456789abcdef.tmp").write_bytes(b"half")
    store.sweep("x")
    store.sweep("not/there")
    assert store.sizes().keys() == {"x/y.json"}


def test_a_name_that_is_given_twice_is_told(tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text("image,caption,caption\na.png,a dog,a cat\n")
    with pytest.raises(OptionError, match="'caption' is given twice"):
        read_jobs(table, Defaults())
    lines = tmp_path / "jobs.jsonl"
    lines.write_text(
        '{"image": "a.png", "caption": "x"}\n{"image": "a.png", "caption": "x", "caption": "y"}\n'
    )
    first, second = read_jobs(lines, Defaults())
    assert isinstance(first, Job)
    assert isinstance(second, Refused)
    assert "'caption' is given twice" in str(second.reason)


@pytest.mark.parametrize("header", ["options,options.num_train_steps", "options.num_train_steps,options"])
def test_options_both_whole_and_in_columns_are_refused(tmp_path: Path, header: str) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text(f"image,caption,{header}\na.png,a dog,3,4\n")
    with pytest.raises(OptionError, match="allowed is an object"):
        read_jobs(table, Defaults())


def test_a_cell_of_any_length_stops_no_other_line(tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text(f"image,caption\na.png,{'x' * 1_000_000}\nb.png,a dog\n")
    before = csv.field_size_limit()
    long, short = read_jobs(table, Defaults())
    assert isinstance(short, Job)
    assert short.caption == "a dog"
    assert csv.field_size_limit() == before
    assert long.id != short.id


def test_a_picture_whose_name_is_no_text_stops_no_other(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    (tmp_path / "dog.png").write_bytes(b"")
    (tmp_path / "dog.txt").write_text("a dog")
    jobs = {job.name: job for job in read_jobs(tmp_path, Defaults())}
    assert isinstance(jobs["\udcff.png"], Refused)
    assert jobs["\udcff.png"].id
    assert isinstance(jobs["dog.png"], Job)
