"""What a fit takes from ComfyUI: a denoiser that gives gradients, and its loss on one picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the token embeddings -> family, for the UNets that the fit node takes."""

_ALL_MEMORY = 1e20
"""Bytes to ask for so that ComfyUI moves every other model away; its own training nodes ask for as much."""


def family_of(base: Any, embed: int) -> str:
    """Return the family of a denoiser, as hiper names it, for token embeddings of `embed` numbers.

    Raises:
        ValueError: it is none that a fit takes, or the text encoder is another model's.
    """
    config = base.model_config.unet_config
    takes = config.get("context_dim")
    if takes is None or "image_model" in config or takes not in FAMILIES:
        known = ", ".join(f"{family} ({width})" for width, family in FAMILIES.items())
        raise ValueError(
            f"{type(base).__name__} with token embeddings of {embed} numbers cannot be fitted here, but {known} can;"
            " for others use the command line, `hiper fit`"
        )
    if takes != embed:
        raise ValueError(
            f"the MODEL takes token embeddings of {takes} numbers and the CLIP gives {embed};"
            " load both from one checkpoint"
        )
    return FAMILIES[takes]


class Objective:
    """The denoising loss of one picture, whatever the denoiser predicts.

    Args:
        patcher: ComfyUI's MODEL (comfy.model_patcher.ModelPatcher), loaded.
        latent: [1, channels, height, width], in the model's scale, on its device.
        conditioning: the entry of the caption, [embeddings, {"pooled_output": ...}].
    """

    def __init__(self, patcher: Any, latent: Tensor, conditioning: list[Any]) -> None:
        self._base, self._latent, self._extras = patcher.model, latent, dict(conditioning[1])
        self._wrapper = patcher.model_options.get("model_function_wrapper")
        self._options = {
            **patcher.model_options.get("transformer_options", {}),
            "optimized_attention_override": _attention,
            "sample_sigmas": self._base.model_sampling.sigmas.flip(0),
        }
        self.shape = tuple(latent.shape[1:])

    @property
    def levels(self) -> int:
        """Number of timesteps; 0 is the cleanest."""
        return len(self._base.model_sampling.sigmas)

    @property
    def is_float16(self) -> bool:
        """Whether the denoiser computes in float16, which rounds small gradients to zero."""
        dtype = self._base.manual_cast_dtype or self._base.get_dtype()
        return bool(dtype == torch.float16)

    @property
    def is_patched(self) -> bool:
        """Whether nodes have put functions into the denoiser, which may change activations in place."""
        return any(self._options.get(kind) for kind in ("patches", "patches_replace"))

    def loss(self, embeddings: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the mean squared error of the denoiser's own output.

        A denoised picture is a x + b o for the noisy x and the output o, so that its error over b is the output's.

        Args:
            embeddings: [1, length, embed].
            noise: [batch, channels, height, width].
            t: [batch], indices of timesteps.
        """
        sampling, device = self._base.model_sampling, self._latent.device
        sigma = sampling.sigmas.to(device)[t.to(device)]
        clean = self._latent.expand(len(t), -1, -1, -1)
        noisy = sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise.to(device), clean, False)
        denoised = self._denoise(noisy, sigma, embeddings)
        b = sampling.calculate_denoised(sigma, torch.ones_like(noisy), torch.zeros_like(noisy))
        error: Tensor = ((denoised - clean) / b).square().mean()
        return error

    def _denoise(self, noisy: Tensor, sigma: Tensor, embeddings: Tensor) -> Any:
        batch = len(noisy)
        options = {**self._options, "cond_or_uncond": [0] * batch, "sigmas": sigma}
        kwargs = {
            name: _expand(value, batch) for name, value in self._model_kwargs(embeddings, noisy).items()
        }
        kwargs["transformer_options"] = options
        if self._wrapper is None:
            return self._base.apply_model(noisy, sigma, **kwargs)
        given = {"input": noisy, "timestep": sigma, "c": kwargs, "cond_or_uncond": [0] * batch}
        return self._wrapper(self._base.apply_model, given)

    def _model_kwargs(self, embeddings: Tensor, noisy: Tensor) -> dict[str, Any]:
        """What the model makes of a conditioning, as ComfyUI's sampler asks it to.

        For SDXL that is a vector of pooled text and sizes, for an inpainting model an empty picture and a full mask.
        """
        height, width = (8 * side for side in noisy.shape[2:])
        extras = {"width": width, "height": height, "prompt_type": "positive", **self._extras}
        found = self._base.extra_conds(
            **extras, cross_attn=embeddings, noise=noisy, latent_image=self._latent, device=noisy.device
        )
        return {name: each.cond for name, each in found.items()}


def _expand(value: Any, batch: int) -> Any:
    one = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
    return value.expand(batch, *value.shape[1:]) if one else value


def _attention(chosen: Any, *args: Any, **kwargs: Any) -> Any:
    """Attention for the fit alone: PyTorch's has a backward pass, SageAttention and flash-attn have none here."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


@contextmanager
def training_mode(model: Any, seed: int) -> Iterator[Any]:
    """Load a MODEL whole, ready it for gradients, and yield the patcher that holds it.

    ComfyUI loads and runs under inference mode, whose tensors take part in no gradient: those of the model are
    replaced by ordinary ones on the same memory. A model whose weights are streamed is loaded anew without, because
    a backward pass would read weights that the next layers have overwritten. Patches may draw from PyTorch's global
    generator (HyperTile does): it is seeded here, and afterwards what it was before.
    """
    import comfy.model_management as management

    if hasattr(model, "is_dynamic") and model.is_dynamic():
        model = model.clone(disable_dynamic=True)
    management.load_models_gpu([model], memory_required=_ALL_MEMORY, force_full_load=True)
    was_training = getattr(management, "in_training", None)
    if was_training is not None:  # newer versions leave out what has no backward pass
        management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            _replace_inference_tensors(model.model)
            yield model
    finally:
        if was_training is not None:
            management.in_training = was_training


def _replace_inference_tensors(model: nn.Module) -> None:
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_inference():
                setattr(module, name, nn.Parameter(_ordinary(weight), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_inference():
                setattr(module, name, _ordinary(buffer))


def _ordinary(tensor: Tensor) -> Tensor:
    """Return an ordinary tensor on the memory of an inference tensor; a copy where it is more than that memory."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return tensor.detach().clone()
    same = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return same.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def without_inference(entry: list[Any]) -> list[Any]:
    """Return a copy of an entry of a conditioning whose tensors may take part in gradients."""
    embeddings, more = entry
    return [embeddings.detach().clone(), {name: _copied(value) for name, value in more.items()}]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
