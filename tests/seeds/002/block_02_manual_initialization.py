from tracelet.frameworks.pytorch import PyTorchFramework
from tracelet.core.experiment import Experiment
import tracelet

# Manual framework setup
exp = tracelet.start_logging(
    exp_name="manual_pytorch",
    project="framework_demo",
    backend="mlflow"
)

# Get the PyTorch framework instance
pytorch_framework = exp._frameworks.get("pytorch")  # Internal access

# Or initialize separately
framework = PyTorchFramework(patch_tensorboard=True)
framework.initialize(exp)
framework.start_tracking()
