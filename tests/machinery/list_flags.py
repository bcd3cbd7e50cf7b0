"""Prints the flags in the --help of each module named, a line of JSON each.

What they share is imported once, and each runs in a fork: binaries define equal flags.
"""

import contextlib
import io
import json
import os
import re
import runpy
import sys

import flax.linen  # noqa: F401
import jax  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import orbax.checkpoint  # noqa: F401

for module in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = [module, "--help"]
        text = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        flags = re.findall(r"--(?:\[no\])?([a-z]\w*)", text.getvalue())
        print(json.dumps([module, sorted(set(flags))]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{module} cannot be run")
