"""The stream of rows that a pool of actors is fed.

Only what streams imports Ray Data, which takes as long as all of a small model.
"""

from __future__ import annotations

import logging
import warnings

import ray.data

from raylens_jobs.cluster import is_verbose
from raylens_jobs.workers import READER_CPUS


def stream(source: ray.data.Datasource) -> ray.data.Dataset:
    """Rows of ``source``, read by one task beside the actors that they go to, each as soon as it is there."""
    context = ray.data.DataContext.get_current()
    if not is_verbose():
        # It talks about itself on stderr, where progress is. Errors too: it logs the trace of each one that it also
        # raises, and a failure is one line here.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context.issue_detectors_config.detectors = []
        # Of few rows some actors get none, which is no mistake of whoever asked for few.
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    context.enable_progress_bars = False
    # Blocks of one row leave the reader as they are made; by default Ray would gather up to 128 MB.
    context.target_max_block_size = 1
    # By default an actor's error reaches us as "UDF failed", its cause lost in pickling, and its remedy with it.
    context.raise_original_map_exception = True
    return ray.data.read_datasource(source, override_num_blocks=1, num_cpus=READER_CPUS)
