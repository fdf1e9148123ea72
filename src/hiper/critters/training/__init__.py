"""The training recipe of the embedded model, from scratch: ``python -m hiper.critters.training --out DIR``."""
