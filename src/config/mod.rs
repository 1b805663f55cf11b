//! config.yaml: the model, reading it with exact errors, and watching it.
