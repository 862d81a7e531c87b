from ray import tune
from ray.tune.integration.pytorch_lightning import TuneReportCallback

def train_fn(config):
    model = LitModel(lr=config["lr"], hidden_dim=config["hidden_dim"])
    dm = MyDataModule(batch_size=config["batch_size"])

    trainer = L.Trainer(
        max_epochs=50,
        callbacks=[TuneReportCallback({"loss": "val_loss"}, on="validation_end")],
    )
    trainer.fit(model, datamodule=dm)

analysis = tune.run(
    train_fn,
    config={
        "lr": tune.loguniform(1e-5, 1e-2),
        "hidden_dim": tune.choice([64, 128, 256, 512]),
        "batch_size": tune.choice([16, 32, 64]),
    },
    num_samples=50,
    resources_per_trial={"gpu": 1},
)
