"""What the nodes see of ComfyUI, written from its conventions, around real tiny networks.

ComfyUI is no package that could be installed: `folder_paths`, `comfy.utils`, `comfy.model_management` and
`comfy.samplers` are stand-ins here, and so is the shell around the denoiser, whose formulas are those of its samplings
(sigma = noise over signal).
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from hiper.backbones.sd import SdBackbone
from tests import tiny

PACK = Path(__file__).parents[1] / "integrations" / "comfyui" / "hiper-tail"


def import_pack() -> Any:
    """Return the nodes and modules of the pack."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_hiper", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    modules = ("tail", "placing", "saving", "objective", "fitting", "nodes")
    return SimpleNamespace(
        classes=module.NODE_CLASS_MAPPINGS,
        names=module.NODE_DISPLAY_NAME_MAPPINGS,
        **{name: sys.modules[f"{spec.name}.hiper_tail.{name}"] for name in modules},
    )


def image(side: int = 64) -> Tensor:
    """A ComfyUI IMAGE [1, height, width, 3] of the tests' picture."""
    return torch.from_numpy(np.asarray(tiny.picture(side), np.float32) / 255)[None]


def fit(pack: Any, model: Any, **changes: Any) -> Any:
    """Return what the fit node learns with a tiny model."""
    settings = {
        "image": image(),
        "clip": model,
        "vae": model,
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
    return pack.classes["HiperFitTail"]().fit(model, **settings)[0]


class Cancelled(Exception):
    """What ComfyUI raises in the middle of a node when the user presses Cancel."""


class Host:
    """Puts the stand-ins in place; cancel_at: the step after which the user cancels."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self.progress, self.cancel_at = folder / "models", 0, 10**9
        self.loads: list[dict[str, Any]] = []
        self.shown: list[tuple[str, str]] = []
        paths: dict[str, tuple[list[str], set[str]]] = {}

        def add(name: str, path: str) -> None:
            known = paths.setdefault(name, ([], set()))[0]
            if path not in known:
                known.append(path)

        def names(name: str) -> list[str]:
            folder = Path(paths[name][0][0])
            return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

        modules: dict[str, dict[str, Any]] = {
            "folder_paths": {
                "models_dir": str(self.models),
                "folder_names_and_paths": paths,
                "add_model_folder_path": add,
                "get_filename_list": names,
                "get_full_path_or_raise": lambda name, file: str(Path(paths[name][0][0]) / file),
            },
            "comfy": {},
            "comfy.utils": {"ProgressBar": lambda total: SimpleNamespace(update=self._count)},
            "comfy.model_management": {
                "load_models_gpu": self._load,
                "throw_exception_if_processing_interrupted": self._check,
                "in_training": False,
            },
            "comfy.samplers": {
                "CFGGuider": Guider,
                "KSAMPLER": Sampler,
                "sampling_function": sampling_function,
            },
            "comfy.k_diffusion": {},
            "comfy.k_diffusion.sampling": {"trange": _steps},
            "comfy.ldm": {},
            "comfy.ldm.modules": {},
            "comfy.ldm.modules.attention": {"attention_pytorch": attention_pytorch},
            "server": {
                "PromptServer": SimpleNamespace(instance=SimpleNamespace(send_progress_text=self._show))
            },
        }
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            if "." in name:
                parent, _, own = name.rpartition(".")
                setattr(sys.modules[parent], own, module)

    def _count(self, steps: int) -> None:
        self.progress += steps

    def _show(self, text: str, node: str) -> None:
        self.shown.append((text, node))

    def _load(self, models: list[Any], **asked: Any) -> None:
        self.loads += [{"model": model, **asked} for model in models]

    def _check(self) -> None:
        if self.progress >= self.cancel_at:
            raise Cancelled


def attention_pytorch(q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
    """Attention with a backward pass; q, k, v: [batch, length, heads * channels]."""
    q, k, v = (each.view(*each.shape[:2], heads, -1).transpose(1, 2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _steps(first: int, end: int, disable: bool) -> range:
    """What shows a bar in ComfyUI's console."""
    assert isinstance(disable, bool)
    return range(first, end)


class Attention:
    """A diffusers attention processor that computes as ComfyUI's UNet does.

    chosen: the server's attention; the options of the call in progress may name another, or replace the result.
    """

    def __init__(self, chosen: Callable[..., Tensor]) -> None:
        self.chosen, self.options = chosen, dict[str, Any]()

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        override = self.options.get("optimized_attention_override")
        function = self.chosen if override is None else functools.partial(override, self.chosen)
        out: Tensor = attn.to_out[0](function(q, k, v, attn.heads))
        return out


class Sampling(nn.Module):
    """1000 timesteps; what a denoiser's output means is the subclass's matter."""

    sigmas: Tensor

    def __init__(self, alphas: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigmas", ((1 - alphas) / alphas) ** 0.5)

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[None] - self.sigmas.log()[:, None]).abs().argmin(0)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        assert not max_denoise
        return noise * sigma + latent

    def calculate_input(self, sigma: Tensor, noisy: Tensor) -> Tensor:
        return noisy / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        return noisy - output * sigma.view(-1, 1, 1, 1)


class Flow(Sampling):
    """The denoiser of noise, on the straight path: a flow whose sigma is the share of noise."""

    def _scaled(self, sigma: Tensor) -> Tensor:
        return sigma / (1 - sigma)

    def timestep(self, sigma: Tensor) -> Tensor:
        return super().timestep(self._scaled(sigma))

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def calculate_input(self, sigma: Tensor, noisy: Tensor) -> Tensor:
        scaled = self._scaled(sigma)
        return super().calculate_input(scaled, noisy * (1 + scaled.view(-1, 1, 1, 1)))

    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        scaled = self._scaled(sigma)
        return super().calculate_denoised(scaled, output, noisy * (1 + scaled.view(-1, 1, 1, 1)))


class Velocity(Sampling):
    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return noisy / (s**2 + 1) - output * s / (s**2 + 1) ** 0.5


class Edm(Velocity):
    """CosXL and Playground 2.5: a time is a quarter of log sigma, so that no index of a level is one."""

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep / 0.25).exp()

    def calculate_denoised(self, sigma: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
        return super().calculate_denoised(sigma, -output, noisy)


class Base(nn.Module):
    """The denoiser in the shell that ComfyUI puts around it."""

    manual_cast_dtype = None

    def __init__(self, unet: Any, sampling: Sampling, scale: float) -> None:
        super().__init__()
        self.diffusion_model, self.model_sampling, self._scale = unet, sampling, scale
        self.latent_format = SimpleNamespace(latent_channels=unet.config.out_channels)
        config = {"context_dim": unet.config.cross_attention_dim, "in_channels": unet.config.in_channels}
        self.model_config = SimpleNamespace(unet_config=config)

    def get_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.diffusion_model.dtype
        return dtype

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * self._scale

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return latent / self._scale

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **_: Any) -> Tensor:
        return self.model_sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise, latent_image, False)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        assert {"noise", "device", "width", "height", "pooled_output"} <= kwargs.keys()
        found = {"c_crossattn": SimpleNamespace(cond=kwargs["cross_attn"])}
        if self.diffusion_model.config.in_channels == 9:  # inpainting: a mask and the picture under it
            shape = kwargs["noise"].shape
            assert kwargs["latent_image"].shape[1:] == shape[1:], "ComfyUI reads the shape of the picture"
            found["c_concat"] = SimpleNamespace(cond=torch.ones(shape[0], 5, *shape[2:]))
        return found

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_crossattn: Tensor,
        transformer_options: dict[str, Any],
        c_concat: Tensor | None = None,
    ) -> Tensor:
        assert len(transformer_options["cond_or_uncond"]) == len(x)
        unet, dtype = self.diffusion_model, self.get_dtype()
        for processor in unet.attn_processors.values():
            processor.options = transformer_options
        scaled = self.model_sampling.calculate_input(t, x)
        given = scaled if c_concat is None else torch.cat([scaled, c_concat], dim=1)
        patches = transformer_options.get("patches", {}).get("output_block_patch", [])
        hooks = [block.register_forward_hook(_patched(patches, block)) for block in unet.up_blocks if patches]
        try:
            output = unet(
                given.to(dtype),
                self.model_sampling.timestep(t),
                encoder_hidden_states=c_crossattn.to(dtype),
                return_dict=False,
            )[0]
        finally:
            for hook in hooks:
                hook.remove()
        return self.model_sampling.calculate_denoised(t, output.float(), x)


