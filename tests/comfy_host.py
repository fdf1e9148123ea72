"""What the nodes see of ComfyUI, written from its conventions, around real tiny networks.

ComfyUI is no package that could be installed: `folder_paths`, `comfy.utils` and `comfy.model_management` are stand-ins
here, and so is the shell around the denoiser, whose formulas are those of its samplings (sigma = noise over signal).
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from hiper.backbones.sd import SdBackbone


class Cancelled(Exception):
    """What ComfyUI raises in the middle of a node when the user presses Cancel."""


class Host:
    """Puts the stand-ins in place; cancel_at: the step after which the user cancels."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self.progress, self.loaded, self.cancel_at = folder / "models", 0, 0, 10**9
        paths: dict[str, tuple[list[str], set[str]]] = {}

        def add(name: str, path: str) -> None:
            paths.setdefault(name, ([], set()))[0].append(path)

        modules: dict[str, dict[str, Any]] = {
            "folder_paths": {
                "models_dir": str(self.models),
                "folder_names_and_paths": paths,
                "add_model_folder_path": add,
                "get_filename_list": lambda name: sorted(p.name for p in Path(paths[name][0][0]).glob("*")),
                "get_full_path_or_raise": lambda name, file: str(Path(paths[name][0][0]) / file),
            },
            "comfy": {},
            "comfy.utils": {"ProgressBar": lambda total: SimpleNamespace(update=self._count)},
            "comfy.model_management": {
                "load_models_gpu": self._load,
                "throw_exception_if_processing_interrupted": self._check,
            },
        }
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            if "." in name:
                setattr(sys.modules["comfy"], name.partition(".")[2], module)

    def _count(self, steps: int) -> None:
        self.progress += steps

    def _load(self, models: list[Any]) -> None:
        self.loaded += len(models)

    def _check(self) -> None:
        if self.progress >= self.cancel_at:
            raise Cancelled


class Sampling(nn.Module):
    """1000 noise levels; what a denoiser's output means is the subclass's matter."""

    sigmas: Tensor

    def __init__(self, alphas: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigmas", ((1 - alphas) / alphas) ** 0.5)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigmas[t.long()]

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[None] - self.sigmas.log()[:, None]).abs().argmin(0)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        assert not max_denoise
        return noise * sigma + latent

    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        return noisy - output * sigma.view(-1, 1, 1, 1)


class Velocity(Sampling):
    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return noisy / (s**2 + 1) - output * s / (s**2 + 1) ** 0.5


class Base(nn.Module):
    """The denoiser in the shell that ComfyUI puts around it."""

    def __init__(self, unet: Any, sampling: Sampling, scale: float) -> None:
        super().__init__()
        self.diffusion_model, self.model_sampling, self._scale = unet, sampling, scale

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * self._scale

    def extra_conds(self, **told: Any) -> dict[str, Any]:
        assert {"noise", "device", "width", "height", "pooled_output"} <= told.keys()
        return {"c_crossattn": SimpleNamespace(cond=told["cross_attn"])}

    def apply_model(
        self, x: Tensor, t: Tensor, c_crossattn: Tensor, transformer_options: dict[str, Any]
    ) -> Tensor:
        assert len(transformer_options["cond_or_uncond"]) == len(x)
        scaled = x / (t.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5
        output = self.diffusion_model(
            scaled, self.model_sampling.timestep(t), encoder_hidden_states=c_crossattn, return_dict=False
        )[0]
        return self.model_sampling.calculate_denoised(t, output.float(), x)


class Model:
    """MODEL, CLIP and VAE of one tiny Stable Diffusion."""

    def __init__(self, backbone: SdBackbone) -> None:
        pipe = backbone._pipe
        unet = copy.deepcopy(pipe.unet).requires_grad_(False)  # as ComfyUI freezes it
        alphas = DDPMScheduler.from_config(pipe.scheduler.config).alphas_cumprod.clone()
        kind = Velocity if backbone.objective == "v_prediction" else Sampling
        self._backbone, self._vae = backbone, pipe.vae
        self.model = Base(unet, kind(alphas), float(pipe.vae.config.scaling_factor))
        self.load_device = torch.device("cpu")
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[list[Any]]:
        rows = self._backbone.encode(text).rows.clone()
        return [[rows, {"pooled_output": rows.mean(1)}]]

    def encode(self, picture: Tensor) -> Tensor:
        assert picture.shape[-1] == 3
        mean: Tensor = self._vae.encode(picture.movedim(-1, 1) * 2 - 1).latent_dist.mean
        return mean
