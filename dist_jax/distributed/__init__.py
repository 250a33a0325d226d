"""Device mesh and shardings, multi-host start-up, preemption."""
