"""The file that a fit writes: its header, sharing it, a library of such files, combining and importing them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
