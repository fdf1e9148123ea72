"""The fourteen checkpoints that the ten families are known by, in their published sizes, without their weights.

Every size is that of the checkpoint's own `config.json` on the Hub, where it differs from the class's default.
Tokenizers are the tests' small ones: token ids cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
import transformers
from benchmarks import cost_model
from tests import tiny, tiny_families
from torch import nn

_SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def as_loaded(pipe: Any, dtype: torch.dtype) -> Any:
    """Give the weights the dtype in which `from_pretrained(dtype=...)` loads them; buffers stay as they are.

    transformers keeps some of T5's in float32 when the rest is in float16, diffusers some of its own always.
    """
    for part in pipe.components.values():
        if not isinstance(part, nn.Module):
            continue
        part.eval()
        kept = getattr(part, "_keep_in_fp32_modules", None) or []
        if dtype != torch.float16 and isinstance(part, transformers.PreTrainedModel):
            kept = []
        for name, weight in part.named_parameters():
            if weight.is_floating_point() and not set(kept) & set(name.split(".")):
                weight.data = weight.data.to(dtype)
    return pipe


def _clip(hidden: int, layers: int, heads: int, inner: int, act: str, projected: int, kind: Any) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=projected,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
    return kind(config)


def _clip_l(kind: Any = transformers.CLIPTextModel) -> Any:
    return _clip(768, 12, 12, 3072, "quick_gelu", 768, kind)


def _clip_g() -> Any:
    return _clip(1280, 32, 20, 5120, "gelu", 1280, transformers.CLIPTextModelWithProjection)


def _t5_xxl() -> Any:
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return transformers.T5EncoderModel(config)


def _gemma2() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=256000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=4096,
    )
    return transformers.Gemma2Model(config)


def _qwen3(hidden: int, inner: int, kind: Any) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )
    return kind(config)


def _vae(**settings: Any) -> Any:
    sizes = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    }
    return diffusers.AutoencoderKL(**{**sizes, **settings})


def _vae16(scaling: float, shift: float) -> Any:
    return _vae(
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=scaling,
        shift_factor=shift,
    )


def _sd(unet: Any, encoder: Any, tokenizer: Any, scheduler: Any, side: int) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215, sample_size=side),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd15() -> Any:
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, **_SD_SCHEDULE)
    return _sd(cost_model.sd14(), _clip_l(), tiny.tokenizer(), scheduler, 512)


def _sd21() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True,
        upcast_attention=True,
    )
    encoder = _clip(1024, 23, 16, 4096, "gelu", 512, transformers.CLIPTextModel)
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **_SD_SCHEDULE)
    return _sd(unet, encoder, tiny.tokenizer("!"), scheduler, 768)


def _sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, sample_size=1024, force_upcast=True),
        text_encoder=_clip_l(),
        text_encoder_2=_clip_g(),
        tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer("!"),
        unet=cost_model.sdxl(),
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **_SD_SCHEDULE),
        add_watermarker=False,
    )


def _sd35(**sizes: Any) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        attention_head_dim=64,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        qk_norm="rms_norm",
        **sizes,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae16(1.5305, 0.0609),
        text_encoder=_clip_l(transformers.CLIPTextModelWithProjection),
        tokenizer=tiny.tokenizer(),
        text_encoder_2=_clip_g(),
        tokenizer_2=tiny.tokenizer("!"),
        text_encoder_3=_t5_xxl(),
        tokenizer_3=tiny_families.t5_tokenizer(),
    )


def _sd35_medium() -> Any:
    return _sd35(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
    )


def _sd35_large() -> Any:
    return _sd35(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192)


def _flux(*, guidance: bool) -> Any:
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance
        ),
        vae=_vae16(0.3611, 0.1159),
        text_encoder=_clip_l(),
        tokenizer=tiny.tokenizer(),
        text_encoder_2=_t5_xxl(),
        tokenizer_2=tiny_families.t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(guidance_embeds=guidance),
    )


def _klein(encoder: Any, *, distilled: bool, **sizes: Any) -> Any:
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=diffusers.AutoencoderKLFlux2(),
        text_encoder=encoder,
        tokenizer=tiny_families.qwen_tokenizer(),
        transformer=diffusers.Flux2Transformer2DModel(guidance_embeds=False, **sizes),
        is_distilled=distilled,
    )


def _klein_4b() -> Any:
    encoder = _qwen3(2560, 9728, transformers.Qwen3ForCausalLM)
    sizes = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
    return _klein(encoder, distilled=True, **sizes)


def _klein_9b() -> Any:
    encoder = _qwen3(4096, 12288, transformers.Qwen3ForCausalLM)
    sizes = {
        "num_layers": 8,
        "num_single_layers": 24,
        "num_attention_heads": 32,
        "joint_attention_dim": 12288,
    }
    return _klein(encoder, distilled=False, **sizes)


def _qwen_image() -> Any:
    text = transformers.Qwen2_5_VLTextConfig(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=128000,
        rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    )
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    }
    config = transformers.Qwen2_5_VLConfig(text_config=text.to_dict(), vision_config=vision)
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tiny_families.qwen_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(num_layers=60, guidance_embeds=False),
    )


def _z_image() -> Any:
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae16(0.3611, 0.1159),
        text_encoder=_qwen3(2560, 9728, transformers.Qwen3Model),
        tokenizer=tiny_families.qwen_tokenizer(),
        transformer=diffusers.ZImageTransformer2DModel(axes_lens=[1536, 512, 512]),
    )


def _pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        attention_head_dim=72,
        num_attention_heads=16,
        cross_attention_dim=1152,
        caption_channels=4096,
        use_additional_conditions=False,
        interpolation_scale=2,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=tiny_families.t5_tokenizer(),
        text_encoder=_t5_xxl(),
        vae=_vae(scaling_factor=0.13025, sample_size=1024, force_upcast=True),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear"),
    )


def _sana() -> Any:
    blocks, widths = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3, (128, 256, 512, 512, 1024, 1024)
    scales = ((), (), (), (5,), (5,), (5,))
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=32,
        scaling_factor=0.41407,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
    )
    return diffusers.SanaPipeline(
        tokenizer=tiny_families.gemma_tokenizer(),
        text_encoder=_gemma2(),
        vae=autoencoder,
        transformer=diffusers.SanaTransformer2DModel(),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _lumina2() -> Any:
    transformer = diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304)
    return diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=_vae16(0.3611, 0.1159),
        text_encoder=_gemma2(),
        tokenizer=tiny_families.gemma_tokenizer(),
    )


MODELS: Mapping[str, Callable[[], Any]] = {
    "Stable Diffusion 1.5": _sd15,
    "Stable Diffusion 2.1": _sd21,
    "SDXL": _sdxl,
    "Stable Diffusion 3.5 medium": _sd35_medium,
    "Stable Diffusion 3.5 large": _sd35_large,
    "FLUX.1 dev": lambda: _flux(guidance=True),
    "FLUX.1 schnell": lambda: _flux(guidance=False),
    "FLUX.2 klein 4B": _klein_4b,
    "FLUX.2 klein 9B": _klein_9b,
    "Qwen-Image": _qwen_image,
    "Z-Image": _z_image,
    "PixArt-Sigma": _pixart,
    "Sana 1.6B": _sana,
    "Lumina Image 2": _lumina2,
}
