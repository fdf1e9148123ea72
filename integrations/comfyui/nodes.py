"""The nodes: load, apply, fit, save. ComfyUI's own modules are imported when a node runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from .fitting import Objective, Recipe, fit, header, ordinary, square, trainable
from .tail import PLACEMENTS, Placement, Tail, load_tail, place_tail, save_tail

FOLDER = "hiper"
AS_FITTED = "as fitted"
_SEED = {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}


def _folder() -> Path:
    """Tails have a folder of their own, models/hiper: in models/embeddings they would be taken for words."""
    import folder_paths

    own = Path(folder_paths.models_dir) / FOLDER
    if str(own) not in folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))[0]:
        folder_paths.add_model_folder_path(FOLDER, str(own))
    return own


def _placement(name: str) -> Placement:
    return "append" if name == "append" else "replace"


class LoadTail:
    """A file of models/hiper."""

    CATEGORY, FUNCTION = "hiper", "load"
    RETURN_TYPES, RETURN_NAMES = ("HIPER_TAIL", "STRING"), ("tail", "caption")
    DESCRIPTION = "Load what hiper learnt of a subject; put its file into models/hiper."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        import folder_paths

        _folder()
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return {"required": {"file": (files,)}}

    def load(self, file: str) -> tuple[Tail, str]:
        """Return the tail and the caption it was fitted with."""
        import folder_paths

        _folder()
        tail = load_tail(Path(folder_paths.get_full_path_or_raise(FOLDER, file)))
        return tail, tail.header.get("hiper.caption", "")


class ApplyTail:
    """A sentence's conditioning, with the subject in it."""

    CATEGORY, FUNCTION = "hiper", "apply"
    RETURN_TYPES = ("CONDITIONING",)
    DESCRIPTION = "Put the subject into a prompt. The negative prompt gets none."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        strength = {"default": 0.8, "min": -10.0, "max": 10.0, "step": 0.05}
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "tail": ("HIPER_TAIL",),
                "strength": ("FLOAT", strength),
                "placement": ([AS_FITTED, *PLACEMENTS],),
            }
        }

    def apply(self, conditioning: Any, tail: Tail, strength: float, placement: str) -> tuple[Any]:
        """Return a copy with the tail in it."""
        where = tail.placement if placement == AS_FITTED else _placement(placement)
        return (place_tail(conditioning, tail, strength, where),)


class FitTail:
    """Learn a subject from one picture and its caption."""

    CATEGORY, FUNCTION = "hiper", "fit"
    RETURN_TYPES, RETURN_NAMES = ("HIPER_TAIL",), ("tail",)
    DESCRIPTION = (
        "Learn the subject of one picture; the model stays as it is. Cancel stops between two steps."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        rate = {"default": 0.05, "min": 1e-6, "max": 1.0, "step": 1e-6, "round": False}
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "vae": ("VAE",),
                "image": ("IMAGE",),
                "caption": ("STRING", {"multiline": True, "default": "a standing dog"}),
                "size": ("INT", {"default": 512, "min": 0, "max": 2048, "step": 8, "tooltip": "0: as it is"}),
                "rows": ("INT", {"default": 5, "min": 1, "max": 64}),
                "placement": (list(PLACEMENTS),),
                "steps": ("INT", {"default": 200, "min": 1, "max": 100_000}),
                "batch": ("INT", {"default": 4, "min": 1, "max": 64}),
                "learning_rate": ("FLOAT", rate),
                "seed": ("INT", _SEED),
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
        """Return the tail; ComfyUI's own exception when the user cancels."""
        import comfy.model_management as management
        import comfy.utils

        recipe = Recipe(rows, steps, batch, learning_rate, _placement(placement), seed)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        header(recipe, conditioning[0][0].shape[-1], caption, (0.0, 0.0))  # refuse before the work
        picture = square(image, size)
        latent = vae.encode(picture)
        management.load_models_gpu([model])
        bar, losses = comfy.utils.ProgressBar(steps), list[float]()

        def tick(step: int, loss: float) -> None:
            management.throw_exception_if_processing_interrupted()
            losses.append(loss)
            bar.update(1)

        with trainable(model.model):
            own = ordinary(conditioning)[0]
            own[0] = own[0].to(model.load_device)
            scaled = model.model.process_latent_in(latent.detach().clone().to(model.load_device).float())
            options = dict(model.model_options.get("transformer_options", {}))
            objective = Objective(model.model, scaled, own, (picture.shape[2], picture.shape[1]), options)
            fitted = fit(objective, own, recipe, tick)
        told = header(recipe, fitted.shape[1], caption, (losses[0], losses[-1]))
        return (Tail(fitted, told),)


class SaveTail:
    """Keep a tail in models/hiper."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "hiper", "save", True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    DESCRIPTION = "Save a tail to models/hiper; hiper itself and diffusers read the same file."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"tail": ("HIPER_TAIL",), "name": ("STRING", {"default": "tail"})}}

    def save(self, tail: Tail, name: str) -> dict[str, Any]:
        """Write a new file and show its name."""
        path = save_tail(tail, _folder(), name)
        return {"ui": {"text": [path.name]}}


NODE_CLASS_MAPPINGS = {
    "HiperLoadTail": LoadTail,
    "HiperApplyTail": ApplyTail,
    "HiperFitTail": FitTail,
    "HiperSaveTail": SaveTail,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HiperLoadTail": "Load Tail (HiPer)",
    "HiperApplyTail": "Apply Tail (HiPer)",
    "HiperFitTail": "Fit Tail (HiPer)",
    "HiperSaveTail": "Save Tail (HiPer)",
}
