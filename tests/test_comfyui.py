"""The nodes for ComfyUI against hiper itself: placement and files; and the package that people copy."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import Conditioning, place_tail
from hiper.methods import get_method
from tests import tiny
from tests.comfy_host import PACK, Host


@pytest.fixture(scope="module")
def artifact(sd1: SdBackbone) -> Artifact:
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    return hiper.fit(sd1, subject, num_train_steps=3, learning_rate=0.05, placement="append")


def loaded(comfy_pack: Any, comfy: Host, artifact: Artifact) -> Any:
    folder = comfy.models / "hiper"
    folder.mkdir(parents=True, exist_ok=True)
    artifact.save(folder / "dog.safetensors", overwrite=True)
    node = comfy_pack.classes["HiperLoadTail"]
    assert node.INPUT_TYPES()["required"]["file"][0] == ["dog.safetensors"]
    return node().load("dog.safetensors")


# placement


@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_tail_is_placed_where_hiper_places_it(comfy_pack: Any, placement: Any, chunks: int) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 77 * chunks, 16, generator=random)
    tail = comfy_pack.tail.Tail(torch.randn(5, 16, generator=random), {"hiper.family": "sd1"})
    more = {"pooled_output": rows.mean(1), "start_percent": 0.0}
    given = [[rows, more]]
    ((placed, options),) = comfy_pack.placing.place_tail(given, tail, 0.7, placement)
    conditioning = Conditioning(token_embeddings=rows, num_tokens=3, prompt="")
    assert torch.equal(placed, place_tail(conditioning, tail.embeddings * 0.7, placement).token_embeddings)
    assert options == more
    assert options is not more
    assert given[0][0] is rows


def test_a_file_of_hiper_gives_the_rows_of_hipers_edit(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, artifact: Artifact
) -> None:
    tail, caption = loaded(comfy_pack, comfy, artifact)
    assert caption == "a standing dog"
    rows = sd1.encode("a sitting dog").token_embeddings
    node = comfy_pack.classes["HiperApplyTail"]()
    ((placed, _),) = node.apply([[rows, {}]], tail, 0.8, "as fitted")[0]
    with get_method("hiper").attach(sd1, artifact, 0.8) as attached:
        assert torch.equal(placed, attached.encode("a sitting dog").token_embeddings)
    ((replaced, _),) = node.apply([[rows, {}]], tail, 0.8, "replace")[0]
    assert (placed.shape[1], replaced.shape[1]) == (82, 77)


def test_a_conditioning_of_another_model_is_refused(comfy_pack: Any, comfy: Host, artifact: Artifact) -> None:
    tail, _ = loaded(comfy_pack, comfy, artifact)
    node = comfy_pack.classes["HiperApplyTail"]()
    with pytest.raises(ValueError, match="32 numbers, and this conditioning has such of 2048"):
        node.apply([[torch.zeros(1, 77, 2048), {}]], tail, 0.8, "as fitted")
    with pytest.raises(ValueError, match="cannot replace"):
        node.apply([[torch.zeros(1, 4, 32), {}]], tail, 0.8, "replace")


def test_strength_0_bypasses_the_node(comfy_pack: Any) -> None:
    tail = comfy_pack.tail.Tail(torch.randn(5, 16), {"hiper.family": "sd1"})
    given = [[torch.randn(1, 77, 16), {}]]
    assert comfy_pack.classes["HiperApplyTail"]().apply(given, tail, 0.0, "append")[0] is given


def masked(mask: list[int]) -> Any:
    rows = torch.arange(len(mask)).float().view(1, -1, 1).expand(1, -1, 16)
    return [[rows, {"attention_mask": torch.tensor([mask]), "pooled_output": torch.ones(1, len(mask))}]]


@pytest.mark.parametrize(
    ("placement", "mask", "first_rows", "expected"),
    [
        ("append", [1, 1, 1], [0, 1, 2, 9, 9], [1, 1, 1, 1, 1]),
        ("append", [1, 1, 1, 0], [0, 1, 2, 9, 9, 3], [1, 1, 1, 1, 1, 0]),
        ("replace", [1, 1, 1, 0], [0, 9, 9, 3], [1, 1, 1, 0]),
        ("replace", [0, 0, 1, 0, 1], [0, 1, 2, 9, 9], [0, 0, 1, 1, 1]),
    ],
)
def test_an_attention_mask_lets_the_tail_through(
    comfy_pack: Any, placement: str, mask: list[int], first_rows: list[int], expected: list[int]
) -> None:
    """Lumina 2, Qwen-Image and others drop what their mask leaves out; rows left out do not count, as in hiper."""
    tail = comfy_pack.tail.Tail(torch.full((2, 16), 9.0), {"hiper.family": "lumina2"})
    given = masked(mask)
    ((placed, options),) = comfy_pack.placing.place_tail(given, tail, 1.0, placement)
    assert placed[0, :, 0].tolist() == first_rows
    assert options["attention_mask"].tolist() == [expected]
    assert options["pooled_output"] is given[0][1]["pooled_output"]
    assert given[0][1]["attention_mask"].tolist() == [mask]


@pytest.mark.parametrize(
    "more",
    [
        {"attention_mask": torch.ones(1, 77, 77)},
        {"attention_mask": torch.ones(1, 78)},
        {"attention_mask": torch.ones(1, 77), "attention_mask_img_shape": (27, 27)},
    ],
)
@pytest.mark.parametrize("placement", ["replace", "append"])
def test_a_mask_of_more_than_the_text_is_refused(comfy_pack: Any, placement: str, more: Any) -> None:
    """Apply Style Model puts rows of a picture behind the text, and a mask over both."""
    tail = comfy_pack.tail.Tail(torch.randn(5, 16), {"hiper.family": "flux"})
    with pytest.raises(ValueError, match="before that node"):
        comfy_pack.placing.place_tail([[torch.randn(1, 77, 16), more]], tail, 0.8, placement)


def test_every_region_batch_and_range_gets_the_tail_and_keeps_the_rest(comfy_pack: Any) -> None:
    tail = comfy_pack.tail.Tail(torch.randn(5, 16), {"hiper.family": "sd1"})
    regions = [
        [torch.randn(2, 77, 16), {"area": (4, 4, 0, 0), "strength": 0.5, "control": object()}],
        [torch.randn(2, 154, 16), {"mask": torch.ones(1, 8, 8), "start_percent": 0.2, "end_percent": 0.6}],
    ]
    placed = comfy_pack.placing.place_tail(regions, tail, 0.8, "replace")
    assert [more for _, more in placed] == [more for _, more in regions]
    assert all(torch.equal(rows[1, -5:], tail.embeddings * 0.8) for rows, _ in placed)
    with pytest.raises(ValueError, match="no token embeddings"):
        comfy_pack.placing.place_tail([[None, {}]], tail, 0.8, "replace")


@pytest.mark.parametrize("placement", ["after-words", "random"])
def test_a_place_that_only_hiper_knows_is_refused(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, placement: str
) -> None:
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    tail, _ = loaded(comfy_pack, comfy, hiper.fit(sd1, subject, num_train_steps=1, placement=placement))
    node = comfy_pack.classes["HiperApplyTail"]()
    given = [[torch.zeros(1, 77, tiny.EMBED), {}]]
    with pytest.raises(ValueError, match=placement):
        node.apply(given, tail, 0.8, "as fitted")
    assert node.apply(given, tail, 0.8, "append")[0][0][0].shape[1] == 77 + len(tail.embeddings)


# files


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"hiper.schema": None}, "not made by hiper"),
        ({"hiper.schema": "2"}, "schema 2"),
        ({"hiper.method": "dreambooth"}, "dreambooth"),
        ({"hiper.family": None}, "no family"),
        ({"hiper.options": "{"}, "hiper.options"),
        ({"hiper.options": "[]"}, "hiper.options"),
        ({"rows": torch.zeros(5)}, "no table"),
        ({"rows": torch.zeros(65, 8)}, "no table"),
        ({"rows": torch.zeros(5, 8, dtype=torch.int64)}, "no table"),
        ({"rows": torch.full((5, 8), float("nan"))}, "NaN"),
        ({"more": {"hiper.negative": torch.zeros(5, 8)}}, "holds hiper.negative, hiper.tail"),
    ],
)
def test_foreign_and_damaged_files_are_refused(
    comfy_pack: Any, tmp_path: Path, artifact: Artifact, damage: dict[str, Any], expected: str
) -> None:
    path = artifact.save(tmp_path / "dog.safetensors")
    with comfy_pack.tail.safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    damage = dict(damage)
    tensors["hiper.tail"] = damage.pop("rows", tensors["hiper.tail"])
    tensors |= damage.pop("more", {})
    header |= damage
    save_file(tensors, path, {name: text for name, text in header.items() if text is not None})
    with pytest.raises(ValueError, match=expected) as caught:
        comfy_pack.tail.load_tail(path)
    assert str(caught.value).startswith("dog.safetensors: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x80\x02}q\x00.", b"\xff" * 500])
def test_what_is_no_safetensors_file_is_refused(comfy_pack: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "dog.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no safetensors file"):
        comfy_pack.tail.load_tail(path)


def test_saving_never_replaces_and_stays_in_its_folder(
    comfy_pack: Any, comfy: Host, artifact: Artifact
) -> None:
    tail, _ = loaded(comfy_pack, comfy, artifact)
    node = comfy_pack.classes["HiperSaveTail"]()
    names = [node.save(tail, "dog")["ui"]["text"][0] for _ in range(2)]
    assert names == ["dog_00001.safetensors", "dog_00002.safetensors"]
    assert {path.name for path in (comfy.models / "hiper").iterdir()} == {*names, "dog.safetensors"}
    again = Artifact.load(comfy.models / "hiper" / names[0])
    assert torch.equal(again.tensors["tail"], artifact.tensors["tail"])
    assert (again.caption, again.options) == (artifact.caption, artifact.options)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../dog",
        "a/../b",
        "..",
        "/dog",
        ".hidden",
        "a/.b",
        "a//b",
        r"a\..\b",
        "C:\\dog",
        "a\x00b",
        "dog.",
        "é" * 101,
        "dog/",
        "\ud800",
        "file/dog",
        "out/dog",
    ],
)
def test_a_bad_name_is_refused_before_the_fit(
    comfy_pack: Any, comfy: Host, artifact: Artifact, tmp_path: Path, name: str
) -> None:
    tail, _ = loaded(comfy_pack, comfy, artifact)
    (comfy.models / "hiper" / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (comfy.models / "hiper" / "out").symlink_to(tmp_path / "elsewhere")
    before = sorted((comfy.models / "hiper").rglob("*"))
    node = comfy_pack.classes["HiperSaveTail"]
    refused = node.VALIDATE_INPUTS(name)
    assert refused is not True
    assert "\n" not in refused
    with pytest.raises(ValueError, match="the name is"):
        node().save(tail, name)
    assert sorted((comfy.models / "hiper").rglob("*")) == before
    assert not any((tmp_path / "elsewhere").iterdir())


def test_folders_below_and_the_names_name(comfy_pack: Any, comfy: Host, artifact: Artifact) -> None:
    tail, _ = loaded(comfy_pack, comfy, artifact)
    node = comfy_pack.classes["HiperSaveTail"]
    assert node.VALIDATE_INPUTS("Rex the dog/on grass v1.5") is True
    assert node.VALIDATE_INPUTS() is True, "another node gives the name"
    shown = node().save(tail, "Rex the dog/on grass v1.5", node_id="7")
    name = "Rex the dog/on grass v1.5_00001.safetensors"
    assert shown == {"ui": {"text": [name]}, "result": (name,)}
    assert comfy.shown == [(name, "7")]
    load = comfy_pack.classes["HiperLoadTail"]
    assert name in load.INPUT_TYPES()["required"]["file"][0]
    assert torch.equal(load().load(name)[0].embeddings, tail.embeddings)


def test_a_file_system_without_hard_links(
    comfy_pack: Any, comfy: Host, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Linux answers on exFAT and FAT."""
    tail, _ = loaded(comfy_pack, comfy, artifact)

    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    folder = comfy.models / "hiper"
    taken = folder / "dog_00001.safetensors"
    taken.write_text("somebody else's")
    name = comfy_pack.classes["HiperSaveTail"]().save(tail, "dog")["result"][0]
    assert name == "dog_00002.safetensors"
    assert torch.equal(comfy_pack.tail.load_tail(folder / name).embeddings, tail.embeddings)
    assert taken.read_text() == "somebody else's"
    assert {path.name for path in folder.iterdir()} == {"dog.safetensors", taken.name, name}
    with monkeypatch.context() as change:
        change.setattr(Path, "replace", link)
        with pytest.raises(PermissionError):
            comfy_pack.classes["HiperSaveTail"]().save(tail, "cat")
    assert not list(folder.glob("cat*"))


