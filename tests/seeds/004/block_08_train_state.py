@dataclasses.dataclass
class TrainState:
    model: BaseTorchModel           # The model being trained
    optimizer: IOptimizer           # Optimizer instance
    lr_scheduler: ILRScheduler | None  # Optional LR scheduler
    step: int = 0                   # Global step counter
    epoch: int = 0                  # Current epoch
    best_metric: float | None = None   # Best validation metric
    metadata: dict[str, Any] = field(default_factory=dict)  # Custom metadata
