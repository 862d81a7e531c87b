from lightning.pytorch.loggers import WandbLogger

wandb_logger = WandbLogger(
    project="my-project",
    name="run-name",
    log_model="all",  # Log checkpoints
)

trainer = L.Trainer(logger=wandb_logger)

# Log additional artifacts
wandb_logger.experiment.log({"confusion_matrix": wandb.plot.confusion_matrix(...)})
