"""These files run in the server's environment, with packages that the tests' own does not have."""

collect_ignore = ["actors.py", "api.py", "run.py"]
