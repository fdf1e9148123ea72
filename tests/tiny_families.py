"""A real pipeline of every family, small enough to run in milliseconds, built from code alone.

Tokenizers know the letters and a few words. What a denoiser takes from its text is amplified: a random small one
barely looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from tests import tiny

WIDTH = 32
HEADS = 2
SIDE = 64
AMPLIFY = 20.0

_IMAGE_TEXT = "<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n<|im_start|>assistant\n"
_LETTERS = [chr(code) for code in range(33, 127)]


def t5_tokenizer() -> Any:
    pieces = ["▁", *_LETTERS, *(f"▁{word}" for word in tiny.WORDS)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -1.0 if len(piece) > 1 else -9.0) for piece in pieces]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def t5(vocabulary: int) -> Any:
    config = transformers.T5Config(
        vocab_size=vocabulary, d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=HEADS
    )
    return transformers.T5EncoderModel(config)


def qwen_tokenizer() -> Any:
    """Byte-level, with the chat marks; every word of `tiny.WORDS` is one token, also after a space."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = sorted(ByteLevel.alphabet())
    merges = []
    for word in (*(f"Ġ{word}" for word in tiny.WORDS), *tiny.WORDS):
        parts = list(word)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            vocabulary.append(parts[0])
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={piece: i for i, piece in enumerate([*dict.fromkeys(vocabulary), *marks])},
        merges=list(dict.fromkeys(merges)),
        additional_special_tokens=marks[1:],
    )
    tokenizer.chat_template = _IMAGE_TEXT
    return tokenizer


def _decoder(tokenizer: Any, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def clip(vocabulary: int, *, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        projection_dim=WIDTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def vae(kind: Any = diffusers.AutoencoderKL, *, levels: int = 4, **settings: Any) -> Any:
    return kind(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        **settings,
    )


def amplified(model: nn.Module, *names: str, by: float = AMPLIFY) -> nn.Module:
    """Multiply the weights whose name holds one of `names`; at least one must."""
    found = [weight for name, weight in model.named_parameters() if any(each in name for each in names)]
    assert found, names
    with torch.no_grad():
        for weight in found:
            weight.mul_(by)
    return model


def sdxl() -> diffusers.StableDiffusionXLPipeline:
    words = tiny.tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(latent_channels=4, scaling_factor=0.13025),
        text_encoder=clip(len(words), projected=False),
        text_encoder_2=clip(len(words), projected=True),
        tokenizer=words,
        tokenizer_2=tiny.tokenizer("!"),
        unet=amplified(unet, "attn2.to_v", "attn2.to_out.0.weight"),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def _flux(*, guidance: bool) -> diffusers.FluxPipeline:
    words, pieces = tiny.tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
        vae=vae(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(len(words), projected=False),
        tokenizer=words,
        text_encoder_2=t5(len(pieces)),
        tokenizer_2=pieces,
        transformer=amplified(transformer, "context_embedder.weight", "add_v_proj.weight", "to_out.0.weight"),
    )


def flux_dev() -> diffusers.FluxPipeline:
    return _flux(guidance=True)


def flux_schnell() -> diffusers.FluxPipeline:
    return _flux(guidance=False)


def z_image() -> diffusers.ZImagePipeline:
    words = qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32],
    )
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**_decoder(words, 3), head_dim=16)),
        tokenizer=words,
        transformer=transformer,
    )


def qwen_image() -> diffusers.QwenImagePipeline:
    words = qwen_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    text = transformers.Qwen2_5_VLTextConfig(**_decoder(words, 2), rope_parameters=rope)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text.to_dict(),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "out_hidden_size": WIDTH,
        },
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 2.0, 0.5, 1.0],
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=words,
        transformer=amplified(transformer, "add_v_proj.weight", "to_out.0.weight"),
    )


def _klein(*, distilled: bool) -> diffusers.Flux2KleinPipeline:
    words = qwen_tokenizer()
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(diffusers.AutoencoderKLFlux2, latent_channels=4),
        text_encoder=transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**_decoder(words, 28), head_dim=16)
        ),
        tokenizer=words,
        transformer=amplified(transformer, "context_embedder.weight", "add_v_proj.weight", "to_out"),
        is_distilled=distilled,
    )


def klein() -> diffusers.Flux2KleinPipeline:
    return _klein(distilled=True)


def klein_base() -> diffusers.Flux2KleinPipeline:
    return _klein(distilled=False)


def sd3() -> diffusers.StableDiffusion3Pipeline:
    words, pieces = tiny.tokenizer(), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=2 * 16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(pieces), d_model=2 * WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=HEADS
        )
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=amplified(transformer, "add_v_proj.weight", "to_out.0.weight"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(latent_channels=4, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip(len(words), projected=True),
        tokenizer=words,
        text_encoder_2=clip(len(words), projected=True),
        tokenizer_2=tiny.tokenizer("!"),
        text_encoder_3=encoder,
        tokenizer_3=pieces,
    )


def pixart() -> diffusers.PixArtSigmaPipeline:
    pieces = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=HEADS,
        cross_attention_dim=2 * 16,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=pieces,
        text_encoder=t5(len(pieces)),
        vae=vae(latent_channels=4, scaling_factor=0.13025),
        transformer=amplified(transformer, "attn2.to_v.weight", "attn2.to_out.0.weight"),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear"),
    )


def gemma_tokenizer() -> Any:
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = [*marks, "▁", "\n", *_LETTERS]
    merges = []
    for word in (*(f"▁{word}" for word in tiny.WORDS), *tiny.WORDS):
        parts = list(word)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            vocabulary.append(parts[0])
    return transformers.GemmaTokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))},
        merges=list(dict.fromkeys(merges)),
        add_bos_token=True,
    )


def gemma(tokenizer: Any) -> Any:
    config = transformers.Gemma2Config(**_decoder(tokenizer, 2), head_dim=16, query_pre_attn_scalar=16)
    return transformers.Gemma2Model(config)


def sana() -> diffusers.SanaPipeline:
    words = gemma_tokenizer()
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=HEADS,
        attention_head_dim=16,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=16,
        cross_attention_dim=2 * 16,
        caption_channels=WIDTH,
    )
    return diffusers.SanaPipeline(
        tokenizer=words,
        text_encoder=gemma(words),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 16, 16),
            decoder_block_out_channels=(8, 8, 16, 16),
            encoder_layers_per_block=(1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_qkv_multiscales=((), (), (), ()),
            decoder_qkv_multiscales=((), (), (), ()),
            scaling_factor=0.41407,
        ),
        transformer=amplified(transformer, "attn2.to_v.weight", "attn2.to_out.0.weight"),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def lumina2() -> diffusers.Lumina2Pipeline:
    words = gemma_tokenizer()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=HEADS,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=amplified(transformer, "attn.to_v", "attn.to_out", "caption_embedder.1.weight"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=gemma(words),
        tokenizer=words,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sdxl": sdxl,
    "flux-dev": flux_dev,
    "flux-schnell": flux_schnell,
    "z-image": z_image,
    "qwen-image": qwen_image,
    "klein": klein,
    "klein-base": klein_base,
    "sd3": sd3,
    "pixart": pixart,
    "sana": sana,
    "lumina2": lumina2,
}


def pipeline(name: str, *, seed: int = 0) -> Any:
    """A family's pipeline with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = FAMILIES[name]()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
