"""The nodes for ComfyUI against hiper itself: placement, loss, files; and a fit as ComfyUI would run it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hiper
from hiper.artifact import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import Conditioning, place_tail
from hiper.errors import HiperWarning
from hiper.methods import get_method
from tests import tiny
from tests.comfy_host import Cancelled, Host, Model

PACKAGE = Path(__file__).parents[1] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def package() -> Any:
    """Imported as ComfyUI does it: from its folder, under a name of ComfyUI's choice."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_hiper", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return SimpleNamespace(
        nodes=module.NODE_CLASS_MAPPINGS,
        names=module.NODE_DISPLAY_NAME_MAPPINGS,
        tail=sys.modules[f"{spec.name}.tail"],
        fitting=sys.modules[f"{spec.name}.fitting"],
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Any) -> Host:
    monkeypatch.setitem(package.tail.FAMILIES, tiny.EMBED, "sd")  # the family of hiper's own tiny models
    return Host(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def artifact(sd1: SdBackbone) -> Artifact:
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    return hiper.fit(sd1, subject, steps=3, learning_rate=0.05, placement="append")


def loaded(package: Any, host: Host, artifact: Artifact) -> Any:
    folder = host.models / "hiper"
    folder.mkdir(parents=True, exist_ok=True)
    artifact.save(folder / "dog.safetensors", overwrite=True)
    node = package.nodes["HiperLoadTail"]
    assert node.INPUT_TYPES()["required"]["file"][0] == ["dog.safetensors"]
    return node().load("dog.safetensors")


def image() -> torch.Tensor:
    return torch.from_numpy(np.asarray(tiny.picture(), np.float32) / 255)[None]


def fit(package: Any, model: Any, **changes: Any) -> Any:
    settings = {
        "caption": "a standing dog",
        "size": tiny.RESOLUTION,
        "rows": 4,
        "placement": "replace",
        "steps": 20,
        "batch": 2,
        "learning_rate": 0.05,
        "seed": 3,
        **changes,
    }
    return package.nodes["HiperFitTail"]().fit(model, model, model, image(), **settings)[0]


# placement


@pytest.mark.parametrize("placement", ["replace", "append"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_tail_is_placed_where_hiper_places_it(package: Any, placement: Any, chunks: int) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 77 * chunks, 16, generator=random)
    tail = package.tail.Tail(torch.randn(5, 16, generator=random), {"hiper.family": "sd1"})
    more = {"pooled_output": rows.mean(1), "start_percent": 0.0}
    given = [[rows, more]]
    ((placed, told),) = package.tail.place_tail(given, tail, 0.7, placement)
    conditioning = Conditioning(rows=rows, words=3, prompt="")
    assert torch.equal(placed, place_tail(conditioning, tail.rows * 0.7, placement).rows)
    assert told == more
    assert told is not more
    assert given[0][0] is rows


def test_a_file_of_hiper_gives_the_rows_of_hipers_edit(
    package: Any, host: Host, sd1: SdBackbone, artifact: Artifact
) -> None:
    tail, caption = loaded(package, host, artifact)
    assert caption == "a standing dog"
    rows = sd1.encode("a sitting dog").rows
    node = package.nodes["HiperApplyTail"]()
    ((placed, _),) = node.apply([[rows, {}]], tail, 0.8, "as fitted")[0]
    with get_method("hiper").applied(sd1, artifact, 0.8) as applied:
        assert torch.equal(placed, applied.encode("a sitting dog").rows)
    ((replaced, _),) = node.apply([[rows, {}]], tail, 0.8, "replace")[0]
    assert (placed.shape[1], replaced.shape[1]) == (82, 77)


def test_a_conditioning_of_another_model_is_refused(package: Any, host: Host, artifact: Artifact) -> None:
    tail, _ = loaded(package, host, artifact)
    node = package.nodes["HiperApplyTail"]()
    with pytest.raises(ValueError, match="rows of 32 numbers, and this conditioning has rows of 2048"):
        node.apply([[torch.zeros(1, 77, 2048), {}]], tail, 0.8, "as fitted")
    with pytest.raises(ValueError, match="cannot replace"):
        node.apply([[torch.zeros(1, 4, 32), {}]], tail, 0.8, "replace")


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
    ],
)
def test_foreign_and_damaged_files_are_refused(
    package: Any, tmp_path: Path, artifact: Artifact, damage: dict[str, Any], expected: str
) -> None:
    path = artifact.save(tmp_path / "dog.safetensors")
    with package.tail.safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["hiper.tail"] = damage.pop("rows", tensors["hiper.tail"])
    header |= damage
    save_file(tensors, path, {name: text for name, text in header.items() if text is not None})
    with pytest.raises(ValueError, match=expected) as caught:
        package.tail.load_tail(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x80\x02}q\x00.", b"\xff" * 500])
