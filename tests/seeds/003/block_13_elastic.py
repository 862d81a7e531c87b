# Handles node failures in multi-node training
trainer = L.Trainer(
    plugins=[TorchElasticEnvironment()],
)