def _patched(patches: list[Any], block: Any) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        for patch in patches:
            output = patch(output, output, {})[0]
        return output

    return hook


class Model:
    """MODEL, CLIP and VAE of one tiny Stable Diffusion."""

    def __init__(
        self,
        backbone: SdBackbone,
        *,
        unet: Any = None,
        kind: type[Sampling] | None = None,
        attention: Callable[..., Tensor] = attention_pytorch,
    ) -> None:
        pipe = backbone._pipe
        unet = copy.deepcopy(pipe.unet if unet is None else unet).requires_grad_(
            False
        )  # as ComfyUI freezes it
        unet.set_attn_processor(Attention(attention))
        alphas = DDPMScheduler.from_config(pipe.scheduler.config).alphas_cumprod.clone()
        if kind is None:
            kind = Velocity if backbone.objective == "v_prediction" else Sampling
        self._backbone, self._vae = backbone, pipe.vae
        self.model = Base(unet, kind(alphas), float(pipe.vae.config.scaling_factor))
        self.load_device = torch.device("cpu")
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[list[Any]]:
        rows = self._backbone.encode(text).token_embeddings.clone()
        return [[rows, {"pooled_output": rows.mean(1)}]]

    def encode(self, picture: Tensor) -> Tensor:
        assert picture.shape[-1] == 3
        mean: Tensor = self._vae.encode(picture.movedim(-1, 1) * 2 - 1).latent_dist.mean
        return mean


