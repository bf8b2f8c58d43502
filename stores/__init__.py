"""The stores: where the pipeline and the trainer meet."""
