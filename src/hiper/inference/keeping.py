"""Keep what the sentence does not change: the source's latents are moved by the difference of two velocities.

FlowEdit (Kulikov et al., arXiv:2412.08629, algorithm 1) with what was learnt in both branches: the subject is the same,
and what moves the latents is the change of the sentence. Models of noise or v are brought to the straight path between
picture and noise by an exact change of variables: z_flow = z / (signal + sigma), t = sigma / (signal + sigma).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from hiper.backbones import Backbone, Samples, StepCallback
from hiper.conditioning import Conditioning, expanded, stacked
from hiper.methods import guided, levels
from hiper.options import SamplingSettings
from hiper.seeds import generator

TARGET_SHARE, SOURCE_SHARE = 0.6, 0.2
"""Of a guidance scale's excess over 1: what guides the two branches; tuned on critters' tuning split."""
UNCHANGED, CHANGED = 0.25, 0.35
"""Of the difference of velocities, in its .95 quantile over the picture: what counts as none, and as a whole one."""


@final
@dataclass(frozen=True, kw_only=True)
class KeepingSampler:
    """Draws from the source's latents instead of from noise; see `methods.Sampler`.

    `keep` of the settings: 1 gives the source back; down to 0.5 the latents are moved from a noisier and noisier level
    on, at 0.5 from pure noise; below, a growing share of the last steps follows the new prompt alone, at 0 all of
    them.

    Attributes:
        backbone: Draws.
        source: Latents of the source, [1, c, h, w], on the backbone's device.
        caption: The source's sentence, with what was learnt.
        region: [1, 1, h, w], 1 where the latents may change and 0 where they are kept; None for everywhere.
    """

    backbone: Backbone
    source: Tensor
    caption: Conditioning
    region: Tensor | None = None

    @property
    def uses_negative_prompt(self) -> bool:
        """Whether the model reads a negative sentence, by which alone this guides."""
        return self.backbone.uses_negative_prompt

    uses_guidance = uses_negative_prompt

    def uses_negative_prompt_at(self, guidance_scale: float) -> bool:
        """See `Sampler`."""
        return self.backbone.uses_negative_prompt_at(guidance_scale)

    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        callback: StepCallback | None = None,
    ) -> Samples:
        """See `Backbone.sample`; the scheduler is Euler's, along the straight path, whatever is asked for."""
        count = len(seeds)
        target, source = expanded(positive, count), expanded(self.caption, count)
        negative = expanded(stacked(negatives), count)
        guidance_scale = max(1.0, settings.guidance_scale) if self.uses_negative_prompt else 1.0
        steps = settings.num_inference_steps
        path = levels(self.backbone.timesteps, steps)
        first, last = _share(steps, settings.keep)
        random = [generator(seed) for seed in seeds]
        x = self.source.expand(count, -1, -1, -1)
        free = torch.ones_like(x[:, :1]) if self.region is None else self.region.expand(count, -1, -1, -1)
        z, moved = x, torch.zeros_like(free)
        for done, number in enumerate(range(first, 0, -1), start=steps - first + 1):
            now, after = self._noise_share(path, number), self._noise_share(path, number - 1)
            noise = self._noise(random)
            if number > last:
                noisy = (1 - now) * x + now * noise
                edit = self._velocity(
                    z + noisy - x, path[number], target, negative, 1 + TARGET_SHARE * (guidance_scale - 1)
                )
                same = self._velocity(
                    noisy, path[number], source, negative, 1 + SOURCE_SHARE * (guidance_scale - 1)
                )
                moved = moved + torch.linalg.vector_norm(edit - same, dim=1, keepdim=True)
                z = z + (after - now) * free * (edit - same)
            else:
                if number == last:  # from here on the noisy latents themselves
                    z = z + (1 - now) * x + now * noise - x
                z = z + (after - now) * self._velocity(z, path[number], target, negative, guidance_scale)
                if self.region is not None:
                    z = free * z + (1 - free) * ((1 - after) * x + after * noise)
            if callback is not None:
                callback(done, steps)
        if not last:
            free = free * changed(moved)
            z = x + free * (z - x)
        return replace(self.backbone.decode_samples(z), masks=free)

    def _noise(self, random: Sequence[torch.Generator]) -> Tensor:
        noise = torch.cat([torch.randn(self.source.shape, generator=each) for each in random])
        return noise.to(self.source.device)

    def _noise_share(self, path: Sequence[int], number: int) -> float:
        """Time on the straight path: 0 the picture, 1 noise."""
        if number == 0:
            return 0.0
        signal, sigma = self.backbone.signal_and_sigma(path[number])
        return sigma / (signal + sigma)

    def _velocity(
        self, z: Tensor, t: int, positive: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> Tensor:
        """Return noise - picture, as the model sees them in z [batch, c, h, w] on the straight path."""
        signal, sigma = self.backbone.signal_and_sigma(t)
        noisy = z * (signal + sigma)
        with torch.no_grad():
            predicted = guided(self.backbone, noisy, t, positive, negative, guidance_scale)
            picture = self.backbone.step(noisy, predicted, t, -1)
        return (noisy - signal * picture) / sigma - picture


def changed(moved: Tensor) -> Tensor:
    """Return how much of the change counts, in 0..1, where the latents were moved by `moved` [batch, 1, h, w].

    What moved hardly is noise of the two branches rather than an effect of the sentence; it is put back.
    """
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    largest = torch.quantile(blurred.flatten(1), 0.95, dim=1)[:, None, None, None]
    share = blurred / largest.clamp(min=torch.finfo(largest.dtype).tiny)
    return ((share - UNCHANGED) / (CHANGED - UNCHANGED)).clamp(0, 1)


def _share(steps: int, keep: float) -> tuple[int, int]:
    """Return the step that comes first and the first of those that follow the new prompt alone, counted down."""
    first = round(min(1.0, 2 * (1 - keep)) * steps)
    return max(first, int(keep < 1)), round(max(0.0, 1 - 2 * keep) * steps)
