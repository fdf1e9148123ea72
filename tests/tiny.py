"""A real StableDiffusionPipeline, small enough to run in milliseconds, built from code alone.

A random small denoiser barely looks at its text, so what it takes from there is amplified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Kind = Literal["sd1", "sd2"]

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "standing", "sitting", "jumping", "dog", "cat", "on", "the", "grass", "red", "blue")
EMBED = 32
RESOLUTION = 32
AMPLIFY = 20.0

ONE_STEP: Mapping[str, Mapping[str, Any]] = {
    "ddim-inversion": {"num_inference_steps": 2},
    "dreambooth": {"num_train_steps": 1, "batch": 1, "class_images": 1, "num_inference_steps": 2},
    "dreambooth-lora": {"num_train_steps": 1, "batch": 1, "num_inference_steps": 2},
    "hiper": {"num_train_steps": 1, "batch": 1, "num_inference_steps": 2},
    "imagic": {
        "num_train_steps": 1,
        "weight_steps": 1,
        "batch": 1,
        "num_inference_steps": 2,
        "target": "a sitting dog",
    },
    "null-text": {"num_inference_steps": 2, "inner_steps": 1, "guidance_scale": 2.0},
    "sdedit": {"num_inference_steps": 2},
    "textual-inversion": {"num_train_steps": 1, "batch": 1, "num_inference_steps": 2},
}
"""Every method in its shortest form; imagic serves this one sentence."""

_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tokenizer(pad: str = END) -> CLIPTokenizer:
    """A CLIP tokenizer that spells letter by letter, except for a few words of one token each."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            vocabulary.append(parts[0])
    vocabulary = [*dict.fromkeys(vocabulary), START, END]
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)},
        merges=list(dict.fromkeys(merges)),
        pad_token=pad,
        model_max_length=77,
    )


def text_encoder(vocabulary: int, embed: int = EMBED) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=embed,
        intermediate_size=2 * embed,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        projection_dim=embed,
    )
    return CLIPTextModel(config).eval()


def unet(embed: int = EMBED) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=embed,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return amplified(model.eval())


def amplified(model: UNet2DConditionModel) -> UNet2DConditionModel:
    """Let the text count: multiply what cross-attention reads and writes."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight.mul_(AMPLIFY)
    return model


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=RESOLUTION,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def pipeline(kind: Kind = "sd1", *, seed: int = 0, **parts: Any) -> StableDiffusionPipeline:
    """SD 1 (noise prediction, PNDM) or SD 2 (v prediction, DDIM, padding by "!") in miniature."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer(END if kind == "sd1" else "!")
        scheduler = (
            PNDMScheduler(skip_prk_steps=True, **_SCHEDULE)
            if kind == "sd1"
            else DDIMScheduler(
                prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **_SCHEDULE
            )
        )
        components: dict[str, Any] = {
            "tokenizer": words,
            "text_encoder": text_encoder(len(words)),
            "unet": unet(),
            "vae": vae(),
            "scheduler": scheduler,
            "safety_checker": None,
            "feature_extractor": None,
        }
    pipe = StableDiffusionPipeline(**{**components, **parts}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(side: int = 64) -> Image.Image:
    """A picture with a red square on a green and blue gradient."""
    image = Image.new("RGB", (side, side))
    image.putdata([(40, 255 * x // side, 255 * y // side) for y in range(side) for x in range(side)])
    image.paste((220, 30, 30), (side // 4, side // 4, side // 2, side // 2))
    return image
