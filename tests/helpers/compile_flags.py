"""XLA flags of the tests. This module imports nothing: the flags must be set before JAX starts."""

# Most of the test time is compilation, and the compiled code runs for milliseconds. Without the fusion emitters a
# training step compiles in a third of the time.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
