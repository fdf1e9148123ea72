"""Keep what the sentence does not change: the source's latents are moved by the difference of two velocities.

FlowEdit (arXiv:2412.08629, algorithm 1) with the tail in both branches, as in `hiper edit --keep`. Models of noise or v
are brought to the straight path between picture and noise by an exact change of variables. The node imports this module
when it runs, because it needs ComfyUI's samplers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import comfy.samplers
import torch
import torch.nn.functional as F
from comfy.k_diffusion.sampling import trange
from torch import Tensor

TARGET_SHARE, SOURCE_SHARE = 0.6, 0.2
"""Of the excess of cfg over 1: what guides the two branches; hiper's own, tuned on its embedded model."""
UNCHANGED, CHANGED = 0.25, 0.35
"""Of the difference of velocities, in its .95 quantile over the picture: what counts as none, and as a whole one."""

_BRANCH = "hiper_branch"
"""Entry of the model options: the conditioning that a call is for, and its guidance scale."""


class KeepingGuider(comfy.samplers.CFGGuider):  # type: ignore[misc]  # ComfyUI has no types
    """Holds three conditionings; with another sampler than `keeping_sampler`'s it draws the positive one anew."""

    def set_conds(self, positive: Any, source: Any, negative: Any) -> None:
        """Take the sentence to draw, the sentence of the source, and what guidance leads away from."""
        as_positive = [[embeddings, {**more, "prompt_type": "positive"}] for embeddings, more in source]
        self.inner_set_conds({"positive": positive, "source": as_positive, "negative": negative})

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Any:
        """Return the denoised picture under guidance, by the branch that the model options name."""
        options = model_options or {}
        branch, cfg = options.get(_BRANCH, ("positive", self.cfg))
        return comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds["negative"],
            self.conds[branch],
            cfg,
            model_options=options,
            seed=seed,
        )


def keeping_sampler(keep: float) -> Any:
    """Return the SAMPLER for the guider.

    Args:
        keep: 1 gives the source back; down to 0.5 the latents are moved from a noisier and noisier level on, at 0.5
            from the first of the schedule; below, a growing share of the last steps follows the new prompt alone,
            at 0 all of them.
    """
    return comfy.samplers.KSAMPLER(_sample, {"keep": keep})


@torch.no_grad()
def _sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
    *,
    keep: float,
) -> Tensor:
    """Return the edited latents, in the model's scale; see k-diffusion's samplers for the arguments.

    model: ComfyUI's KSamplerX0Inpaint, around the guider; where it has a mask, the latents outside stay the source's.
    """
    guider, source = model.inner_model, model.latent_image
    if not isinstance(guider, KeepingGuider):
        raise ValueError("this SAMPLER moves between two sentences; connect the GUIDER of the same Keep node")
    levels = [_level(guider.inner_model.model_sampling, sigma, x) for sigma in sigmas]
    times = [noise / (signal + noise) for signal, noise in levels]
    _check(guider.inner_model, source, model.noise, sigmas, times)
    options, seed = extra_args.get("model_options", {}), extra_args.get("seed")
    random = torch.Generator().manual_seed(seed or 0)
    cfg, steps = guider.cfg, len(times) - 1
    first, last = _share(steps, keep)
    z: Tensor = source
    moved = torch.zeros_like(source[:, :1])

    def velocity(z: Tensor, step: int, branch: str, cfg: float) -> tuple[Tensor, Tensor]:
        """Return noise - picture, as the model sees them in z on the straight path, and the picture."""
        sigma = sigmas[step] * z.new_ones(len(z))
        called = {**extra_args, "model_options": {**options, _BRANCH: (branch, cfg)}}
        picture = model(z * sum(levels[step]), sigma, **called)
        return (z - picture) / times[step], picture

    for step in trange(steps - first, steps, disable=disable):
        now, after, left = times[step], times[step + 1], steps - step
        if left >= last:
            drawn = torch.randn(x.shape, generator=random).to(x)
            if step > steps - first:  # the first is the graph's NOISE, of which RandomNoise's is the same
                model.noise = drawn
            noisy = (1 - now) * source + now * model.noise
        if left > last:
            edit, _ = velocity(z + noisy - source, step, "positive", 1 + TARGET_SHARE * (cfg - 1))
            same, _ = velocity(noisy, step, "source", 1 + SOURCE_SHARE * (cfg - 1))
            moved = moved + torch.linalg.vector_norm(edit - same, dim=1, keepdim=True)
            z = z + (after - now) * (edit - same)
            if left == 1:
                z = source + _changed(moved) * (z - source)
            picture = z
        else:
            z = z + noisy - source if left == last else z  # from here on the noisy latents themselves
            direction, picture = velocity(z, step, "positive", cfg)
            z = z + (after - now) * direction
        if callback is not None:
            callback(
                {"x": z, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": picture}
            )
    return z


def _share(steps: int, keep: float) -> tuple[int, int]:
    """Return the step that comes first and the first of those that follow the new prompt alone, counted down."""
    first = round(min(1.0, 2 * (1 - keep)) * steps)
    return max(first, int(keep < 1)), round(max(0.0, 1 - 2 * keep) * steps)


def _changed(moved: Tensor) -> Tensor:
    """Return how much of the change counts, in 0..1, where the latents were moved by `moved` [batch, 1, ..., h, w].

    What moved hardly is noise of the two branches rather than an effect of the sentence; it is put back.
    """
    frames = moved.flatten(0, -3)[:, None]
    blurred = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1).view_as(moved)
    largest = torch.quantile(blurred.flatten(1), 0.95, dim=1).view(-1, *[1] * (moved.ndim - 1))
    share = blurred / largest.clamp(min=torch.finfo(largest.dtype).tiny)
    return ((share - UNCHANGED) / (CHANGED - UNCHANGED)).clamp(0, 1)


def _level(sampling: Any, sigma: Tensor, x: Tensor) -> tuple[float, float]:
    """Return what ComfyUI multiplies picture and noise by at a sigma: (1, sigma), or (1 - sigma, sigma) for flows."""
    none, one = torch.zeros(1, device=x.device), torch.ones(1, device=x.device)
    signal, noise = (sampling.noise_scaling(sigma, *pair, False) for pair in ((none, one), (one, none)))
    return float(signal), float(noise)


def _check(base: Any, source: Tensor, noise: Tensor, sigmas: Tensor, times: list[float]) -> None:
    if not torch.count_nonzero(source):
        raise ValueError("latent_image is empty; connect VAE Encode of the source picture, or Tail Source")
    channels = base.latent_format.latent_channels
    if source.shape[1] != channels:
        raise ValueError(
            f"latent_image has {source.shape[1]} channels and the MODEL takes {channels}; encode the picture with the"
            " VAE of the model's checkpoint"
        )
    if not torch.count_nonzero(noise):
        raise ValueError("the noise is zero everywhere; connect RandomNoise instead of DisableNoise")
    falling = all(now >= after for now, after in pairwise(times))
    if not (falling and times[0] > 0 and times[-1] == 0 and max(times) <= 1):
        raise ValueError(
            f"sigmas go from {float(sigmas[0]):g} to {float(sigmas[-1]):g} in {len(sigmas) - 1} steps; they must fall"
            " from noise of the model's range to 0, as BasicScheduler's do"
        )
