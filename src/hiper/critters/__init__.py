"""The embedded model: a procedural world of small animals, its training recipe and its weights."""
