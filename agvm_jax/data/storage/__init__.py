"""Prepared splits on disk."""
