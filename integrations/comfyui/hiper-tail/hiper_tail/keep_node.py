"""The nodes that edit the picture itself: a guider with its sampler, and the picture's latents from a tail's file."""

from __future__ import annotations

from typing import Any

from .tail import Tail


class Keep:
    """Edit a picture: what the sentence does not change stays."""

    CATEGORY, FUNCTION = "hiper", "guide"
    RETURN_TYPES, RETURN_NAMES = ("GUIDER", "SAMPLER"), ("guider", "sampler")
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced.", "For the same SamplerCustomAdvanced.")
    DESCRIPTION = (
        "Change in a picture what a sentence changes, and keep the rest: for SamplerCustomAdvanced, whose latent_image"
        " is the picture."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        cfg = {"default": 7.5, "min": 1.0, "max": 100.0, "step": 0.1, "round": 0.01}
        keep = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the tail was fitted on."}),
                "positive": ("CONDITIONING", {"tooltip": "What to draw, with the tail from Apply Tail."}),
                "source": (
                    "CONDITIONING",
                    {"tooltip": "What the picture shows, its caption, with the same tail."},
                ),
                "negative": ("CONDITIONING", {"tooltip": "The negative prompt, without a tail."}),
                "cfg": (
                    "FLOAT",
                    {
                        **cfg,
                        "tooltip": "The usual scale of the model; 1 for those that need no negative prompt.",
                    },
                ),
                "keep": (
                    "FLOAT",
                    {
                        **keep,
                        "tooltip": "How much stays: 1 gives the picture back, 0.5 moves it from noise on, 0 draws"
                        " anew.",
                    },
                ),
            }
        }

    def guide(
        self, model: Any, positive: Any, source: Any, negative: Any, cfg: float, keep: float
    ) -> tuple[Any, Any]:
        """Return guider and sampler.

        Raises:
            ValueError: A value out of range, or a conditioning is missing.
        """
        if not 0 <= keep <= 1:
            raise ValueError(f"keep is {keep:g}; allowed are numbers from 0 to 1")
        if not 1 <= cfg <= 100:
            raise ValueError(f"cfg is {cfg:g}; allowed are numbers from 1 to 100")
        given = {"positive": positive, "source": source, "negative": negative}
        for name, conditioning in given.items():
            if not conditioning:
                raise ValueError(f"{name} holds no conditioning; connect CLIP Text Encode, by Apply Tail")
        from .keeping import KeepingGuider, keeping_sampler

        guider = KeepingGuider(model)
        guider.set_conds(positive, source, negative)
        guider.set_cfg(cfg)
        return guider, keeping_sampler(keep)


class TailSource:
    """The picture that a tail was fitted on."""

    CATEGORY, FUNCTION = "hiper", "load"
    RETURN_TYPES, RETURN_NAMES = ("LATENT",), ("latent",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced's latent_image, or VAE Decode.",)
    DESCRIPTION = "The latents of the picture that a tail was fitted on, where its file holds them."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the tail was fitted on; it is not changed."}),
                "tail": ("HIPER_TAIL", {"tooltip": "From Load Tail."}),
            }
        }

    def load(self, model: Any, tail: Tail) -> tuple[dict[str, Any]]:
        """Return the latents in the autoencoder's scale, as VAE Encode gives them.

        Raises:
            ValueError: The file holds none, or those of another family's autoencoder.
        """
        if tail.source is None:
            raise ValueError(
                "the tail's file holds no picture (left out when it was saved or shared); connect VAE Encode of the"
                " picture"
            )
        takes = model.get_model_object("latent_format").latent_channels
        if tail.source.shape[1] != takes:
            raise ValueError(
                f"the tail's picture has {tail.source.shape[1]} channels and the MODEL takes {takes}; load the model"
                " it was fitted on"
            )
        return ({"samples": model.get_model_object("process_latent_out")(tail.source.float())},)
