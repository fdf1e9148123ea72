"""One .safetensors checkpoint of Stable Diffusion XL: written in the original layout, loaded, nothing fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

from hiper.backbones import load_backbone, single_file_xl
from hiper.backbones.registry import wrap
from hiper.backbones.single_file_parts import Clip, Vae
from hiper.errors import BackboneError
from tests import tiny
from tests.original_layout import export_xl, millions

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""As SDXL base 1.0 has it, whose sampler is Euler's."""
UNET = "model.diffusion_model."
OPEN_CLIP = "conditioner.embedders.1.model."


def small(**schedule: Any) -> diffusers.StableDiffusionXLPipeline:
    """A pipeline with the blocks of SDXL but few channels; the text encoders differ in width, as the real ones."""
    torch.manual_seed(0)
    words = tiny.tokenizer()
    pipe = diffusers.StableDiffusionXLPipeline(
        tokenizer=words,
        tokenizer_2=tiny.tokenizer("!"),
        text_encoder=transformers.CLIPTextModel(clip(len(words), 64, "quick_gelu")),
        text_encoder_2=transformers.CLIPTextModelWithProjection(clip(len(words), 128, "gelu")),
        unet=tiny.amplified(unet()),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            scaling_factor=0.13025,
        ),
        scheduler=diffusers.EulerDiscreteScheduler.from_config({**SCHEDULE, **schedule}),
        add_watermarker=False,
    )
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return pipe


def clip(vocabulary: int, width: int, activation: str) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


def unet() -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[1, 1, 2],
        cross_attention_dim=192,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=128 + 6 * 16,
    )


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    return export_xl(small())


def saved(checkpoint: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    safetensors.torch.save_file(checkpoint, path, metadata=metadata or None)
    return path


KINDS: dict[str, tuple[dict[str, str], tuple[str, ...], dict[str, Any]]] = {
    "plain": ({}, (), {}),
    "stated by ModelSpec": ({"modelspec.prediction_type": "v"}, (), {"prediction_type": "v_prediction"}),
    "stated by a key": ({}, ("v_pred",), {"prediction_type": "v_prediction"}),
    "down to noise alone": (
        {},
        ("v_pred", "ztsnr"),
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
}
"""A file's metadata and empty keys, and the schedule that they mean."""


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_the_model_it_was_written_from(
    kind: str, checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    metadata, keys, schedule = KINDS[kind]
    marked = {**checkpoint, **{key: torch.zeros(0) for key in keys}}
    path = saved(marked, tmp_path / "model.safetensors", **metadata)
    original, loaded = wrap(small(**schedule)), load_backbone(path, device="cpu", local_only=True)
    assert loaded.family == "sdxl"
    assert loaded.weights_sha256() == original.weights_sha256()
    assert (loaded.resolution, loaded.objective) == (1024, original.objective)
    conditioning, again = original.encode("a sitting dog"), loaded.encode("a sitting dog")
    assert conditioning.pooled is not None
    assert again.pooled is not None
    assert torch.equal(conditioning.token_embeddings, again.token_embeddings)
    assert torch.equal(conditioning.pooled, again.pooled)
    noise, t = torch.randn(1, 4, 16, 16), torch.tensor([999])
    targets = [backbone.add_noise(noise, noise.flip(-1), t).target for backbone in (original, loaded)]
    assert torch.equal(targets[0], targets[1])
    first, second = (backbone.predict(noise, t, conditioning).detach() for backbone in (original, loaded))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers and numpy 2
@pytest.mark.parametrize("scheduler", ["euler", "ddim"])
def test_it_draws_what_the_model_it_was_written_from_draws(
    scheduler: str, checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(checkpoint, tmp_path / "model.safetensors")
    pictures = []
    for backbone in (wrap(small()), load_backbone(path, device="cpu", local_only=True)):
        drawn = backbone.sample(
            backbone.encode("a red dog"),
            [backbone.encode("")],
            backbone.sampling_settings(
                num_inference_steps=2, guidance_scale=3.0, scheduler=scheduler, height=64, width=64
            ),
            seeds=[3],
        )
        pictures.append(np.asarray(drawn.images[0], dtype=float))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def refused(path: Path) -> str:
    with pytest.raises(BackboneError) as refusal:
        load_backbone(path, device="cpu", local_only=True)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def without(*marks: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda whole: {k: v for k, v in whole.items() if not any(mark in k for mark in marks)}


def with_input(channels: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda whole: {**whole, UNET + "input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)}


VARIANTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "inpainting": (with_input(9), "takes 9 latent channels"),
    "pix2pix": (with_input(8), "takes 8 latent channels"),
    "EDM": (lambda whole: {**whole, "edm_mean": torch.zeros(4)}, "is an EDM variant"),
    "no middle": (without("middle_block.1.transformer"), "lacks transformer layers"),
    "shallow": (without("output_blocks.1.1.transformer_blocks.1."), "lacks transformer layers"),
    "denoiser alone": (without("conditioner.embedders.0"), f"{single_file_xl.CLIP}embeddings"),
    "no second encoder": (without(OPEN_CLIP), f"{OPEN_CLIP}token_embedding.weight is missing"),
    "no added embedding": (without("label_emb"), f"{UNET}label_emb.0.0.weight is missing"),
    "no picture encoder": (without("first_stage_model"), "holds no autoencoder (VAE)"),
    "odd shape": (
        lambda whole: {**whole, OPEN_CLIP + "token_embedding.weight": torch.zeros(4)},
        "a weight has an impossible shape",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_and_parts_are_refused(variant: str, checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    change, words = VARIANTS[variant]
    assert words in refused(saved(change(checkpoint), tmp_path / "other.safetensors"))


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (UNET + "out.0.bias", "unet lacks conv_norm_out.bias"),
        (
            UNET + "output_blocks.0.1.transformer_blocks.1.ff.net.2.bias",
            "unet lacks up_blocks.0.attentions.0.transformer_blocks.1.ff.net.2.bias",
        ),
        (OPEN_CLIP + "text_projection", "text_encoder_2 lacks text_projection.weight"),
        (single_file_xl.CLIP + "final_layer_norm.bias", "text_encoder lacks final_layer_norm.bias"),
        ("first_stage_model.quant_conv.weight", "vae lacks quant_conv.weight"),
    ],
)
def test_a_lost_weight_is_named(lost: str, words: str, checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved({k: v for k, v in checkpoint.items() if k != lost}, tmp_path / "model.safetensors")
    assert words in refused(path)


@pytest.mark.slow
def test_a_truncated_file_is_damaged(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(checkpoint, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    assert "is damaged" in refused(path)


@pytest.mark.slow
def test_the_real_model_has_its_published_size(tmp_path: Path) -> None:
    text: dict[str, Any] = {"vocabulary": 49408, "positions": 77}
    real = single_file_xl.SdxlLayout(
        prediction="epsilon",
        zero_terminal=False,
        unet_channels=(320, 640, 1280),
        depths=(0, 2, 10),
        addition=2816,
        vae=Vae(channels=(128, 256, 512, 512), latent_channels=4),
        text=Clip(is_open=False, embed_dim=768, layers=12, hidden=3072, projection=768, **text),
        text_2=Clip(is_open=True, embed_dim=1280, layers=32, hidden=5120, projection=1280, **text),
    )
    single_file_xl.write_config(real, tmp_path)
    sizes = [millions(tmp_path / part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")]
    assert sizes == [2567.46, 83.65, 123.06, 694.66]
