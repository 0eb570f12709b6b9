"""Whole trainings side by side: their data, their processes, their order, their numbers. Used by `main_job.py`."""
