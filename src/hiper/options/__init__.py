"""Options of all kinds: their checks, the settings of a drawing, names, the key of a result, determinism."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
