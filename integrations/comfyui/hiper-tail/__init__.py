"""Nodes of hiper for ComfyUI: learn one subject from one picture, and let any sentence draw it."""

from .hiper_tail.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, prepare_folder

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

prepare_folder()
