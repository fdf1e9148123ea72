"""A real ComfyUI, started from a checkout of the user's: its server, its HTTP API, and a checkpoint made on the spot.

`HIPER_COMFYUI` names the checkout; `HIPER_COMFYUI_PYTHON` the interpreter that has ComfyUI's requirements, unless the
checkout has a `.venv` or `venv` or this one has them. Models, pictures and settings lie in a folder of the test.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests import original_layout, tiny
from tests.comfy_host import PACK

CHECKOUT = os.environ.get("HIPER_COMFYUI")
CHECKPOINT = "tiny.safetensors"


def pipeline() -> StableDiffusionPipeline:
    """Return a Stable Diffusion 1 in float16, with ComfyUI's tokenizer and sizes, but for a small denoiser."""
    assert CHECKOUT is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=2,
            block_out_channels=(320, 320),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    return StableDiffusionPipeline(
        unet=tiny.amplified(unet),
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(
            Path(CHECKOUT) / "comfy" / "sd1_tokenizer", model_max_length=77
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)


NO_BACKWARD = """
import torch

class NoBackward:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        def override(function, *args, **options):
            with torch.no_grad():
                return function(*args, **options)

        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
        return (patched,)

NODE_CLASS_MAPPINGS = {"NoBackward": NoBackward}
"""
"""A node that stands for those that choose SageAttention: right values, and no gradient."""


def furnish(folder: Path) -> None:
    """Put checkpoint, picture and nodes where the server looks for them."""
    for name in ("models/checkpoints", "models/diffusion_models", "input", "custom_nodes/no_backward"):
        (folder / name).mkdir(parents=True)
    weights = original_layout.export(pipeline(), 1)
    save_file(weights, folder / "models" / "checkpoints" / CHECKPOINT)
    (folder / "models" / "diffusion_models" / CHECKPOINT).symlink_to(
        folder / "models" / "checkpoints" / CHECKPOINT
    )
    tiny.picture().save(folder / "input" / "dog.png")
    (folder / "custom_nodes" / "no_backward" / "__init__.py").write_text(NO_BACKWARD)
    (folder / "custom_nodes" / PACK.name).symlink_to(PACK)


class Refused(Exception):
    """What the server says of a graph that it does not run, or that failed."""


class ComfyServer:
    """A running server; folder: where its models, pictures and nodes are."""

    def __init__(self, folder: Path) -> None:
        assert CHECKOUT is not None
        self.folder, self._log = folder, folder / "server.log"
        self.executed: set[str] = set()
        self._address = f"127.0.0.1:{_free_port()}"
        command = [
            _python(Path(CHECKOUT)),
            "main.py",
            *("--cpu", "--disable-auto-launch", "--port", self._address.rpartition(":")[2]),
            *("--base-directory", str(folder), "--database-url", f"sqlite:///{folder / 'comfy.db'}"),
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT)
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI did not start: {self._log.read_text()[-2000:]}")
            try:
                self.ask("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise RuntimeError("ComfyUI did not answer within two minutes")

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(30)

    def ask(self, path: str, body: Any = None) -> Any:
        """Return the answer to a GET, or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self._address}{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error
        return json.loads(text) if text else None

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Run a graph of the API's format to its end and return what its nodes show.

        Raises:
            Refused: it is not valid, or a node failed; the message is the server's.
        """
        return self.result(graph, self.queue(graph))

    def queue(self, graph: dict[str, Any]) -> str:
        """Start a graph and return its number."""
        number: str = self.ask("/prompt", {"prompt": graph})["prompt_id"]
        return number

    def result(self, graph: dict[str, Any], number: str) -> dict[str, Any]:
        """Wait for a graph and return what its nodes show; Refused when one failed or was cancelled."""
        while number not in (history := self.ask(f"/history/{number}")):
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            time.sleep(0.05)
        done = history[number]
        if done["status"]["status_str"] != "success":
            raise Refused(json.dumps(done["status"]["messages"][-1]))
        self.executed = set(graph) - _cached(done)
        outputs: dict[str, Any] = done["outputs"]
        return outputs

    def graph(self, workflow: Path) -> dict[str, Any]:
        """Return a saved workflow as the front end would send it."""
        flow = json.loads(workflow.read_text())
        sources = {link[0]: [str(link[1]), link[2]] for link in flow["links"]}
        return {str(node["id"]): self._node(node, sources) for node in flow["nodes"]}

    def _node(self, node: dict[str, Any], sources: dict[int, list[Any]]) -> dict[str, Any]:
        described = self.ask(f"/object_info/{node['type']}")[node["type"]]["input"]
        inputs = {each["name"]: sources[each["link"]] for each in node["inputs"]}
        hidden = {
            each["name"] for each in node["inputs"] if "widget" in each
        }  # their values are saved all the same
        values = iter(node["widgets_values"])
        for name, (_, *rest) in {**described["required"], **described.get("optional", {})}.items():
            if name in inputs:
                if name in hidden:
                    next(values)
                continue
            inputs[name] = next(values)
            if rest and (rest[0].get("control_after_generate") or rest[0].get("image_upload")):
                next(values)
        assert not list(values), "a widget too many"
        return {"class_type": node["type"], "inputs": inputs}


def _cached(done: dict[str, Any]) -> set[str]:
    events = [event for kind, event in done["status"]["messages"] if kind == "execution_cached"]
    return {node for event in events for node in event["nodes"]}


def _python(checkout: Path) -> str:
    if own := os.environ.get("HIPER_COMFYUI_PYTHON"):
        return own
    beside = [checkout / name / "bin" / "python" for name in (".venv", "venv")]
    return str(next((path for path in beside if path.exists()), sys.executable))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
