"""Prefect flows: the whole pipeline, its halves, and one stage alone."""
