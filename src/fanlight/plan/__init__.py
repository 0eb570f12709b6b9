"""The plan and the what-if: what a layout would cost here, or on machines that a file describes, before anything trains.

cluster.py what machines are, cost.py seconds of what they do, blocks.py what a network asks of them, program.py one step as
operations, simulate.py when each of them happens. measure.py calibrates, memory.py counts bytes, choose.py compares, trial.py
tries the best, choice.py takes one.
"""
