optimizer = torchium.optimizers.ParticleSwarmOptimization(
    model.parameters(),
    swarm_size=20,
    inertia_weight=0.9,
    cognitive_weight=2.0,
    social_weight=2.0,
    max_iterations=1000
)
