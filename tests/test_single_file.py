"""One .safetensors checkpoint: described by its shapes, loaded by diffusers, nothing fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
import transformers
from diffusers import StableDiffusionPipeline
from torch import Tensor

from hiper.backbones import load_backbone, single_file
from hiper.backbones.registry import wrap
from hiper.backbones.single_file_parts import Clip, Vae
from hiper.errors import BackboneError, HiperWarning
from tests import tiny
from tests.original_layout import export, export_xl, millions
from tests.test_single_file_xl import small as small_xl

WIDTH = 64


def small(version: int, prediction: str = "epsilon") -> StableDiffusionPipeline:
    """A pipeline with the blocks of SD 1 or 2 but few channels."""
    torch.manual_seed(version)
    words = tiny.tokenizer(tiny.END if version == 1 else "!")
    heads: Any = 8 if version == 1 else [1, 1, 2, 2]
    return tiny.pipeline(
        tokenizer=words,
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="quick_gelu" if version == 1 else "gelu",
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
            )
        ),
        unet=diffusers.UNet2DConditionModel(
            sample_size=96 if prediction == "v_prediction" else 64,
            block_out_channels=(32, 64, 128, 128),
            cross_attention_dim=WIDTH,
            attention_head_dim=heads,
            use_linear_projection=version == 2,
        ),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
    )


def saved(pipe: Any, version: int, path: Path, **metadata: str) -> Path:
    safetensors.torch.save_file(export(pipe, version), path, metadata=metadata or None)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize(("version", "prediction"), [(1, "epsilon"), (2, "epsilon"), (2, "v_prediction")])
def test_a_single_file_is_the_model_it_was_written_from(
    version: int, prediction: str, tmp_path: Path
) -> None:
    pipe = small(version, prediction)
    path = saved(pipe, version, tmp_path / "model.safetensors", **{"modelspec.prediction_type": prediction})
    original, loaded = wrap(pipe), load_backbone(path, device="cpu", local_only=True)
    assert loaded.weights_sha256() == original.weights_sha256()
    assert loaded.resolution == (768 if prediction == "v_prediction" else 512)
    sentence = "a sitting dog"
    assert torch.equal(loaded.encode(sentence).token_embeddings, original.encode(sentence).token_embeddings)
    noise, t, conditioning = torch.randn(1, 4, 16, 16), torch.tensor([400]), original.encode(sentence)
    targets = [backbone.add_noise(noise, noise.flip(-1), t).target for backbone in (original, loaded)]
    assert torch.equal(targets[0], targets[1])
    outputs = [backbone.predict(noise, t, conditioning).detach() for backbone in (original, loaded)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)


def refused(path: Path) -> str:
    with pytest.raises(BackboneError) as refusal:
        load_backbone(path, device="cpu", local_only=True)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_without_a_vocabulary_the_remedy_is_told(hub_cache: Path, tmp_path: Path) -> None:
    path = saved(small(1), 1, tmp_path / "model.safetensors")
    assert "run `hf download openai/clip-vit-large-patch14 vocab.json merges.txt`" in refused(path)
    assert not hub_cache.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
def test_sd2_must_say_what_it_predicts(tmp_path: Path) -> None:
    path = saved(small(2), 2, tmp_path / "model.safetensors")
    assert "model.yaml beside it" in refused(path)
    yaml = path.with_suffix(".yaml")
    yaml.write_text('model:\n  params:\n    parameterization: "v"\n')
    assert load_backbone(path, device="cpu").resolution == 768
    yaml.write_text("model:\n  params:\n    beta_schedule: linear\n")
    assert load_backbone(path, device="cpu").resolution == 512


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("conditioner.embedders.0.x", (1,), "holds a text encoder alone"),
        ("conditioner.embedders.0.model.ln_final.bias", (1,), "is the refiner of Stable Diffusion XL"),
        ("double_blocks.0.img_attn.qkv.weight", (1,), "is a FLUX.1 checkpoint"),
        ("model.diffusion_model.joint_blocks.0.x", (1,), "is a Stable Diffusion 3 checkpoint"),
        ("transformer_blocks.0.img_mlp.net.2.weight", (1,), "is a Qwen-Image checkpoint"),
        ("cap_embedder.0.weight", (1,), "give the model's folder in diffusers format, or its Hub id"),
        ("lora_unet_down_blocks.alpha", (1,), "is a LoRA"),
        ("weight", (1,), "holds no model.diffusion_model.* weights"),
        ("hiper.tail", (1,), "what hiper fit wrote"),
        ("control_model.input_blocks.0.0.weight", (1,), "is a ControlNet"),
        ("emb_params", (1,), "is a textual inversion"),
        ("lora_te_text_model.hada_w1_a", (1,), "is a LoRA"),
        ("embedder.model.visual.proj", (1,), "is an unCLIP variant"),
        ("model.diffusion_model.time_embed.cond_proj.weight", (1,), "is a latent consistency model"),
        ("model.diffusion_model.input_blocks.0.0.weight", (4, 9, 3, 3), "takes 9 latent channels"),
        ("model.diffusion_model.input_blocks.0.0.weight", (4, 4, 3, 3), "no text encoder and no autoencoder"),
    ],
)
def test_other_files_are_refused(name: str, shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({name: torch.zeros(shape)}, path)
    assert words in refused(path)


def old(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("transformer.text_model.", "transformer."): t for name, t in tensors.items()}


def averaged_too(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | averaged_alone(tensors)


def in_float8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.to(torch.float8_e4m3fn) if v.dtype == torch.float32 else v for k, v in tensors.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("change", [old, averaged_too, in_float8])
def test_other_ways_to_save_it_are_read(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    pipe, path = small(1), tmp_path / "model.safetensors"
    safetensors.torch.save_file(change(export(pipe, 1)), path)
    if change is in_float8:
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.load_state_dict({k: v.float() for k, v in in_float8(part.state_dict()).items()})
    loaded = load_backbone(path, device="cpu", local_only=True)
    assert loaded.weights_sha256() == wrap(pipe).weights_sha256()


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize(
    "name", ["model.diffusion_model.extra.weight", "first_stage_model.x.y", "adapter.weight"]
)
def test_tensors_that_nothing_takes_are_noted(
    name: str, whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({**whole["sd1"], name: torch.ones(1)}, path)
    with pytest.warns(HiperWarning, match="it is not used") as caught:
        load_backbone(path, device="cpu", local_only=True)
    assert len(caught) == 1


def averaged_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ldm names them: without dots."""
    return {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model.")
    }


