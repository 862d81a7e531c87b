from formed.integrations.torch import TorchTrainer, DefaultTorchTrainingEngine
from formed.integrations.ml import DataLoader, BasicBatchSampler
import torch.optim as optim

# Setup data loaders
train_loader = DataLoader(
    sampler=BasicBatchSampler(batch_size=32, shuffle=True),
    collator=datamodule.batch,
)

val_loader = DataLoader(
    sampler=BasicBatchSampler(batch_size=64),
    collator=datamodule.batch,
)

# Create engine
engine = DefaultTorchTrainingEngine(
    optimizer=optim.Adam,
    optimizer_params={"lr": 1e-3},
)

# Create trainer
trainer = TorchTrainer(
    train_dataloader=train_loader,
    val_dataloader=val_loader,
    engine=engine,
    max_epochs=10,
    eval_strategy="epoch",      # Evaluate every N epochs
    eval_interval=1,
    logging_strategy="step",    # Log every N steps
    logging_interval=100,
)

# Train model
state = trainer.train(model, train_instances, val_instances)
