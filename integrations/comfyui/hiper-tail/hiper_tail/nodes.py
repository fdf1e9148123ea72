"""The nodes that read, place and save a tail. ComfyUI's own modules are imported when a node runs, not before."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from .fit_node import FitTail
from .keep_node import Keep, TailSource
from .placing import place_tail
from .saving import destination, save_tail
from .tail import PLACEMENTS, Tail, load_tail

FOLDER = "hiper"
AS_FITTED = "as fitted"


def tails_folder() -> Path:
    """Return models/hiper: in models/embeddings, tails would be taken for words."""
    import folder_paths

    own = Path(folder_paths.models_dir) / FOLDER
    folder_paths.add_model_folder_path(FOLDER, str(own))
    return own


def prepare_folder() -> None:
    """Create models/hiper when ComfyUI starts, so that people find where to put files."""
    if "folder_paths" in sys.modules:
        tails_folder().mkdir(parents=True, exist_ok=True)


def _tail_path(file: str) -> Path:
    import folder_paths

    tails_folder()
    return Path(folder_paths.get_full_path_or_raise(FOLDER, file))


def _is_shown(name: str) -> bool:
    file = name.replace("\\", "/").rpartition("/")[2]
    return file.lower().endswith(".safetensors") and not file.startswith(".")


class LoadTail:
    """A file of models/hiper."""

    CATEGORY, FUNCTION = "hiper", "load"
    RETURN_TYPES, RETURN_NAMES = ("HIPER_TAIL", "STRING"), ("tail", "caption")
    OUTPUT_TOOLTIPS = ("For Apply Tail.", "The sentence that described the picture when the tail was fitted.")
    DESCRIPTION = "Load what hiper learnt of a subject; put its file into models/hiper."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        import folder_paths

        tails_folder()
        files = [name for name in folder_paths.get_filename_list(FOLDER) if _is_shown(name)]
        tooltip = "A file of models/hiper, written by Save Tail or by `hiper fit`. Press R to see new files."
        return {"required": {"file": (files, {"tooltip": tooltip})}}

    @classmethod
    def IS_CHANGED(cls, file: str) -> str:  # noqa: N802
        """Return a hash of the content: a file may be overwritten under its name."""
        return hashlib.sha256(_tail_path(file).read_bytes()).hexdigest()

    def load(self, file: str) -> tuple[Tail, str]:
        """Return the tail and the caption it was fitted with."""
        tail = load_tail(_tail_path(file))
        return tail, tail.header.get("hiper.caption", "")


class ApplyTail:
    """A sentence's conditioning, with the subject in it."""

    CATEGORY, FUNCTION = "hiper", "apply"
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("For the sampler's positive input.",)
    DESCRIPTION = "Put the subject into a prompt. The negative prompt gets none."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        strength = {
            "default": 0.8,
            "min": -10.0,
            "max": 10.0,
            "step": 0.05,
            "tooltip": "How much of the subject: 0.8 suits most, 1 is as fitted, 0 bypasses this node.",
        }
        where = (
            "replace: instead of the last token embeddings, padding unless the prompt is long. append: behind all,"
            " so that no word is lost. as fitted: what the file says."
        )
        return {
            "required": {
                "conditioning": (
                    "CONDITIONING",
                    {"tooltip": "The prompt; of several regions, each gets the tail."},
                ),
                "tail": ("HIPER_TAIL", {"tooltip": "From Load Tail or Fit Tail, of the same kind of model."}),
                "strength": ("FLOAT", strength),
                "placement": ([AS_FITTED, *PLACEMENTS], {"tooltip": where}),
            }
        }

    def apply(self, conditioning: Any, tail: Tail, strength: float, placement: str) -> tuple[Any]:
        """Return a copy with the tail in it.

        Raises:
            ValueError: the tail does not suit the conditioning, or was fitted for a place that only hiper knows.
        """
        where = tail.placement if placement == AS_FITTED else placement
        if where not in PLACEMENTS:
            raise ValueError(
                f"the tail was fitted with placement={where[:20]}, which these nodes do not know; choose"
                f" {' or '.join(PLACEMENTS)} here, or fit with one of them"
            )
        return (place_tail(conditioning, tail, strength, "append" if where == "append" else "replace"),)


class SaveTail:
    """Keep a tail in models/hiper."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "hiper", "save", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("file",)
    OUTPUT_TOOLTIPS = ("The file's name in models/hiper, as Load Tail lists it.",)
    DESCRIPTION = "Save a tail to models/hiper; hiper itself and diffusers read the same file."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        tooltip = (
            "NAME gives NAME_00001.safetensors, or the next free number; SUBJECT/NAME a folder of its own."
        )
        return {
            "required": {
                "tail": ("HIPER_TAIL", {"tooltip": "From Fit Tail."}),
                "name": ("STRING", {"default": "tail", "tooltip": tooltip}),
            },
            "optional": {
                "source": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Save the picture's latents too, for Tail Source and `hiper edit --keep`; the"
                        " picture can be decoded from them.",
                    },
                )
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:  # noqa: N802
        """Refuse a bad name before the fit; one that another node makes is not known yet."""
        try:
            if name is not None:
                destination(tails_folder(), name)
        except ValueError as error:
            return str(error)
        return True

    def save(self, tail: Tail, name: str, source: bool = True, node_id: str | None = None) -> dict[str, Any]:
        """Write a new file, and return and show its name."""
        folder = tails_folder()
        tail = tail if source else replace(tail, source=None)
        saved = save_tail(tail, folder, name).relative_to(folder).as_posix()
        _show(saved, node_id)
        return {"ui": {"text": [saved]}, "result": (saved,)}


def _show(text: str, node_id: str | None) -> None:
    """Show a line on the node, where the server can."""
    from server import PromptServer

    server: Any = getattr(PromptServer, "instance", None)
    if node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


NODE_CLASS_MAPPINGS = {
    "HiperLoadTail": LoadTail,
    "HiperApplyTail": ApplyTail,
    "HiperFitTail": FitTail,
    "HiperSaveTail": SaveTail,
    "HiperKeep": Keep,
    "HiperTailSource": TailSource,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HiperLoadTail": "Load Tail (HiPer)",
    "HiperApplyTail": "Apply Tail (HiPer)",
    "HiperFitTail": "Fit Tail (HiPer)",
    "HiperSaveTail": "Save Tail (HiPer)",
    "HiperKeep": "Keep (HiPer)",
    "HiperTailSource": "Tail Source (HiPer)",
}
