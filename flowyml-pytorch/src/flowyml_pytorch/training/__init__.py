"""What trains a model, taken apart and put together: optimizers, schedulers, loaders, samplers."""
