"""Scores of an edit; each module states direction, range, unit and reference."""
