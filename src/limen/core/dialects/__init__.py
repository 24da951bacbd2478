"""Documents to model, one file per family. Imports `core/model` only."""