# sampling


def sampling_function(
    base: Base,
    x: Tensor,
    timestep: Tensor,
    uncond: Any,
    cond: Any,
    cfg: float,
    *,
    model_options: Any,
    seed: Any,
) -> Tensor:
    """Classifier-free guidance; ComfyUI runs both prompts in one batch where it can."""
    options = {**model_options.get("transformer_options", {}), "cond_or_uncond": [0] * len(x)}
    plain, found = (
        base.apply_model(x, timestep, conds[0]["cross_attn"].expand(len(x), -1, -1), options)
        for conds in (cond if cfg == 1 else uncond, cond)
    )
    return plain + (found - plain) * cfg


class Guider:
    """Holds conditionings and samples; what ComfyUI does besides (regions, hooks, memory) is left out."""

    inner_model: Base

    def __init__(self, patcher: Any) -> None:
        self.model_patcher, self.original_conds, self.cfg = patcher, dict[str, Any](), 1.0

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        for name, entries in conds.items():
            self.original_conds[name] = [{**more, "cross_attn": rows} for rows, more in entries]

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any, seed: Any) -> Any:
        uncond, cond = self.conds["negative"], self.conds["positive"]
        return sampling_function(
            self.inner_model, x, timestep, uncond, cond, self.cfg, model_options=model_options, seed=seed
        )

    def __call__(self, x: Tensor, timestep: Tensor, *, model_options: Any, seed: Any) -> Any:
        return self.predict_noise(x, timestep, model_options, seed)

    def sample(
        self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, mask: Any, callback: Any, seed: int
    ) -> Tensor:
        self.inner_model, self.conds = self.model_patcher.model, self.original_conds
        given = {"model_options": self.model_patcher.model_options, "seed": seed}
        scaled = self.inner_model.process_latent_in(latent)
        found = sampler.sample(self, sigmas, given, callback, noise, scaled, mask)
        return self.inner_model.process_latent_out(found)


class Sampler:
    """Runs a function of k-diffusion's form on a guider; `SamplerCustomAdvanced` hands both to each other."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        self._function, self._options = function, options

    def sample(
        self,
        guider: Guider,
        sigmas: Tensor,
        given: Any,
        callback: Any,
        noise: Tensor,
        latent: Tensor,
        mask: Any,
    ) -> Any:
        model, x = _Masked(guider, noise, latent), noise * sigmas[0]

        def reported(state: dict[str, Any]) -> None:
            if callback is not None:
                callback(state["i"], state["denoised"], state["x"], len(sigmas) - 1)

        given["denoise_mask"] = mask
        return self._function(
            model, x, sigmas, extra_args=given, callback=reported, disable=True, **self._options
        )


class _Masked:
    """What is outside the mask is the source's, at every level of noise."""

    def __init__(self, guider: Guider, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.noise, self.latent_image = guider, noise, latent

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Any, **given: Any) -> Any:
        if denoise_mask is None:
            return self.inner_model(x, sigma, **given)
        base, rest = self.inner_model.inner_model, 1 - denoise_mask
        outside = base.scale_latent_inpaint(
            sigma=sigma, noise=self.noise, latent_image=self.latent_image, x=x
        )
        found = self.inner_model(x * denoise_mask + outside * rest, sigma, **given)
        return found * denoise_mask + self.latent_image * rest


def sample_custom(
    guider: Any, sampler: Any, sigmas: Tensor, latent: Any, *, seed: int, **changes: Any
) -> Tensor:
    """Return what SamplerCustomAdvanced makes of RandomNoise, a guider and a sampler; changes: noise, callback."""
    samples = latent["samples"]
    noise = changes.get("noise", torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed)))
    found = guider.sample(
        noise, samples, sampler, sigmas, latent.get("noise_mask"), changes.get("callback"), seed
    )
    return cast(Tensor, found)