def test_what_is_no_safetensors_file_is_refused(package: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "dog.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no safetensors file"):
        package.tail.load_tail(path)


def test_saving_never_replaces_and_stays_in_its_folder(package: Any, host: Host, artifact: Artifact) -> None:
    tail, _ = loaded(package, host, artifact)
    node = package.nodes["HiperSaveTail"]()
    names = [node.save(tail, "dog")["ui"]["text"][0] for _ in range(2)]
    assert names == ["dog_00001.safetensors", "dog_00002.safetensors"]
    assert {path.name for path in (host.models / "hiper").iterdir()} == {*names, "dog.safetensors"}
    for name in ("", "../dog", "a/b", "..", r"a\b", ".hidden"):
        with pytest.raises(ValueError, match="plain name"):
            node.save(tail, name)
    again = Artifact.load(host.models / "hiper" / names[0])
    assert torch.equal(again.tensors["tail"], artifact.tensors["tail"])
    assert (again.caption, again.options) == (artifact.caption, artifact.options)


# the fit


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_the_loss_is_hipers_own(package: Any, backbone: SdBackbone, placement: Any) -> None:
    """For noise prediction and for velocity, although ComfyUI shows denoised pictures only."""
    random = torch.Generator().manual_seed(1)
    latent, noise = torch.randn(1, 4, 8, 8, generator=random), torch.randn(3, 4, 8, 8, generator=random)
    t = torch.tensor([20, 400, 950])
    model = Model(backbone)
    caption = backbone.encode("a standing dog")
    placed = place_tail(caption, torch.randn(4, tiny.EMBED, generator=random), placement)
    more = {"pooled_output": caption.rows.mean(1)}
    objective = package.fitting.Objective(model.model, latent, [caption.rows, more], (32, 32), {})
    diffused = backbone.diffuse(latent, noise, t)
    with torch.no_grad():
        expected = (backbone.predict(diffused.noisy, t, placed) - diffused.target).square().mean()
        found = objective.error(placed.rows, noise, t)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_fit_as_comfyui_runs_it(package: Any, host: Host, sd1: SdBackbone) -> None:
    """Everything under inference mode, the loading of the weights too."""
    with torch.inference_mode():
        model = Model(sd1)
        unet = model.model.diffusion_model
        assert next(unet.parameters()).is_inference()
        before = {name: weight.clone() for name, weight in unet.state_dict().items()}
        tail = fit(package, model)
        again = fit(package, model)
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert not any(weight.requires_grad for weight in unet.parameters())
    assert (host.progress, host.loaded) == (40, 2)
    assert torch.equal(tail.rows, again.rows)
    assert (tail.rows.shape, tail.family, tail.placement) == ((4, tiny.EMBED), "sd", "replace")


def test_a_fit_learns_and_hiper_draws_with_it(package: Any, host: Host, sd1: SdBackbone) -> None:
    """The loss on noise and levels held fixed falls; the saved file is an artifact like any other."""
    model = Model(sd1)
    tail = fit(package, model, steps=60)
    caption = sd1.encode("a standing dog")
    random = torch.Generator().manual_seed(9)
    latent = model.model.process_latent_in(model.encode(package.fitting.square(image(), tiny.RESOLUTION)))
    noise, t = torch.randn(20, 4, 8, 8, generator=random), torch.arange(25, 1000, 50)
    more = {"pooled_output": caption.rows.mean(1)}
    objective = package.fitting.Objective(model.model, latent, [caption.rows, more], (32, 32), {})
    with torch.no_grad():
        before = objective.error(caption.rows, noise, t)
        after = objective.error(place_tail(caption, tail.rows, "replace").rows, noise, t)
    assert after < before
    name = package.nodes["HiperSaveTail"]().save(tail, "dog")["ui"]["text"][0]
    saved = Artifact.load(host.models / "hiper" / name)
    assert (saved.caption, saved.seed, saved.options["tail"]) == ("a standing dog", 3, 4)
    with pytest.warns(HiperWarning, match="weights differ"):  # the node does not know the checkpoint
        result = hiper.edit(sd1, saved, "a sitting dog", steps=1)
    assert result.settings.strength == 0.8


