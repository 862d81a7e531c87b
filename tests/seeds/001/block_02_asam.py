optimizer = torchium.optimizers.ASAM(
    model.parameters(),
    lr=1e-3,
    rho=0.5,  # Initial perturbation radius
    eta=0.01  # Adaptation rate
)
