"""Edits: any sentence with what was learnt, searched over seeds, previewed, and repeated from a PNG."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
