optimizer = torchium.optimizers.DifferentialEvolution(
    model.parameters(),
    population_size=30,
    mutation_factor=0.8,
    crossover_probability=0.9,
    max_generations=1000
)
