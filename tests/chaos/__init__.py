"""Gateway and worker killed at every step of a job's life, at random under load, and stopped past their leases."""
