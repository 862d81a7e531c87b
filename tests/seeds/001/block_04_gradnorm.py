optimizer = torchium.optimizers.GradNorm(
    model.parameters(),
    lr=1e-3,
    alpha=1.5  # Restoring force hyperparameter
)
