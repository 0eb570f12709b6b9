"""Fanlight trains image models in parallel: a folder of images in, a trained, evaluated classifier out."""

__version__ = "0.1.0"
