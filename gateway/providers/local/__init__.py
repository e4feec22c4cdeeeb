"""A worker on the same machine, or on one that the operator manages."""
