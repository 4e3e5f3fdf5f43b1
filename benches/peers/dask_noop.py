"""No-op functions on Dask: dask_noop.py TASKS RUNS WORKERS prints `SECONDS CPU_SECONDS` per run."""
import sys
import time

from dask.distributed import Client, LocalCluster

from common import cpu_seconds


def noop(_):
    return None


if __name__ == "__main__":
    tasks, runs, workers = (int(word) for word in sys.argv[1:4])
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            client.gather(client.map(noop, range(2000), pure=False))
            for _ in range(runs):
                before, begun = cpu_seconds(), time.perf_counter()
                client.gather(client.map(noop, range(tasks), pure=False))
                print(time.perf_counter() - begun, cpu_seconds() - before, flush=True)
