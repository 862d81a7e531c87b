# CMA-ES for non-convex optimization
optimizer = torchium.optimizers.CMAES(
    model.parameters(),
    population_size=20,
    sigma=0.1,
    max_generations=1000
)

# Training loop for CMA-ES
for generation in range(1000):
    optimizer.step()
    if optimizer.should_stop():
        break
