"""`fanlight study DATA`: which parallelization pays on these images and this machine, how far, and what eats the rest.

grid.py says what is measured, runner.py runs it (job.py and probe.py on ranks), attribution.py divides a step's time,
result.py puts points together, verdict.py says what they mean, folder.py keeps all of it, study.py is the command."""
