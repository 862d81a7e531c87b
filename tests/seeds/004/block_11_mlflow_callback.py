from formed.integrations.torch import MlflowCallback

callback = MlflowCallback()

trainer = TorchTrainer(
    ...,
    callbacks=[callback],
)
