"""Steps and guidance that a model's makers suggest, found by what its configuration says.

Guidance 1 is none: where a card says 0, here stands 1.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hiper.errors import HiperWarning


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What suits a model when it draws: the guidance scale, 1 for none, and the number of denoising steps."""

    guidance_scale: float
    num_inference_steps: int


SD = SamplingDefaults(guidance_scale=7.5, num_inference_steps=50)
"""`StableDiffusionPipeline` of diffusers, and the card of CompVis/stable-diffusion-v1-4."""
SDXL = SamplingDefaults(guidance_scale=5.0, num_inference_steps=50)
"""`StableDiffusionXLPipeline` of diffusers."""
LCM = SamplingDefaults(guidance_scale=8.0, num_inference_steps=4)
"""The card of SimianLuo/LCM_Dreamshaper_v7 (arXiv:2310.04378): the denoiser takes the scale as an input."""
FEW_STEPS = SamplingDefaults(guidance_scale=1.0, num_inference_steps=4)
"""The cards of stabilityai/sdxl-turbo and sd-turbo (1 to 4 steps, guidance 0), ByteDance/SDXL-Lightning (4 steps,
guidance 0) and latent-consistency/lcm-lora-sdxl (4 steps, guidance 0)."""
SD3_MEDIUM = SamplingDefaults(guidance_scale=7.0, num_inference_steps=28)
"""The card of stabilityai/stable-diffusion-3-medium-diffusers."""
SD35_MEDIUM = SamplingDefaults(guidance_scale=4.5, num_inference_steps=40)
"""The card of stabilityai/stable-diffusion-3.5-medium."""
SD35_LARGE = SamplingDefaults(guidance_scale=3.5, num_inference_steps=28)
"""The card of stabilityai/stable-diffusion-3.5-large."""
SD35_TURBO = SamplingDefaults(guidance_scale=1.0, num_inference_steps=4)
"""The card of stabilityai/stable-diffusion-3.5-large-turbo (guidance 0)."""
FLUX_DEV = SamplingDefaults(guidance_scale=3.5, num_inference_steps=28)
"""`FluxPipeline` of diffusers; the card of black-forest-labs/FLUX.1-dev has guidance 3.5 and 50 steps."""
FLUX_SCHNELL = SamplingDefaults(guidance_scale=1.0, num_inference_steps=4)
"""The card of black-forest-labs/FLUX.1-schnell (guidance 0)."""
KLEIN = SamplingDefaults(guidance_scale=1.0, num_inference_steps=4)
"""The card of black-forest-labs/FLUX.2-klein-4B."""
KLEIN_BASE = SamplingDefaults(guidance_scale=4.0, num_inference_steps=50)
"""The card of black-forest-labs/FLUX.2-klein-base-4B."""
Z_IMAGE_TURBO = SamplingDefaults(guidance_scale=1.0, num_inference_steps=8)
"""The card of Tongyi-MAI/Z-Image-Turbo (guidance 0; its 9 steps make 8 calls of the denoiser)."""
Z_IMAGE = SamplingDefaults(guidance_scale=5.0, num_inference_steps=50)
"""The card of Tongyi-MAI/Z-Image has 50 steps at guidance 4, which diffusers adds to the sentence's own prediction: on
the scale of the other families, where 1 is none, 5."""
QWEN_IMAGE = SamplingDefaults(guidance_scale=4.0, num_inference_steps=50)
"""The card of Qwen/Qwen-Image (`true_cfg_scale`)."""
PIXART = SamplingDefaults(guidance_scale=4.5, num_inference_steps=20)
"""`PixArtSigmaPipeline` of diffusers, and the card of PixArt-alpha/PixArt-Sigma-XL-2-1024-MS."""
SANA = SamplingDefaults(guidance_scale=4.5, num_inference_steps=20)
"""The card of Efficient-Large-Model/Sana_1600M_1024px_diffusers, and `SanaPipeline` of diffusers."""
LUMINA2 = SamplingDefaults(guidance_scale=4.0, num_inference_steps=30)
"""`Lumina2Pipeline` of diffusers, and the demo of Alpha-VLLM/Lumina-Image-2.0."""

LCM_STEPS = 50
"""Steps that `LCMScheduler` chooses among (its `original_inference_steps`)."""


def diffusion_defaults(
    usual: SamplingDefaults, scheduler: str, schedule: Mapping[str, Any], denoiser: Mapping[str, Any]
) -> SamplingDefaults:
    """Return what suits a model of noise or v.

    Args:
        usual: What suits its family.
        scheduler: The class of its scheduler: LCM's is for models distilled to few steps.
        schedule: The configuration of that. Steps from the last timestep on ("trailing") are those of models
            distilled to few steps, such as Turbo and Lightning, and of v models whose last level is noise alone.
        denoiser: The configuration of the denoiser; an LCM, which takes the guidance scale as an input, sets
            `time_cond_proj_dim`.
    """
    if denoiser.get("time_cond_proj_dim") is not None:
        return LCM
    trailing = schedule.get("timestep_spacing") == "trailing" and schedule.get("prediction_type") == "epsilon"
    return FEW_STEPS if scheduler == "LCMScheduler" or trailing else usual


def sd3_defaults(name: str, transformer: Mapping[str, Any]) -> SamplingDefaults:
    """Return what suits a Stable Diffusion 3.

    3.5 normalises queries and keys; of that, medium has layers with two attentions (MMDiT-X). Large and its Turbo
    differ in weights alone, so the name decides, with a note.
    """
    if transformer.get("qk_norm") is None:
        return SD3_MEDIUM
    if named_few_step(name):
        note_few_step(name)
        return SD35_TURBO
    return SD35_MEDIUM if transformer.get("dual_attention_layers") else SD35_LARGE


def z_image_defaults(schedule: Mapping[str, Any]) -> SamplingDefaults:
    """Return what suits a Z-Image: the undistilled model shifts its sigmas by 6, Turbo by 3."""
    return Z_IMAGE if float(schedule.get("shift", 3.0)) >= 6 else Z_IMAGE_TURBO


def named_few_step(name: str) -> str | None:
    """Return "lcm" or "turbo" for a model that its name says to be distilled to few steps, None for others."""
    last = PurePath(name).name.lower()
    if re.search(r"(?<![a-z])lcm(?![a-z])", last):
        return "lcm"
    return "turbo" if re.search(r"turbo|lightning|hyper[-_ ]?sd|(?<![a-z])dmd2", last) else None


def note_few_step(name: str) -> None:
    """Warn that a name decided: nothing in the files did."""
    warnings.warn(
        f"{name} is called a model distilled to few steps, which its files do not say: it is drawn in"
        f" {FEW_STEPS.num_inference_steps} steps without guidance unless --num-inference-steps and --guidance-scale say"
        " otherwise",
        HiperWarning,
        stacklevel=3,
    )
