from formed.integrations.torch import DefaultTorchTrainingEngine
import torch.optim as optim

engine = DefaultTorchTrainingEngine(
    optimizer=optim.Adam,           # Optimizer class or factory
    optimizer_params={"lr": 1e-3},  # Optimizer parameters
    lr_scheduler=optim.lr_scheduler.StepLR,  # Optional scheduler
    lr_scheduler_params={"step_size": 10, "gamma": 0.1},
    loss="loss",                    # Accessor for loss in model output
    max_grad_norm=1.0,             # Optional gradient clipping
    accumulation_steps=1,          # Gradient accumulation steps
)
