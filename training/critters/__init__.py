"""The training recipe of the embedded model, from scratch: ``python -m training.critters --out DIR``."""