def test_a_file_overwritten_under_its_name_is_read_again(
    comfy_pack: Any, comfy: Host, artifact: Artifact
) -> None:
    loaded(comfy_pack, comfy, artifact)
    node = comfy_pack.classes["HiperLoadTail"]
    before = node.IS_CHANGED("dog.safetensors")
    assert node.IS_CHANGED("dog.safetensors") == before
    dataclasses.replace(artifact, caption="another").save(
        comfy.models / "hiper" / "dog.safetensors", overwrite=True
    )
    assert node.IS_CHANGED("dog.safetensors") != before


def test_hidden_files_are_not_offered(comfy_pack: Any, comfy: Host, artifact: Artifact) -> None:
    loaded(comfy_pack, comfy, artifact)
    for name in ("._dog.safetensors", "notes.txt", "UP.SAFETENSORS"):
        (comfy.models / "hiper" / name).touch()
    files = comfy_pack.classes["HiperLoadTail"].INPUT_TYPES()["required"]["file"][0]
    assert set(files) == {"dog.safetensors", "UP.SAFETENSORS"}


def test_the_folder_is_there_when_comfyui_has_started(comfy_pack: Any, comfy: Host) -> None:
    comfy_pack.nodes.prepare_folder()
    assert (comfy.models / "hiper").is_dir()


