from formed.integrations.torch import EarlyStoppingCallback

callback = EarlyStoppingCallback(
    patience=5,              # Number of evaluations without improvement
    metric="-loss",          # Metric to monitor (- prefix for minimization)
    min_delta=0.0,          # Minimum change to qualify as improvement
    restore_best_weights=True,  # Restore model to best state
)

trainer = TorchTrainer(
    ...,
    callbacks=[callback],
)
