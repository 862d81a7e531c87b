from tracelet.settings import TraceletSettings

# Configure PyTorch framework behavior
settings = TraceletSettings(
    project="pytorch_config",
    backend=["mlflow"],
    # Framework-specific settings would go here if supported
)

tracelet.start_logging(
    exp_name="configured_pytorch",
    settings=settings
)
