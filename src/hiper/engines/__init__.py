"""How tasks get to workers, each of which holds a model: this process, others, or Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