# the package


@pytest.mark.slow
def test_importing_needs_torch_and_safetensors_alone() -> None:
    script = f"""
import importlib.util, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hiper", "diffusers", "transformers", "PIL", "folder_paths", "comfy"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
spec = importlib.util.spec_from_file_location(
    "nodes_of_hiper", {str(PACK / "__init__.py")!r}, submodule_search_locations=[{str(PACK)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
print(sorted(module.NODE_CLASS_MAPPINGS))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("Hiper") == 6


@pytest.mark.slow
def test_python_3_10_has_what_the_pack_uses() -> None:
    """ComfyUI runs there and hiper does not; the checker knows when each name of the standard library came."""
    assert tomllib.loads((PACK / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.10"
    command = [sys.executable, "-m", "mypy", "--config-file=", "--python-version=3.10", "--no-incremental"]
    command += ["--explicit-package-bases", "--follow-imports=skip", "--ignore-missing-imports", "hiper_tail"]
    done = subprocess.run(command, check=False, cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_node_is_described_as_comfyui_expects(comfy_pack: Any, comfy: Host) -> None:
    assert comfy_pack.names.keys() == comfy_pack.classes.keys()
    for node in comfy_pack.classes.values():
        assert callable(getattr(node, node.FUNCTION))
        assert node.INPUT_TYPES().keys() <= {"required", "optional", "hidden"}
        assert isinstance(node.RETURN_TYPES, tuple)
        inputs = [node.INPUT_TYPES().get(kind, {}) for kind in ("required", "optional")]
        assert all(options["tooltip"] for each in inputs for _, options in each.values())
    project = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"]
    assert (PACK / project["project"]["license"]["file"]).is_file()
    assert project["project"]["dependencies"] == []


@pytest.mark.parametrize("path", sorted(PACK.glob("example_workflows/*.json")), ids=lambda path: path.stem)
def test_the_example_workflows_fit_the_nodes(comfy_pack: Any, comfy: Host, path: Path) -> None:
    flow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in flow["nodes"]}
    for number, source, out, target, slot, kind in flow["links"]:
        assert nodes[source]["outputs"][out]["type"] == kind
        assert number in nodes[source]["outputs"][out]["links"]
        taken = nodes[target]["inputs"][slot]
        assert taken["link"] == number
        assert taken["type"] in (kind, "*")
    ours = [node for node in nodes.values() if node["type"] in comfy_pack.classes]
    assert ours
    for node in ours:
        kind = comfy_pack.classes[node["type"]]
        assert tuple(each["type"] for each in node["outputs"]) == kind.RETURN_TYPES
        declared = kind.INPUT_TYPES()
        wanted = {**declared["required"], **declared.get("optional", {})}
        linked = {each["name"]: each["type"] for each in node["inputs"]}
        assert linked.items() <= {name: spec[0] for name, spec in wanted.items()}.items()
        typed = [spec for name, spec in wanted.items() if name not in linked]
        seeds = sum(len(spec) > 1 and bool(spec[1].get("control_after_generate")) for spec in typed)
        assert len(node["widgets_values"]) == len(typed) + seeds
