"""The nodes in a real ComfyUI, through its server: `HIPER_COMFYUI` names a checkout (see `comfy_server`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from tests import tiny
from tests.comfy_host import PACK
from tests.comfy_server import CHECKOUT, CHECKPOINT, ComfyServer, Refused, furnish, pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the fit did not lower"),
    pytest.mark.skipif(CHECKOUT is None, reason="HIPER_COMFYUI names no checkout of ComfyUI"),
]

Graph = dict[str, Any]
Levels = np.ndarray[Any, np.dtype[np.int16]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One server for all tests, which leave files behind and nothing else."""
    folder = tmp_path_factory.mktemp("comfyui")
    furnish(folder)
    running = ComfyServer(folder)
    yield running
    running.stop()


def fitting(server: ComfyServer, **changes: Any) -> Graph:
    """Return the example that fits, small; changes: of the fit node."""
    graph = server.graph(PACK / "example_workflows" / "fit_tail.json")
    graph["1"]["inputs"]["ckpt_name"] = CHECKPOINT
    graph["3"]["inputs"] |= {"size": 64, "steps": 2, "batch": 1, **changes}
    return graph


def drawing(server: ComfyServer, **changes: Any) -> Graph:
    """Return the example that draws, small; changes: of the node that applies the tail."""
    graph = server.graph(PACK / "example_workflows" / "apply_tail.json")
    graph["1"]["inputs"]["ckpt_name"] = CHECKPOINT
    graph["5"]["inputs"] |= changes
    graph["6"]["inputs"] |= {"width": 64, "height": 64, "batch_size": 1}
    graph["7"]["inputs"]["steps"] = 2
    return graph


def without_tail(graph: Graph) -> Graph:
    """Return the graph with the sampler on the prompt itself."""
    graph["7"]["inputs"]["positive"] = graph["5"]["inputs"]["conditioning"]
    return {number: node for number, node in graph.items() if number not in ("2", "5")}


def fitted(server: ComfyServer, graph: Graph) -> Path:
    """Run a graph that fits, and return the file it saved."""
    name: str = server.run(graph)["4"]["text"][0]
    return server.folder / "models" / "hiper" / name


def drawn(server: ComfyServer, graph: Graph) -> bytes:
    """Run a graph that draws, and return its picture's pixels."""
    (picture,) = server.run(graph)["9"]["images"]
    return Image.open(server.folder / "output" / picture["filename"]).tobytes()


@pytest.fixture(scope="module")
def tail(server: ComfyServer) -> Path:
    """What the example fits."""
    assert (server.folder / "models" / "hiper").is_dir(), "it is there before the first file"
    return fitted(server, fitting(server))


def test_the_menu_shows_the_folders_name(server: ComfyServer) -> None:
    described = server.ask("/object_info/HiperFitTail")["HiperFitTail"]
    assert described["python_module"] == "custom_nodes.hiper-tail"


def test_the_examples_run_and_leave_the_model_as_it_was(server: ComfyServer) -> None:
    plain = without_tail(drawing(server))
    before = drawn(server, plain)
    shown = server.run(fitting(server, seed=1))
    assert "1" not in server.executed, "the model is the one that drew"
    name = shown["4"]["text"][0]
    assert shown["5"]["text"] == [name], "the name goes on to the next node"
    assert drawn(server, plain) == before
    assert "7" in server.executed
    assert drawn(server, drawing(server, strength=0.0)) == before
    graph = drawing(server)
    graph["2"]["inputs"]["file"] = name
    assert drawn(server, graph) != before
    artifact = Artifact.load(server.folder / "models" / "hiper" / name)
    assert (artifact.family, artifact.caption, artifact.seed) == ("sd1", "a standing dog", 1)


def test_a_file_overwritten_under_its_name_is_drawn_anew(server: ComfyServer, tail: Path) -> None:
    graph = drawing(server)
    name = server.folder / "models" / "hiper" / graph["2"]["inputs"]["file"]
    before = drawn(server, graph)
    server.run(graph)
    assert "2" not in server.executed
    kept = name.read_bytes()
    name.write_bytes(fitted(server, fitting(server, seed=2)).read_bytes())
    after = drawn(server, graph)
    name.write_bytes(kept)
    assert after != before
    assert drawn(server, graph) == before


