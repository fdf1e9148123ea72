"""Suites of subjects and edits, the arms that are compared on them, and reports of the scores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
