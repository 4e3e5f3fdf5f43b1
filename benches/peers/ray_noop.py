"""No-op functions on Ray: ray_noop.py TASKS RUNS WORKERS prints `SECONDS CPU_SECONDS` per run."""
import sys
import time

import ray

from common import cpu_seconds

tasks, runs, workers = (int(word) for word in sys.argv[1:4])
ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)


@ray.remote
def noop(_):
    return None


ray.get([noop.remote(i) for i in range(2000)])
for _ in range(runs):
    before, begun = cpu_seconds(), time.perf_counter()
    ray.get([noop.remote(i) for i in range(tasks)])
    print(time.perf_counter() - begun, cpu_seconds() - before, flush=True)
ray.shutdown()
