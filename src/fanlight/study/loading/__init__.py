"""The study of loading, `run.study`. Nothing is imported here: worker processes of `naive` come through this package, and
would import torch with it."""
