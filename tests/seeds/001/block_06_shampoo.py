optimizer = torchium.optimizers.Shampoo(
    model.parameters(),
    lr=1e-3,
    momentum=0.9,
    weight_decay=1e-4,
    epsilon=1e-4,
    update_freq=1
)