def test_cancel_stops_between_two_steps(package: Any, host: Host, sd1: SdBackbone) -> None:
    host.cancel_at = 3
    weights = sd1.weights_sha256()
    with pytest.raises(Cancelled):
        fit(package, Model(sd1))
    assert host.progress == 3
    assert sd1.weights_sha256() == weights
    assert not (host.models / "hiper").exists()


def test_a_model_that_the_fit_does_not_know_is_refused_before_the_work(
    package: Any, host: Host, sd1: SdBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(package.tail.FAMILIES, tiny.EMBED)
    with pytest.raises(ValueError, match=r"have 32 numbers; tails are fitted here for sd1 \(768\)"):
        fit(package, Model(sd1))
    assert host.loaded == 0


@pytest.mark.parametrize("shape", [(1, 64, 48, 3), (2, 40, 100, 4)])
def test_pictures_become_square(package: Any, shape: tuple[int, ...]) -> None:
    picture = torch.linspace(0, 1, shape[2])[None, None, :, None].expand(shape)
    cut = package.fitting.square(picture, 32)
    assert cut.shape == (1, 32, 32, 3)
    assert 0 <= float(cut.min()) <= float(cut.max()) <= 1
    assert float(cut.mean()) == pytest.approx(0.5, abs=0.01), "the middle is kept"
    assert torch.equal(package.fitting.square(picture, 0), picture[:1, :, :, :3])


# the package


def test_importing_needs_torch_and_safetensors_alone() -> None:
    script = f"""
import importlib.util, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hiper", "diffusers", "transformers", "PIL", "folder_paths", "comfy"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
spec = importlib.util.spec_from_file_location(
    "nodes_of_hiper", {str(PACKAGE / "__init__.py")!r}, submodule_search_locations=[{str(PACKAGE)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
print(sorted(module.NODE_CLASS_MAPPINGS))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("Hiper") == 4


def test_every_node_is_described_as_comfyui_expects(package: Any, host: Host) -> None:
    assert package.names.keys() == package.nodes.keys()
    for node in package.nodes.values():
        assert callable(getattr(node, node.FUNCTION))
        assert node.INPUT_TYPES().keys() <= {"required", "optional", "hidden"}
        assert isinstance(node.RETURN_TYPES, tuple)
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"]
    assert (PACKAGE / project["project"]["license"]["file"]).is_file()
    assert project["project"]["dependencies"] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("example_workflows/*.json")), ids=lambda path: path.stem)
def test_the_example_workflows_fit_the_nodes(package: Any, host: Host, path: Path) -> None:
    flow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in flow["nodes"]}
    for number, source, out, target, slot, kind in flow["links"]:
        assert nodes[source]["outputs"][out]["type"] == kind
        assert number in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][slot] | {"link": number, "type": kind} == nodes[target]["inputs"][slot]
    ours = [node for node in nodes.values() if node["type"] in package.nodes]
    assert len(ours) == 2
    for node in ours:
        kind = package.nodes[node["type"]]
        assert tuple(each["type"] for each in node["outputs"]) == kind.RETURN_TYPES
        wanted = kind.INPUT_TYPES()["required"]
        linked = {each["name"]: each["type"] for each in node["inputs"]}
        assert linked.items() <= {name: spec[0] for name, spec in wanted.items()}.items()
        typed = [spec for name, spec in wanted.items() if name not in linked]
        seeds = sum(len(spec) > 1 and bool(spec[1].get("control_after_generate")) for spec in typed)
        assert len(node["widgets_values"]) == len(typed) + seeds
