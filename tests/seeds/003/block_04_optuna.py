import optuna
from optuna.integration import PyTorchLightningPruningCallback

def objective(trial):
    # Suggest hyperparameters
    lr = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
    hidden_dim = trial.suggest_int("hidden_dim", 64, 512)
    dropout = trial.suggest_float("dropout", 0.1, 0.5)

    model = LitModel(lr=lr, hidden_dim=hidden_dim, dropout=dropout)
    dm = MyDataModule()

    trainer = L.Trainer(
        max_epochs=50,
        callbacks=[
            PyTorchLightningPruningCallback(trial, monitor="val_loss"),
            EarlyStopping(monitor="val_loss", patience=3),
        ],
        enable_progress_bar=False,
    )

    trainer.fit(model, datamodule=dm)
    return trainer.callback_metrics["val_loss"].item()

study = optuna.create_study(direction="minimize")
study.optimize(objective, n_trials=100)

print(f"Best trial: {study.best_trial.params}")
