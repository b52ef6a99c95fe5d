"""Ray pipelines, one file a stage."""
