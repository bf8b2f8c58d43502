"""Running the items of a stage: plan from fingerprints, child processes, local or on a Dask cluster, run ledger."""
