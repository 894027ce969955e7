"""gnet and its peers side by side: `python -m loadtests.compare` (`make compare`)."""
