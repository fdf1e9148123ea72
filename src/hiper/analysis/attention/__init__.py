"""Which tokens a picture attends to while it is drawn, and where: capture, figures, and a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
