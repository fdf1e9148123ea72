"""What is wrong with this installation, why it matters, and the command that repairs it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
