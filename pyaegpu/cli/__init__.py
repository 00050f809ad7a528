"""The command line: `pyaegpu …` and `python -m pyaegpu …`."""
