"""The node that learns a tail with the MODEL, CLIP and VAE of the graph."""

from __future__ import annotations

from typing import Any

import torch

from .fitting import TrainingConfig, centre_square, fit, header
from .objective import Objective, family_of, training_mode, without_inference
from .tail import PLACEMENTS, Placement, Tail

LARGEST_SEED = 2**53 - 1
"""The browser keeps numbers as doubles: a larger seed would be another one than is seen."""


class FitTail:
    """Learn a subject from one picture and its caption."""

    CATEGORY, FUNCTION = "hiper", "fit"
    RETURN_TYPES, RETURN_NAMES = ("HIPER_TAIL",), ("tail",)
    OUTPUT_TOOLTIPS = ("For Apply Tail and Save Tail.",)
    DESCRIPTION = (
        "Learn the subject of one picture; the model stays as it is. Cancel stops between two steps."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        rate = {"default": 0.05, "min": 1e-6, "max": 1.0, "step": 1e-6, "round": False}
        seed = {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True}
        side = {"default": 512, "min": 0, "max": 2048, "step": 8}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Stable Diffusion 1, 2 or SDXL; it is not changed."}),
                "clip": ("CLIP", {"tooltip": "The text encoder of the same checkpoint."}),
                "vae": ("VAE", {"tooltip": "The autoencoder of the same checkpoint."}),
                "image": ("IMAGE", {"tooltip": "One picture of the subject."}),
                "caption": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "a standing dog",
                        "tooltip": "What the picture shows, in a few plain words.",
                    },
                ),
                "size": (
                    "INT",
                    {
                        **side,
                        "tooltip": "The centre square is scaled to so many pixels: the model's own (512, 768, 1024)."
                        " 0: as it is.",
                    },
                ),
                "rows": (
                    "INT",
                    {
                        "default": 5,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Token embeddings to learn; 5 as in the paper.",
                    },
                ),
                "placement": (
                    list(PLACEMENTS),
                    {
                        "tooltip": "Where Apply Tail puts them: instead of the last token embeddings, or behind all."
                    },
                ),
                "steps": (
                    "INT",
                    {"default": 200, "min": 1, "max": 100_000, "tooltip": "Updates of the token embeddings."},
                ),
                "batch": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Timesteps per step; memory grows with it.",
                    },
                ),
                "learning_rate": ("FLOAT", {**rate, "tooltip": "Adam's, falling to 0 along a cosine."}),
                "seed": (
                    "INT",
                    {**seed, "tooltip": "Of the noise; the same seed gives the same tail on the CPU."},
                ),
            }
        }

    def fit(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        image: torch.Tensor,
        caption: str,
        size: int,
        rows: int,
        placement: str,
        steps: int,
        batch: int,
        learning_rate: float,
        seed: int,
    ) -> tuple[Tail]:
        """Return the tail; ComfyUI's own exception when the user cancels.

        Raises:
            ValueError: model, text encoder, autoencoder and picture do not fit together, or the fit fails.
        """
        import comfy.model_management as management
        import comfy.utils

        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; allowed are whole numbers from 0 to 2**63 - 1")
        where: Placement = "append" if placement == "append" else "replace"
        config = TrainingConfig(rows, steps, batch, learning_rate, where, seed)
        family, entry = _encode(model, clip, caption)
        latent = _latent(model, vae, centre_square(_one(image), size))
        progress, losses = comfy.utils.ProgressBar(steps), list[float]()

        def callback(step: int, loss: float) -> None:
            management.throw_exception_if_processing_interrupted()
            losses.append(loss)
            progress.update(1)

        with training_mode(model, seed) as loaded:
            device = loaded.load_device
            own = without_inference(entry)
            scaled = loaded.model.process_latent_in(latent.detach().clone().to(device).float())
            fitted = fit(Objective(loaded, scaled, own), own[0].to(device), config, callback)
        written = header(config, family, caption, (losses[0], losses[-1]))
        return (Tail(fitted, written, source=scaled.half().cpu()),)


def _encode(model: Any, clip: Any, caption: str) -> tuple[str, list[Any]]:
    """Return the family, and the caption's one entry of a conditioning."""
    if clip is None:
        raise ValueError(
            "there is no CLIP: the checkpoint holds no text encoder; load one with a CLIP loader"
        )
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    if len(conditioning) != 1:
        raise ValueError(
            f"this CLIP changes during sampling and gives {len(conditioning)} conditionings; connect it from before"
            " the hooks"
        )
    return family_of(model.model, conditioning[0][0].shape[-1]), conditioning[0]


def _one(image: torch.Tensor) -> torch.Tensor:
    if len(image) != 1:
        raise ValueError(
            f"image holds {len(image)} pictures, and a tail is learnt from one; choose it with Image From Batch"
        )
    return image


def _latent(model: Any, vae: Any, picture: torch.Tensor) -> torch.Tensor:
    latent: torch.Tensor = vae.encode(picture)
    takes = model.model.latent_format.latent_channels
    if latent.shape[1] != takes:
        raise ValueError(
            f"the VAE gives {latent.shape[1]} channels and the MODEL takes {takes}; load both from one checkpoint"
        )
    return latent
