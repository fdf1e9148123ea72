"""Atomic writes, locks, kinds of files, and the reader of safetensors files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
