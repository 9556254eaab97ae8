"""``dask worker`` whose processes are forked from one that has imported everything, so that killing many is cheap."""

from __future__ import annotations

import multiprocessing

if __name__ == "__main__":
    import dask
    import distributed.utils
    from distributed.cli.dask_worker import main

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    multiprocessing.get_context("forkserver").set_forkserver_preload(["distributed", "tests.faults.site"])
    distributed.utils._forkserver_preload_set = True
    main()
