"""`import mtrl_jax.surgery` is cheap and brings nothing of the rest of the package."""

import os
import subprocess
import sys

PROGRAM = """
import sys, time
import jax, optax, numpy
before = set(sys.modules)
start = time.process_time()
import mtrl_jax.surgery
cost = time.process_time() - start
new = {name.split('.')[0] if not name.startswith('mtrl_jax') else '.'.join(name.split('.')[:2])
       for name in set(sys.modules) - before}
print(cost, *sorted(new))
"""


def test_cost_and_contents(tmp_path):
    # What an import costs is asked with bytecode kept, as interpreters do unless told not to.
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    costs = []
    for _ in range(4):  # processor time, the best of four: other work on the machine is not ours
        out = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=env
        )
        cost, *modules = out.stdout.split()
        third_party = {m for m in modules if m not in sys.stdlib_module_names}
        assert third_party == {"mtrl_jax", "mtrl_jax.surgery"}
        costs.append(float(cost))
        if min(costs) < 0.1:
            break
    assert min(costs) < 0.1
