trainer = TorchTrainer(
    ...,
    distributor=distributor,
)
