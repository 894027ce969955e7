"""The parts of `python -m gnet bench`: plan, load, processes, summary, drawing."""
