//! Numbers people can rely on: benchmarks, metrics, statistics, judges and human comparisons.