def without(*prefixes: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(prefixes)}


def only(prefix: str, renamed: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {
        renamed + name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


DENOISER, TEXTS = "model.diffusion_model.", ("cond_stage_model.", "conditioner.")
PARTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "no autoencoder": (without("first_stage_model."), "holds no autoencoder (VAE); take the checkpoint"),
    "no text encoder": (without(*TEXTS), "holds no text encoder; take the checkpoint"),
    "ComfyUI's denoiser alone": (only(DENOISER, DENOISER), "no text encoder and no autoencoder (VAE)"),
    "a bare denoiser": (only(DENOISER, ""), "holds a denoiser alone"),
    "an autoencoder": (only("first_stage_model.", ""), "holds an autoencoder (VAE) alone"),
    "averaged weights alone": (averaged_alone, "holds averaged weights"),
    "scaled weights": (
        lambda tensors: {**tensors, DENOISER + "out.2.scale_weight": torch.ones(1)},
        "holds scaled or packed weights",
    ),
}


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Tensor]]:
    return {"sd1": export(small(1), 1), "sd2": export(small(2), 2), "sdxl": export_xl(small_xl())}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("case", PARTS)
def test_what_is_missing_is_told_with_the_remedy(
    case: str, version: str, whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    change, words = PARTS[case]
    path = tmp_path / "part.safetensors"
    safetensors.torch.save_file(change(whole[version]), path)
    assert words in refused(path)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_component_in_diffusers_layout_is_told(part: str, tmp_path: Path) -> None:
    getattr(tiny.pipeline(), part).save_pretrained(tmp_path)
    words = {"unet": "denoiser alone, in the layout of diffusers", "vae": "an autoencoder (VAE) alone"}
    assert words[part] in refused(tmp_path / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = saved(small(1), 1, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    assert "is damaged" in refused(path)


CLIP_L = Clip(
    is_open=False, embed_dim=768, vocabulary=49408, positions=77, layers=12, hidden=3072, projection=768
)
CLIP_H = Clip(
    is_open=True, embed_dim=1024, vocabulary=49408, positions=77, layers=23, hidden=4096, projection=1024
)


@pytest.mark.parametrize(
    ("layout", "unet", "text"),
    [
        ({"version": 1, "linear_projection": False, "text": CLIP_L}, 859.52, 123.06),
        ({"version": 2, "linear_projection": True, "text": CLIP_H}, 865.91, 340.39),
    ],
)
def test_the_real_models_have_their_published_sizes(
    layout: dict[str, Any], unet: float, text: float, tmp_path: Path
) -> None:
    real = single_file.SdLayout(
        **layout,
        prediction="epsilon",
        unet_channels=(320, 640, 1280, 1280),
        vae=Vae(channels=(128, 256, 512, 512), latent_channels=4),
    )
    single_file.write_config(real, tmp_path)
    assert millions(tmp_path / "unet") == unet
    assert millions(tmp_path / "vae") == 83.65
    assert millions(tmp_path / "text_encoder") == text
