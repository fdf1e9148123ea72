"""Diffusion models, one module per family: loading, checking, offloading, schedules and sampling."""

import logging

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# diffusers imports it wherever it is installed, and at that it warns of kernels that nobody has asked for
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
