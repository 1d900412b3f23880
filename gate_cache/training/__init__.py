"""Stage 2: training on a store, sweeps, evaluation, prediction. Floor 6, above extraction."""