def test_a_bad_name_is_refused_before_the_fit(server: ComfyServer) -> None:
    graph = fitting(server, seed=77)
    graph["4"]["inputs"]["name"] = "../dog"
    with pytest.raises(Refused) as caught:
        server.queue(graph)
    assert "give a file name" in str(caught.value)


def test_a_tail_of_another_width_is_told_in_one_line(server: ComfyServer, tail: Path) -> None:
    other = Artifact.load(tail)
    wide = Artifact(**{**vars(other), "tensors": {"tail": torch.zeros(5, 1024)}, "family": "sd2"})
    wide.save(server.folder / "models" / "hiper" / "wide.safetensors", overwrite=True)
    graph = drawing(server)
    graph["2"]["inputs"]["file"] = "wide.safetensors"
    with pytest.raises(Refused) as caught:
        server.run(graph)
    message = json.loads(str(caught.value))[1]["exception_message"].strip()
    assert "1024" in message
    assert "\n" not in message


PATCHES: dict[str, Graph] = {
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "HyperTile": {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "ModelSamplingDiscrete": {"sampling": "lcm", "zsnr": False},
    "ModelSamplingContinuousEDM": {"sampling": "edm", "sigma_max": 120.0, "sigma_min": 0.002},
    "RescaleCFG": {"multiplier": 0.7},
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_patched_model_is_fitted(server: ComfyServer, kind: str) -> None:
    graph = fitting(server)
    graph["6"] = {"class_type": kind, "inputs": {"model": ["1", 0], **PATCHES[kind]}}
    graph["3"]["inputs"]["model"] = ["6", 0]
    assert Artifact.load(fitted(server, graph)).figures["last_loss"] < 100


def test_zero_terminal_noise_and_eight_bits(server: ComfyServer) -> None:
    """Velocity prediction up to pure noise, with weights of eight bits."""
    graph = fitting(server)
    loader = {"unet_name": CHECKPOINT, "weight_dtype": "fp8_e4m3fn"}
    graph["6"] = {"class_type": "UNETLoader", "inputs": loader}
    sampling = {"model": ["6", 0], "sampling": "v_prediction", "zsnr": True}
    graph["7"] = {"class_type": "ModelSamplingDiscrete", "inputs": sampling}
    graph["3"]["inputs"]["model"] = ["7", 0]
    assert Artifact.load(fitted(server, graph)).figures["last_loss"] < 100


def test_attention_without_a_backward_pass(server: ComfyServer, tail: Path) -> None:
    graph = fitting(server)
    graph["6"] = {"class_type": "NoBackward", "inputs": {"model": ["1", 0]}}
    graph["3"]["inputs"]["model"] = ["6", 0]
    found = load_file(fitted(server, graph))["hiper.tail"]
    assert "3" in server.executed
    assert torch.equal(found, load_file(tail)["hiper.tail"])


def test_cancel_stops_the_fit_and_the_next_one_is_the_same(server: ComfyServer, tail: Path) -> None:
    long = fitting(server, steps=100_000)
    number = server.queue(long)
    time.sleep(3)
    server.ask("/interrupt", {})
    with pytest.raises(Refused, match="execution_interrupted"):
        server.result(long, number)
    again = load_file(fitted(server, fitting(server)))["hiper.tail"]
    assert "3" in server.executed
    assert torch.equal(again, load_file(tail)["hiper.tail"])


# edits of the picture itself


def keeping(server: ComfyServer, file: str, **changes: Any) -> Graph:
    """Return the example that keeps, in few steps; changes: of the Keep node."""
    graph = server.graph(PACK / "example_workflows" / "keep_picture.json")
    graph["1"]["inputs"]["ckpt_name"] = CHECKPOINT
    graph["2"]["inputs"]["file"] = file
    graph["9"]["inputs"] |= changes
    graph["11"]["inputs"]["steps"] = 4
    return graph


def shown(server: ComfyServer, graph: Graph) -> Levels:
    """Run a graph that keeps, and return its picture."""
    (picture,) = server.run(graph)["14"]["images"]
    return np.asarray(Image.open(server.folder / "output" / picture["filename"]), np.int16)


def with_sampling(graph: Graph, kind: str, **inputs: Any) -> Graph:
    """Return the graph with another sampling on the model of guider and schedule."""
    graph["15"] = {"class_type": kind, "inputs": {"model": ["1", 0], **inputs}}
    for node in ("9", "11"):
        graph[node]["inputs"]["model"] = ["15", 0]
    return graph


@pytest.fixture(scope="module")
def backbone(server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The server's checkpoint in hiper."""
    folder = tmp_path_factory.mktemp("diffusers")
    pipeline().save_pretrained(folder)
    return hiper.load_backbone(folder, device="cpu")


@pytest.fixture(scope="module")
def kept(server: ComfyServer, backbone: Backbone) -> Artifact:
    """What hiper has learnt, in the server's models/hiper."""
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    artifact = hiper.fit(backbone, subject, num_train_steps=2)
    artifact.save(server.folder / "models" / "hiper" / "kept.safetensors")
    return artifact


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.5, 0.2])
def test_an_edit_that_keeps_is_hipers_own(
    server: ComfyServer, backbone: Backbone, kept: Artifact, keep: float
) -> None:
    """The same file, sentence, seed, steps and guidance give the same picture."""
    graph = keeping(server, "kept.safetensors", keep=keep, cfg=3.0)
    graph["10"]["inputs"]["noise_seed"] = 7
    expected = hiper.edit(
        backbone,
        kept,
        "a sitting dog",
        seeds=[7],
        strength=0.8,
        num_inference_steps=4,
        guidance_scale=3.0,
        keep=keep,
    )
    difference = np.abs(shown(server, graph) - np.asarray(expected.images[0], np.int16))
    assert difference.max() <= 3
    assert difference.mean() < 0.5


@pytest.mark.parametrize("kind", ["v_prediction", "edm", "flow"])
def test_other_models_keep_as_well(server: ComfyServer, kept: Artifact, kind: str) -> None:
    def drawn_with(keep: float) -> Levels:
        graph = keeping(server, "kept.safetensors", keep=keep)
        if kind == "flow":
            return shown(server, with_sampling(graph, "ModelSamplingSD3", shift=3.0))
        if kind == "edm":
            return shown(
                server,
                with_sampling(graph, "ModelSamplingContinuousEDM", **PATCHES["ModelSamplingContinuousEDM"]),
            )
        return shown(server, with_sampling(graph, "ModelSamplingDiscrete", sampling=kind, zsnr=True))

    source = drawn_with(1.0)
    near, far = (np.abs(drawn_with(keep) - source).mean() for keep in (0.75, 0.2))
    assert 0 < near < far


def test_a_mask_keeps_what_is_outside(server: ComfyServer, kept: Artifact) -> None:
    """Set Latent Noise Mask; the autoencoder's receptive field blurs the border."""
    graph = keeping(server, "kept.safetensors", keep=0.3)
    graph["15"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    graph["16"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["8", 0], "mask": ["15", 0]}}
    graph["12"]["inputs"]["latent_image"] = ["16", 0]
    source = shown(server, keeping(server, "kept.safetensors", keep=1.0))
    assert np.abs(shown(server, graph) - source).max() <= 1
    graph["15"]["inputs"]["value"] = 1.0
    assert np.abs(shown(server, graph) - source).max() > 1


def test_a_picture_of_the_users_is_kept(server: ComfyServer, tail: Path) -> None:
    """VAE Encode instead of Tail Source, and a tail that was fitted there, whose file holds its picture too."""
    graph = keeping(server, tail.name, keep=1.0)
    of_the_file = shown(server, graph)
    graph["15"] = {"class_type": "LoadImage", "inputs": {"image": "dog.png"}}
    graph["16"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["15", 0], "vae": ["1", 2]}}
    graph["12"]["inputs"]["latent_image"] = ["16", 0]
    assert np.abs(shown(server, graph) - of_the_file).max() <= 3


@pytest.mark.parametrize(
    ("node", "other", "expected"),
    [
        ("10", {"class_type": "DisableNoise", "inputs": {}}, "RandomNoise"),
        (
            "8",
            {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "empty",
        ),
        (
            "8",
            {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "empty",
        ),
        (
            "11",
            {
                "class_type": "FlipSigmas",
                "inputs": {"sigmas": ["15", 0]},
            },
            "must fall",
        ),
    ],
)
def test_what_an_edit_cannot_use_is_refused(
    server: ComfyServer, kept: Artifact, node: str, other: Graph, expected: str
) -> None:
    graph = keeping(server, "kept.safetensors")
    graph["15"] = graph["11"]
    graph[node] = other
    with pytest.raises(Refused) as caught:
        server.run(graph)
    message = json.loads(str(caught.value))[1]["exception_message"].strip()
    assert expected in message
    assert "\n" not in message
